"""docs/oracle.md says what the methods remember, from the stored runs of the suite `recall`."""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

from tta_bench.statistics.answers import Recalled, recalled, recalled_by_lag
from tta_bench.statistics.paired import Estimate
from tta_bench.store import Run, find_runs, load_group

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/oracle.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
STREAMS = ("oracle:recall:pairs=8", "oracle:recall:pairs=32", "oracle:copy:lag=256")
LAGS = [128, 256, 512, 1024]


@cache
def stored() -> dict[str, dict[str, Run]]:
    """Runs by dataset and method; all text is one dataset."""
    found: dict[str, dict[str, Run]] = {}
    for run in load_group(find_runs("recall-tiny", ROOT / "results", published=True)):
        assert run.summary["valid"] is True
        spec = str(run.manifest["dataset"]["spec"])
        found.setdefault(spec if spec in STREAMS else "planted", {})[run.spec] = run
    return found


def of(dataset: str, method: str) -> Recalled:
    found = recalled(stored()[dataset][method])
    assert found is not None
    return found


def exact(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def shown(estimate: Estimate | None) -> str:
    """With half the interval."""
    assert estimate is not None
    assert estimate.interval is not None
    low, high = estimate.interval
    return f"{estimate.value:+.2f} ±{(high - low) / 2:.2f}"


def lines(name: str) -> list[str]:
    """The rows of a table on the page."""
    (table,) = re.findall(rf"<!-- {name} -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [line for line in rows if not line.startswith("| `builtin:tiny`")]


def test_the_table_of_streams() -> None:
    expected = []
    for method in stored()[STREAMS[0]]:
        cells = []
        for dataset in STREAMS:
            found = of(dataset, method)
            cells.append(f"{found.nll.value:.2f}, {exact(found.exact):.2f}")
        expected.append(f"| `{method}` | {' | '.join(cells)} |")
    assert lines("recall") == expected


def test_the_table_of_planted_sentences() -> None:
    expected = []
    for method, run in stored()["planted"].items():
        lags = recalled_by_lag(run)
        assert [one.low for one in lags] == LAGS
        cells = [shown(one.gained) for one in lags]
        cells += [f"{exact(one.exact):.2f} ({exact(one.control_exact):.2f})" for one in lags]
        expected.append(f"| `{method}` | {' | '.join(cells)} |")
    assert lines("planted") == expected


def planted(method: str) -> list[Recalled]:
    return recalled_by_lag(stored()["planted"][method])


def span(values: list[float], decimals: int = 2) -> str:
    return f"{min(values):.{decimals}f} to {max(values):.{decimals}f}"


def percent(values: list[float]) -> str:
    return f"{100 * min(values):.0f} % to {100 * max(values):.0f} %"


def test_what_was_found() -> None:
    told = {m: [exact(one.exact) for one in planted(m)] for m in stored()["planted"]}
    untold = {m: [exact(one.control_exact) for one in planted(m)] for m in told}
    gains = {m: [exact(one.gained) for one in planted(m)] for m in told}
    assert f"`ngram` gives {percent(told['ngram'])} of the planted tokens at every lag" in TEXT
    assert all(0.495 < share < 0.525 for share in told["knn-lm"])
    assert f"`neural-cache` {percent(told['neural-cache'])}." in TEXT
    reach = {"window:context=256": 2, "tint": 2, "streaming-llm": 3}
    for method, lags in reach.items():
        assert min(told[method][:lags]) > 0.695
        assert max(told[method][lags:]) < 0.085
        assert max(gains[method][lags:]) < 0
    both = told["window:context=256"][:2] + told["streaming-llm"][:3]
    assert f"A context gives {percent(both)} as far as it reaches" in TEXT

    dynamic = "dynamic-eval:lr=0.0001"
    for method, name in (("regression", "`regression` makes a planted token"), (dynamic, "")):
        assert f"{name} {span(gains[method])} nats".strip() in TEXT
        assert percent(told[method]) in TEXT
    assert f"untold, both give {percent(untold['regression'] + untold[dynamic])}." in TEXT
    frozen, learned = of(STREAMS[1], "none"), of(STREAMS[1], dynamic)
    less = frozen.nll.value - learned.nll.value
    assert f"dynamic evaluation loses {less:.2f} nats less on an answer" in TEXT
    assert f"frozen model, and gives {1000 * exact(learned.exact):.0f} in 1,000." in TEXT

    few, many = (
        {method: exact(of(stream, method).exact) for method in stored()[stream]}
        for stream in STREAMS[:2]
    )
    assert max(few, key=few.__getitem__) == max(many, key=many.__getitem__) == "ngram"
    best = f"gives {100 * few['ngram']:.0f} % of the answers with 8 pairs and "
    assert best + f"{100 * many['ngram']:.0f} % with 32." in TEXT


FAR = ROOT / "docs/planted-by-lag.csv"
"""By method and lag, from losses that are too many to be published."""


def far() -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {}
    with FAR.open(newline="") as file:
        for row in csv.DictReader(file):
            method = row.pop("method")
            found.setdefault(method, []).append({name: float(row[name]) for name in row})
    return found


def test_the_table_of_far_lags() -> None:
    cells = {
        method: [f"{row['gain']:+.2f} ±{row['gain_half_width']:.2f}" for row in rows]
        for method, rows in far().items()
    }
    assert lines("far") == [f"| `{method}` | {' | '.join(row)} |" for method, row in cells.items()]
    assert all(
        [row["lag"] for row in rows] == [2**n for n in range(10, 17)] for rows in far().values()
    )


def test_the_far_run_is_published_and_valid() -> None:
    group = load_group(find_runs("planted", ROOT / "results", published=True))
    assert [run.spec for run in group] == list(far())
    assert all(run.summary["valid"] is True for run in group)


def test_what_was_found_far_back() -> None:
    found = far()
    dynamic, sums = found["dynamic-eval:lr=0.0001"], found["regression"]
    gains = span([row["gain"] for row in dynamic])
    assert f"Dynamic evaluation gains {gains} nats on an answer's tokens at every lag" in TEXT
    assert all(row["gain"] > row["gain_half_width"] for row in dynamic)
    told, untold = (percent([row[name] for row in dynamic]) for name in ("exact", "control_exact"))
    assert f"It gives {told} of them, {untold} where they had never been told." in TEXT
    assert f"forget nothing, gains {span([row['gain'] for row in sums])} (at 65,536" in TEXT
    assert [row["gain"] < row["gain_half_width"] for row in sums] == [False] * 6 + [True]
    for method, reach in (("neural-cache", 1), ("knn-lm", 1), ("ngram", 2)):
        gained = [row["gain"] > row["gain_half_width"] for row in found[method]]
        assert gained == [True] * reach + [False] * (7 - reach)
