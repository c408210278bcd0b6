"""docs/fast-weights.md says what trained heads gain, from the stored runs of the suite `heads`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tta_bench.statistics.paired import paired_difference
from tta_bench.store import Run, find_runs, load_group

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/fast-weights.md").read_text(encoding="utf-8")
TEXTS = ("lf", "pypi", "debian", "wikitext")
"""Books, code, manuals, and a folder of articles."""

HEADS = (
    "linear-attention",
    "gated-delta",
    "mesa",
    "delta",
    "lattice",
    "ttt-linear",
    "ttt-mlp",
    "titans",
)
TUNED = "dynamic-eval:lr=0.0001"
WIDE = "linear-attention:heads=2,width=256"
INPUTS = "delta:labels=no"
NAMES = {
    "tiny-linear-attention-wide": WIDE,
    "tiny-delta-inputs": INPUTS,
    "tiny-delta-seed-2": "delta, seed 2",
    "tiny-delta-seed-3": "delta, seed 3",
}
"""Rows whose weights do not come along, by the training that the weights are from."""
PAIRS = (
    ("delta", INPUTS),
    ("delta", "linear-attention"),
    ("gated-delta", "linear-attention"),
    ("gated-delta", "delta"),
    ("mesa", "gated-delta"),
    ("lattice", "delta"),
    ("ttt-linear", "delta"),
    ("ttt-mlp", "ttt-linear"),
    (WIDE, "linear-attention"),
    ("ttt-mlp", WIDE),
    ("regression", "ttt-mlp"),
)


@cache
def stored() -> dict[tuple[str, str], Run]:
    """Runs by the first part of the dataset and the method."""
    found = {}
    for group in ("heads", "heads-wikitext"):
        for run in load_group(find_runs(group, ROOT / "results", published=True)):
            trained = re.search(r"results/train/([\w-]+)/", run.spec)
            spec = NAMES[trained[1]] if trained else run.spec
            found[str(run.manifest["dataset"]["spec"]).split(":")[0], spec] = run
    return found


def of(texts: str, method: str) -> Run:
    return stored()[texts, method]


def delta(texts: str, method: str, other: str) -> float:
    return paired_difference(of(texts, method).rows, of(texts, other).rows).delta


def control_of(texts: str, method: str) -> str:
    """A head's own control, or where it was not read the one that stands for all."""
    own = f"{method.split(':')[0]}:weights=control"
    return own if (texts, own) in stored() else "linear-attention:weights=control"


def cells(method: str, against: str | None = None) -> str:
    """The paired difference on every text to another row or the control, with half its interval."""
    found = []
    for texts in TEXTS:
        other = control_of(texts, method) if against is None else against
        if not {(texts, method), (texts, other)} <= stored().keys():
            found.append("—")
            continue
        pair = paired_difference(of(texts, method).rows, of(texts, other).rows)
        assert pair.interval is not None
        found.append(f"{pair.delta:+.3f} ±{(pair.interval[1] - pair.interval[0]) / 2:.3f}")
    return " | ".join(found)


def flops(method: str) -> float:
    return float(of("pypi", method).summary["flops_per_token"])


def costs(method: str) -> str:
    summary = of("pypi", method).summary
    ratio = flops(method) / flops("none")
    return f"{ratio:.2f} | {summary['state_bytes_per_lane'] / 1024:,.0f}"


def lines(name: str) -> list[str]:
    (table,) = re.findall(rf"<!-- {name} -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    return [line for line in table.splitlines() if line.startswith("| `")]


def test_all_runs_are_whole_and_valid() -> None:
    assert len(stored()) == 4 * 24 - 7  # on books no wide row, and two controls stand for all
    for run in stored().values():
        assert run.summary["status"] == "complete"
        assert run.summary["valid"] is True


def test_the_table_of_gains() -> None:
    expected = [
        f"| `{name}` | `none` | {costs(name)} | {cells(name, 'none')} |"
        for name in ("window:context=256", TUNED, "regression")
    ]
    expected += [
        f"| `{name}` | its control | {costs(name)} | {cells(name)} |" for name in (*HEADS, INPUTS)
    ]
    expected.append(f"| `{WIDE}` | `none` | {costs(WIDE)} | {cells(WIDE, 'none')} |")
    assert lines("heads") == expected


def test_the_table_of_ingredients() -> None:
    assert lines("ingredients") == [
        f"| `{one}` | `{other}` | {cells(one, other)} |" for one, other in PAIRS
    ]


def test_a_control_is_the_model_itself() -> None:
    (bound,) = re.findall(r"none by at most ([\d.]+) nats", PAGE)
    largest = max(
        abs(delta(texts, control_of(texts, name), "none")) for texts in TEXTS for name in HEADS
    )
    assert largest == pytest.approx(float(bound), abs=5e-5)


def test_the_share_of_dynamic_evaluation() -> None:
    found = re.findall(r"`ttt-mlp` recovers (\d+), (\d+), (\d+) and (\d+) %", PAGE)
    shares = [delta(t, "ttt-mlp", "none") / delta(t, TUNED, "none") for t in TEXTS]
    assert found == [tuple(f"{100 * share:.0f}" for share in shares)]
    cost, on_other = re.findall(r"for (\d+) % of its extra\s+FLOPs", PAGE)
    extra = (flops("ttt-mlp") - flops("none")) / (flops(TUNED) - flops("none"))
    assert f"{100 * extra:.0f}" == cost
    none, tuned, mlp = (
        float(on_smollm2()["pypi", name].summary["flops_per_token"])
        for name in ("none", SMOLLM2_TUNED, "ttt-mlp")
    )
    assert f"{100 * (mlp - none) / (tuned - none):.0f}" == on_other


def test_the_readme_says_what_the_gated_delta_rule_is_worth() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (said,) = re.findall(
        r"The gated delta rule is ([\d.]+) to ([\d.]+) nats a token better", readme
    )
    gains = [-delta(texts, "gated-delta", "linear-attention") for texts in TEXTS]
    assert said == (f"{min(gains):.2f}", f"{max(gains):.2f}")
    assert all(
        delta(texts, "regression", name) < 0 for texts in TEXTS if texts != "lf" for name in HEADS
    )


def test_how_far_seeds_are_apart() -> None:
    said = re.findall(r"gains ([\d.]+), ([\d.]+) and ([\d.]+) nats on (\w+)", PAGE)
    seeds = ("delta", "delta, seed 2", "delta, seed 3")
    expected = [
        (*(f"{-delta(texts, seed, 'none'):.3f}" for seed in seeds), kind)
        for texts, kind in (("pypi", "code"), ("debian", "manuals"))
    ]
    assert said == expected


SMOLLM2_TUNED = "dynamic-eval:lr=0.0002"
SMOLLM2_CONTROL = "linear-attention:weights=control"


@cache
def on_smollm2() -> dict[tuple[str, str], Run]:
    """Runs of SmolLM2-135M by the first part of the dataset and the method."""
    found = {}
    for group in ("heads-smollm2", "heads-smollm2-wikitext"):
        for run in load_group(find_runs(group, ROOT / "results", published=True)):
            assert run.summary["status"] == "complete"
            assert run.summary["valid"] is True
            found[str(run.manifest["dataset"]["spec"]).split(":")[0], run.spec] = run
    return found


def smollm2_delta(texts: str, method: str, other: str) -> float:
    runs = on_smollm2()
    return paired_difference(runs[texts, method].rows, runs[texts, other].rows).delta


def smollm2_line(method: str, other: str) -> str:
    runs, cells = on_smollm2(), []
    for texts in TEXTS:
        pair = paired_difference(runs[texts, method].rows, runs[texts, other].rows)
        assert pair.interval is not None
        cells.append(f"{pair.delta:+.3f} ±{(pair.interval[1] - pair.interval[0]) / 2:.3f}")
    summary, none = runs["pypi", method].summary, runs["pypi", "none"].summary
    ratio = summary["flops_per_token"] / none["flops_per_token"]
    state = f"{summary['state_bytes_per_lane'] / 1024:,.0f}"
    named = "its control" if other == SMOLLM2_CONTROL else f"`{other}`"
    return f"| `{method}` | {named} | {ratio:.2f} | {state} | {' | '.join(cells)} |"


def test_the_table_of_smollm2() -> None:
    rows = ("window:context=1024", SMOLLM2_TUNED, "regression", SMOLLM2_CONTROL)
    expected = [smollm2_line(method, "none") for method in rows]
    for method in ("ttt-linear", "ttt-mlp"):
        expected += [smollm2_line(method, other) for other in ("none", SMOLLM2_CONTROL)]
    assert lines("smollm2") == expected


def test_the_share_of_dynamic_evaluation_on_smollm2() -> None:
    found = re.findall(r"`ttt-mlp` has (\d+), (\d+), (\d+) and (\d+) % of that gain", PAGE)
    shares = [
        smollm2_delta(texts, "ttt-mlp", "none") / smollm2_delta(texts, SMOLLM2_TUNED, "none")
        for texts in TEXTS
    ]
    assert found == [tuple(f"{100 * share:.0f}" for share in shares)]


PLAIN = "tiny-fwl-plain"
RECIPES = ("running", "apart", "learned", "8k", "wide", "control", "wide-control")


def test_the_table_of_recipes() -> None:
    found = {}
    for run in load_group(find_runs("fwl-ingredients", ROOT / "results", published=True)):
        assert run.summary["valid"] is True
        trained = re.search(r"/([\w-]+)/weights", run.spec)
        name = trained[1] if trained else run.spec
        found[str(run.manifest["dataset"]["spec"]).split(":")[0], name] = run
    expected = []
    for recipe in RECIPES:
        name = f"tiny-fwl-{recipe}"
        book, code = (
            paired_difference(found[texts, name].rows, found[texts, PLAIN].rows)
            for texts in ("npm", "builtin")
        )
        assert code.interval is not None
        half = (code.interval[1] - code.interval[0]) / 2
        ratio = (
            found["builtin", name].summary["flops_per_token"]
            / found["builtin", PLAIN].summary["flops_per_token"]
        )
        expected.append(
            f"| `{name}` | {ratio:.2f} | {book.delta:+.3f} | {code.delta:+.3f} ±{half:.3f} |"
        )
    assert lines("recipes") == expected
