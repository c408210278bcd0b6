"""docs/oracle.md says what the methods remember, from the stored runs of the suite `recall`."""

from __future__ import annotations

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
    return [line for line in table.splitlines() if line.startswith("| `") and "` |" in line][1:]


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
