"""docs/headline.md says how far tuning moved the baselines of the headline, from published runs."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tta_bench.statistics import paired_difference
from tta_bench.store import find_runs, load_group
from tta_bench.store.tuning import read_choices

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "headline.md").read_text(encoding="utf-8")
KINDS = ("npm", "pypi", "debian", "wikitext")
CACHE = {"headline": "neural-cache:weight=0.2", "headline-smollm2": "neural-cache:weight=0.05"}
DYNAMIC = {"headline": "dynamic-eval:lr=0.0001", "headline-smollm2": "dynamic-eval:lr=0.0002"}
MODEL = {"headline": "builtin:tiny", "headline-smollm2": "smollm2-135m"}


@cache
def runs_of(*groups):
    """The runs of groups by kind of text and method."""
    stored = [r for g in groups for r in load_group(find_runs(g, ROOT / "results", published=True))]
    return {(kind_of(run.manifest["dataset"]["spec"]), run.spec): run for run in stored}


def kind_of(spec):
    return spec.removeprefix("lf:").split(":")[0].removesuffix("-2-valid")


def tuned(name):
    """The runs with what was chosen: of `headline` these alone are published."""
    if name == "headline":
        return runs_of("headline", "headline-wikitext")
    return runs_of(f"{name}-tuned")


def line(label, mine, theirs):
    cells = [label]
    for kind in KINDS:
        one, other = (runs.get((kind, spec)) for runs, spec in (mine, theirs))
        if one is None or other is None:
            cells.append("—")
            continue
        found = paired_difference(one.rows, other.rows)
        low, high = found.interval
        cells.append(f"{found.delta:+.3f} ±{(high - low) / 2:.3f}")
    return f"| {' | '.join(cells)} |"


def test_how_far_the_baselines_moved():
    lines = []
    for name, cache_row in CACHE.items():
        weight, model, new = cache_row[-4:].lstrip("="), MODEL[name], tuned(name)
        if name != "headline":
            moved = f"`neural-cache`, weight {weight} for 0.1, {model}"
            lines.append(line(moved, (new, cache_row), (runs_of(name), "neural-cache")))
        for other in (cache_row, DYNAMIC[name]):
            lines.append(line(f"`fwl` minus `{other}`, {model}", (new, "fwl"), (new, other)))
    (table,) = re.findall(r"<!-- moved -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert table.strip().split("\n")[2:] == lines


def test_the_steps_of_dynamic_evaluation_lie_inside_their_scales():
    for name, chosen in DYNAMIC.items():
        folder = find_runs(f"{name}-tuning", ROOT / "results", published=True)
        (found,) = [one for one in read_choices(folder) if one.method == "dynamic-eval"]
        assert (found.chosen, found.parameters[0].edge) == (chosen, None)


def test_every_run_is_valid():
    for name in CACHE:
        assert all(run.summary["valid"] is True for run in tuned(name).values())
