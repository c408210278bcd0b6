"""What is fast for many pairs and documents gives, bit for bit, what the formulas give."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from stored_runs import make_row

from tta_bench.statistics import (
    bootstrap_interval,
    paired_difference,
    quality,
    resampling,
    sign_flip_p,
)
from tta_bench.store import Done, Row

TEXTS = 60


def rows_of(seed: int, documents: int = TEXTS) -> list[Row]:
    losses = np.random.default_rng(seed).normal(300.0, 40.0, documents).tolist()
    return [make_row(i, nll=loss) for i, loss in enumerate(losses)]


def literal(mine: list[Row], theirs: list[Row]) -> tuple[float, float, float]:
    """Delta, its standard error and the macro delta, one document after another."""
    other = {row.key: row for row in theirs}
    pairs = [(row.nll - other[row.key].nll, row.tokens) for row in mine if row.key in other]
    total = math.fsum(n for _, n in pairs)
    ratio = math.fsum(s for s, _ in pairs) / total
    moves = math.fsum(((s - ratio * n) / (total - n)) ** 2 for s, n in pairs)
    error = math.sqrt((len(pairs) - 1) / len(pairs) * moves)
    return ratio, error, math.fsum(s / n for s, n in pairs) / len(pairs)


@pytest.mark.parametrize("order", ["same", "other", "part"])
def test_pairs_are_those_of_the_formula(order: str) -> None:
    mine, theirs = rows_of(1), rows_of(2)
    if order != "same":
        theirs = theirs[::-1]
    if order == "part":
        mine, theirs = mine[5:], theirs[: TEXTS - 7]
    pair = paired_difference(mine, theirs)
    found = pair.delta, pair.standard_error, pair.macro_delta
    assert found == literal(mine, theirs)
    assert pair == paired_difference(Done.of(mine), Done.of(theirs))
    shared = {row.key for row in theirs}
    assert pair.sizes == tuple(row.tokens for row in mine if row.key in shared)
    assert pair.unpaired == (0 if order != "part" else 2)


def test_the_first_document_that_differs_is_named() -> None:
    mine, theirs = rows_of(1), rows_of(2)
    theirs[7] = replace(theirs[7], tokens=3)
    theirs[9] = replace(theirs[9], sha256="")
    assert "doc7.py has 170 tokens, the baseline's 3" in str(paired_difference(mine, theirs).reason)


def test_quality_is_that_of_the_rows() -> None:
    rows = [*rows_of(1), make_row(99, "oom", reason="no memory")]
    found = quality(rows)
    assert found is not None
    assert found == quality(Done.of(rows))
    assert found.macro_nll == math.fsum(row.nll / row.tokens for row in rows[:-1]) / TEXTS
    unknown = [*rows, make_row(100, bytes=0, nll=1.0)]
    assert quality(unknown).bytes == 0  # type: ignore[union-attr]


def test_random_numbers_are_the_same_whether_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    sums, sizes = random.normal(0.3, 1, 45).tolist(), random.integers(1, 9, 45).tolist()
    kept = sign_flip_p(sums), bootstrap_interval(sums, sizes)
    other = sign_flip_p(sums[::-1]), bootstrap_interval(sums, sizes[::-1])
    monkeypatch.setattr(resampling, "_KEPT", 0)
    assert kept == (sign_flip_p(sums), bootstrap_interval(sums, sizes))
    assert other == (sign_flip_p(sums[::-1]), bootstrap_interval(sums, sizes[::-1]))
    monkeypatch.setattr(resampling, "_BLOCK", 100)  # and however many are made at once
    assert kept[1] == bootstrap_interval(sums, sizes)


def test_the_more_documents_the_fewer_resamples() -> None:
    found = [resampling.resamples_for(n) for n in (40, 10_000, 20_000, 100_000, 10**7)]
    assert found == [10_000, 10_000, 5_000, 1_000, 1_000]
    assert resampling.resamples_for(10**6, 500) == 500
