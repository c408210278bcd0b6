"""docs/scale.md says what sharing costs as the published runs have it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tta_bench.store import Run, find_runs, load_group

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")


def run_of(group: str) -> Run:
    (run,) = load_group(find_runs(group, ROOT / "results", published=True))
    return run


@pytest.mark.parametrize(
    ("group", "row"),
    [("workers-none", "reading 655,360 tokens, without workers"), ("workers-1", "the same, ")],
)
def test_seconds_of_reading_are_among_those_of_the_page(group: str, row: str) -> None:
    run = run_of(group)
    assert sum(each.tokens for each in run.rows) == 655_360
    (line,) = [text for text in PAGE.splitlines() if text.startswith(f"| {row}")]
    assert f"{run.summary['seconds']:.1f}" in re.findall(r"\d+\.\d", line)


def test_two_workers_read_in_half_the_time() -> None:
    (line,) = [text for text in PAGE.splitlines() if text.startswith("| the same, ")]
    alone = [float(value) for value in re.findall(r"\d+\.\d", line)]
    longest = max(share["seconds"] for share in run_of("workers-2").summary["workers"])
    times = float(re.findall(r"reading alone ×(\d\.\d+)", PAGE)[0])
    assert sum(alone) / len(alone) / longest == pytest.approx(times, abs=0.03)


def test_the_losses_do_not_depend_on_the_workers() -> None:
    rows = [[(row.key, row.nll) for row in run_of(f"workers-{n}").rows] for n in ("1", "2")]
    assert rows[0] == rows[1]
