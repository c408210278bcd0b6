"""What a budget leaves in a table, which row it names, and the frontier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import make_row, store_run

from tta_bench.errors import UsageError
from tta_bench.store import Run
from tta_bench.tables import Table
from tta_bench.tables.budget import limit_of
from tta_bench.tables.compare import compare_tables
from tta_bench.tables.costs import FLOPS, STATE, TIME, Cost, front

MIB = 2**20
COSTS = {
    "none": (0.0, 1e9, 1000.0, 0),
    "ngram": (0.1, 1e9, 500.0, MIB),
    "cheap": (0.05, 1.5e9, 900.0, 2 * MIB),
    "fwl": (0.3, 2e9, 400.0, 8 * MIB),
    "dear": (0.5, 3e9, 100.0, 40 * MIB),
}


def stored(folder: Path, spec: str, **summary: Any) -> Run:
    gain, flops, rate, state = COSTS[spec]
    costs = {"flops_per_token": flops, "tokens_per_second": rate, "state_bytes_per_lane": state}
    return store_run(folder, spec, gain, summary=costs | summary)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    group = tmp_path_factory.mktemp("group")
    return [stored(group, spec) for spec in COSTS]


def compared(runs: list[Run], *budget: str, **options: Any) -> Table:
    (table,) = compare_tables(runs, budget=[limit_of(text) for text in budget], **options)
    return table


def methods(table: Table) -> list[str]:
    return [row["method"] for row in table.rows]


@pytest.mark.parametrize(
    ("text", "cost", "amount", "relative"),
    [
        ("flops=2x", FLOPS, 2.0, True),
        ("flops=1.5×", FLOPS, 1.5, True),
        ("FLOPS = 3GF", FLOPS, 3e9, False),
        ("flops=3G", FLOPS, 3e9, False),
        ("flops=250 MFLOPs", FLOPS, 2.5e8, False),
        ("flops=7F", FLOPS, 7.0, False),
        ("flops=1e3k", FLOPS, 1e6, False),
        ("state=8MiB", STATE, 8.0 * MIB, False),
        ("state=0B", STATE, 0.0, False),
        ("state=1.5MB", STATE, 1.5e6, False),
        ("time=40ms", TIME, 4e-5, False),
        ("time=2s", TIME, 2e-3, False),
        ("time=1.5x", TIME, 1.5, True),
    ],
)
def test_an_amount_with_its_unit(text: str, cost: Cost, amount: float, relative: bool) -> None:
    limit = limit_of(text)
    assert (limit.cost, limit.relative) == (cost, relative)
    assert limit.amount == pytest.approx(amount)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("speed=2x", "--budget 'speed=2x' is of no known cost; write flops=2x or flops=3GF"),
        ("2x", "is of no known cost"),
        ("flops", "--budget 'flops' is no amount with its unit; write flops=2x or flops=3GF"),
        ("flops=2", "is no amount with its unit"),
        ("flops=f", "is no amount with its unit"),
        ("flops=-2x", "is no amount with its unit"),
        ("flops=nanx", "is no amount with its unit"),
        ("flops=1e999x", "is no amount with its unit"),
        ("flops=8MiB", "is no amount with its unit"),
        ("state=8", "write state=2x or state=8MiB, of a lane"),
        ("state=3GF", "write state=2x or state=8MiB, of a lane"),
        ("time=40", "write time=1.5x or time=40ms, of 1,000 tokens"),
    ],
)
def test_what_is_no_budget_is_said(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        limit_of(text)
    assert sentence in str(caught.value)


def test_the_best_row_within_the_budget_is_named(runs: list[Run]) -> None:
    table = compared(runs, "flops=2x")
    assert methods(table) == ["none", "ngram", "cheap", "fwl"]
    (row,) = [row for row in table.rows if row["method"] == "fwl"]
    half = (row["delta_ci95_high"] - row["delta_ci95_low"]) / 2
    best = (
        f"best at flops=2x (2.00 GFLOPs/token): fwl, Δ {row['delta_nats_per_token']:+.4f} "
        f"±{half:.4f} nats/token vs none"
    )
    assert table.notes[:2] == [best, "left out, over budget: dear"]
    assert [row["best_at_budget"] for row in table.rows] == [False, False, False, True]


def test_several_limits_hold_at_once(runs: list[Run]) -> None:
    assert methods(compared(runs, "flops=2x", "state=2MiB")) == ["none", "ngram", "cheap"]
    assert methods(compared(runs, "time=2x")) == ["none", "ngram", "cheap"]
    assert methods(compared(runs, "time=1200ms")) == ["none", "cheap"]
    assert methods(compared(runs, "flops=2x", "flops=1x")) == ["none", "ngram"]


def test_what_is_left_out_is_still_in_the_tests(runs: list[Run]) -> None:
    whole = {row["method"]: (row["p_holm"], row["tier"]) for row in compared(runs).rows}
    for row in compared(runs, "flops=1x").rows:
        assert (row["p_holm"], row["tier"]) == whole[row["method"]]


def test_the_baseline_stands_for_comparison(runs: list[Run]) -> None:
    table = compared(runs, "flops=1GF", baseline="dear")
    assert methods(table) == ["none", "ngram", "dear"]
    assert table.notes[0].startswith("best at flops=1GF: ngram, Δ +0.")
    assert "dear stands for comparison; it is over budget itself" in table.notes
    assert compared(runs, "flops=0.5x").notes[0].endswith("no row that may be ranked")
    table = compared(runs, "state=0B")
    assert table.notes[0].endswith(
        ": none, the baseline itself; nothing within the budget is better"
    )


def test_what_may_not_be_ranked_is_never_best(tmp_path: Path) -> None:
    wrong = {"valid": False, "rules_broken": ["future"], "valid_reason": "future: it peeks"}
    runs = [stored(tmp_path, "none"), stored(tmp_path, "ngram"), stored(tmp_path, "fwl", **wrong)]
    table = compared(runs, "flops=2x")
    assert methods(table) == ["none", "ngram", "fwl"]
    assert ": ngram, Δ" in table.notes[0]
    assert methods(compared(runs, frontier=FLOPS)) == ["ngram"]


def test_a_cost_that_is_not_known_keeps_to_no_budget(tmp_path: Path) -> None:
    runs = [stored(tmp_path, "none"), stored(tmp_path, "fwl", flops_per_token=None)]
    table = compared(runs, "flops=9x")
    assert methods(table) == ["none"]
    assert "left out, since what it costs is not known: fwl" in table.notes


def test_a_multiple_needs_something_to_multiply(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none has no state to multiply; name an amount such as"):
        compared(runs, "state=2x")
    alone = [stored(tmp_path / "other", "fwl")]
    with pytest.raises(UsageError, match="the flops of none is not known in smollm2-135m on"):
        compared(alone, "flops=2x")
    assert methods(compared(alone, "flops=9GF")) == ["fwl"]


def test_a_best_row_that_may_be_no_better_says_so(tmp_path: Path) -> None:
    one = [store_run(tmp_path / "one", spec, gain, 1) for spec, gain in (("none", 0), ("fwl", 0.1))]
    assert compared(one, "flops=2x").notes[0].endswith("nats/token vs none (no interval)")
    several = []
    for spec, gains in (("none", (0.0, 0.0, 0.0)), ("fwl", (0.3, -0.2, 0.1))):
        rows = [make_row(i, nll=(2.0 - gain) * (100 + 10 * i)) for i, gain in enumerate(gains)]
        several.append(store_run(tmp_path / "three", spec, documents=0, extra=tuple(rows)))
    sentence = compared(several, "flops=2x").notes[0]
    assert sentence.endswith("which is not told apart from 0; in the same tier: none")


@pytest.mark.parametrize(
    ("cost", "rows"),
    [
        (FLOPS, ["ngram", "fwl", "dear"]),
        (STATE, ["none", "ngram", "fwl", "dear"]),
        (TIME, ["none", "cheap", "ngram", "fwl", "dear"]),
    ],
)
def test_the_frontier_comes_by_rising_cost(cost: Cost, rows: list[str], runs: list[Run]) -> None:
    table = compared(runs, frontier=cost)
    assert methods(table) == rows
    assert table.notes[0].startswith(f"frontier in {cost.name}: ")
    left = [spec for spec in COSTS if spec not in rows]
    assert (f"left out, beaten or not ranked: {', '.join(left)}" in table.notes) == bool(left)
    by_loss = compared(runs, frontier=cost, sort="perplexity")
    assert methods(by_loss)[0] == "dear"


def test_a_frontier_within_a_budget(runs: list[Run]) -> None:
    assert methods(compared(runs, "time=2.5x", frontier=FLOPS)) == ["ngram", "fwl"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_nothing_is_on_the_front_twice(points: list[tuple[int, int]]) -> None:
    pairs = [points[place] for place in front(points)]
    assert pairs == sorted(set(pairs))
    assert bool(pairs) == bool(points)
