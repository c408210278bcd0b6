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
TEXTS = ("npm", "pypi", "debian", "wikitext")
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
PAIRS = (
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
            spec = WIDE if "wide" in run.spec else run.spec
            found[str(run.manifest["dataset"]["spec"]).split(":")[0], spec] = run
    return found


def of(texts: str, method: str) -> Run:
    return stored()[texts, method]


def delta(texts: str, method: str, other: str) -> float:
    return paired_difference(of(texts, method).rows, of(texts, other).rows).delta


def cells(method: str, other: str) -> str:
    """The paired difference on every text, with half its interval."""
    found = []
    for texts in TEXTS:
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
    assert len(stored()) == 4 * 21
    for run in stored().values():
        assert run.summary["status"] == "complete"
        assert run.summary["valid"] is True


def test_the_table_of_gains() -> None:
    expected = [
        f"| `{name}` | `none` | {costs(name)} | {cells(name, 'none')} |"
        for name in ("window:context=256", TUNED, "regression")
    ]
    expected += [
        f"| `{name}` | its control | {costs(name)} | {cells(name, f'{name}:weights=control')} |"
        for name in HEADS
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
        abs(delta(texts, f"{name}:weights=control", "none")) for texts in TEXTS for name in HEADS
    )
    assert largest == pytest.approx(float(bound), abs=5e-5)


def test_the_share_of_dynamic_evaluation() -> None:
    found = re.findall(r"`ttt-mlp` recovers (\d+), (\d+), (\d+) and (\d+) %", PAGE)
    shares = [delta(t, "ttt-mlp", "none") / delta(t, TUNED, "none") for t in TEXTS]
    assert found == [tuple(f"{100 * share:.0f}" for share in shares)]
    (cost,) = re.findall(r"for (\d+) % of its extra\s+FLOPs", PAGE)
    extra = (flops("ttt-mlp") - flops("none")) / (flops(TUNED) - flops("none"))
    assert f"{100 * extra:.0f}" == cost


def test_the_readme_says_what_the_gated_delta_rule_is_worth() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (said,) = re.findall(
        r"the gated delta rule is ([\d.]+) to ([\d.]+) nats a token better", readme
    )
    gains = [-delta(texts, "gated-delta", "linear-attention") for texts in TEXTS]
    assert said == (f"{min(gains):.2f}", f"{max(gains):.2f}")
    assert all(
        delta(texts, "regression", name) < 0 for texts in TEXTS if texts != "npm" for name in HEADS
    )
