"""docs/oracle.md says what the methods remember, as `docs/recalled.csv` has it.

The file holds what `show --curve` gives of the runs `recall-tiny` and `planted`, from the losses of
single tokens, which are too many to be published.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

import pytest

from tta_bench.store import find_runs, load_group

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/oracle.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
RECALLED = ROOT / "docs/recalled.csv"
STREAMS = ("oracle:recall:pairs=8", "oracle:recall:pairs=32", "oracle:copy:lag=256")
DYNAMIC = "dynamic-eval:lr=0.0001"

Values = dict[str, float]


@cache
def recalled(run: str, stream: str) -> dict[str, list[Values]]:
    """What each method recalled, by lag where sentences were planted."""
    found: dict[str, list[Values]] = {}
    with RECALLED.open(newline="") as file:
        for row in csv.DictReader(file):
            if (row.pop("run"), row.pop("stream")) == (run, stream):
                method = row.pop("method")
                found.setdefault(method, []).append({k: float(v) for k, v in row.items() if v})
    return found


def near() -> dict[str, list[Values]]:
    return recalled("recall-tiny", "planted")


def far() -> dict[str, list[Values]]:
    return recalled("planted", "planted")


def of(stream: str, method: str) -> Values:
    (found,) = recalled("recall-tiny", stream)[method]
    return found


def column(rows: list[Values], name: str) -> list[float]:
    return [row[name] for row in rows]


def gains(rows: list[Values]) -> list[str]:
    return [f"{row['gain']:+.2f} ±{row['gain_half_width']:.2f}" for row in rows]


def lines(name: str) -> list[str]:
    """The rows of a table on the page."""
    (table,) = re.findall(rf"<!-- {name} -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [line for line in rows if not line.startswith("| `builtin:tiny`")]


@pytest.mark.parametrize("run", ["recall-tiny", "planted"])
def test_the_runs_are_published_and_valid(run: str) -> None:
    group = load_group(find_runs(run, ROOT / "results", published=True))
    assert {each.spec for each in group} == set(recalled(run, "planted"))
    assert all(each.summary["valid"] is True for each in group)


def test_the_table_of_streams() -> None:
    expected = []
    for method in recalled("recall-tiny", STREAMS[0]):
        found = [of(stream, method) for stream in STREAMS]
        cells = [f"{one['nll']:.2f}, {one['exact']:.2f}" for one in found]
        expected.append(f"| `{method}` | {' | '.join(cells)} |")
    assert lines("recall") == expected


def test_the_table_of_planted_sentences() -> None:
    expected = []
    for method, rows in near().items():
        assert column(rows, "lag") == [128, 256, 512, 1024]
        shares = [f"{row['exact']:.2f} ({row['control_exact']:.2f})" for row in rows]
        expected.append(f"| `{method}` | {' | '.join(gains(rows) + shares)} |")
    assert lines("planted") == expected


def test_the_table_of_far_lags() -> None:
    expected = [f"| `{method}` | {' | '.join(gains(rows))} |" for method, rows in far().items()]
    assert lines("far") == expected
    assert all(column(rows, "lag") == [2**n for n in range(10, 17)] for rows in far().values())


def span(values: list[float], decimals: int = 2) -> str:
    return f"{min(values):.{decimals}f} to {max(values):.{decimals}f}"


def percent(values: list[float]) -> str:
    return f"{100 * min(values):.0f} % to {100 * max(values):.0f} %"


def test_what_was_found() -> None:
    told = {method: column(rows, "exact") for method, rows in near().items()}
    untold = {method: column(rows, "control_exact") for method, rows in near().items()}
    gained = {method: column(rows, "gain") for method, rows in near().items()}
    assert f"`ngram` gives {percent(told['ngram'])} of the planted tokens at every lag" in TEXT
    assert all(0.495 < share < 0.525 for share in told["knn-lm"])
    assert f"`neural-cache` {percent(told['neural-cache'])}." in TEXT
    reach = {"window:context=256": 2, "tint": 2, "streaming-llm": 3}
    for method, lags in reach.items():
        assert min(told[method][:lags]) > 0.695
        assert max(told[method][lags:]) < 0.085
        assert max(gained[method][lags:]) < 0
    both = told["window:context=256"][:2] + told["streaming-llm"][:3]
    assert f"A context gives {percent(both)} as far as it reaches" in TEXT

    for method, name in (("regression", "`regression` makes a planted token"), (DYNAMIC, "")):
        assert f"{name} {span(gained[method])} nats".strip() in TEXT
        assert percent(told[method]) in TEXT
    assert f"untold, both give {percent(untold['regression'] + untold[DYNAMIC])}." in TEXT
    frozen, learned = of(STREAMS[1], "none"), of(STREAMS[1], DYNAMIC)
    less = frozen["nll"] - learned["nll"]
    assert f"dynamic evaluation loses {less:.2f} nats less on an answer" in TEXT
    assert f"frozen model, and gives {1000 * learned['exact']:.0f} in 1,000." in TEXT

    few, many = (
        {method: of(stream, method)["exact"] for method in recalled("recall-tiny", stream)}
        for stream in STREAMS[:2]
    )
    assert max(few, key=few.__getitem__) == max(many, key=many.__getitem__) == "ngram"
    best = f"gives {100 * few['ngram']:.0f} % of the answers with 8 pairs and "
    assert best + f"{100 * many['ngram']:.0f} % with 32." in TEXT


def clear(rows: list[Values]) -> list[bool]:
    """Whether each gain's interval lies above zero."""
    return [row["gain"] > row["gain_half_width"] for row in rows]


def test_what_was_found_far_back() -> None:
    dynamic, sums = far()[DYNAMIC], far()["regression"]
    gained = span(column(dynamic, "gain"))
    assert f"Dynamic evaluation gains {gained} nats on an answer's tokens at every lag" in TEXT
    assert all(clear(dynamic))
    told, untold = (percent(column(dynamic, name)) for name in ("exact", "control_exact"))
    assert f"It gives {told} of them, {untold} where they had never been told." in TEXT
    assert f"forget nothing, gains {span(column(sums, 'gain'))} (at 65,536" in TEXT
    assert clear(sums) == [True] * 6 + [False]
    for method, reach in (("neural-cache", 1), ("knn-lm", 1), ("ngram", 2)):
        assert clear(far()[method]) == [True] * reach + [False] * (7 - reach)
