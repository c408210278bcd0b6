"""Grades by the best reader, of runs whose losses are made to have them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from oracle_runs import LENGTH, VOCABULARY, store_oracle_run

from tta_bench.errors import BenchError
from tta_bench.oracle.best import best_readers
from tta_bench.statistics import clustered_ratio
from tta_bench.statistics.best_reader import best_of, grade_of


def frozen(index, knowing, learning):
    return knowing + 2.0 + index


def part_of_the_way(part: float):
    """A method that gains so much of what there is, of every token."""
    return lambda index, knowing, learning: knowing + (1 - part) * (2.0 + index)


def test_the_share_is_the_part_of_the_way(tmp_path: Path) -> None:
    none = store_oracle_run(tmp_path / "g", "none", frozen)
    run = store_oracle_run(tmp_path / "g", "ngram", part_of_the_way(0.25))
    grade = grade_of(run, none)
    assert grade is not None
    assert grade.share is not None
    assert grade.share_late is not None
    assert grade.share.value == pytest.approx(0.25, abs=1e-6)
    assert grade.share_late.value == pytest.approx(0.25, abs=1e-6)
    assert grade.share.interval == pytest.approx((0.25, 0.25), abs=1e-5)
    assert grade.regret.value == pytest.approx(0.75 * 3.0 * LENGTH, rel=1e-6)
    bought = [(r.learning - r.knowing).sum() for r in best_readers("oracle:markov-1", 3, 256, 4000)]
    assert grade.regret_learning.value == pytest.approx(grade.regret.value - np.mean(bought))
    left = 3.0 * LENGTH - np.mean(bought)
    assert grade.share_learning is not None
    assert grade.share_learning.value == pytest.approx(0.25 * 3.0 * LENGTH / left, rel=1e-6)


def test_the_interval_is_that_of_a_ratio_of_sums(tmp_path: Path) -> None:
    gains = (0.5, 1.0, 1.2)
    none = store_oracle_run(tmp_path / "g", "none", frozen)
    run = store_oracle_run(tmp_path / "g", "ngram", lambda i, known, _: known + 2.0 + i - gains[i])
    grade = grade_of(run, none)
    expected = clustered_ratio([g * LENGTH for g in gains], [n * LENGTH for n in (2.0, 3.0, 4.0)])
    assert grade is not None
    assert grade.share is not None
    assert grade.share.value == pytest.approx(2.7 / 9, rel=1e-6)
    assert grade.share.interval == pytest.approx(expected.interval, rel=1e-4)


def test_late_tokens_are_those_of_the_second_half(tmp_path: Path) -> None:
    """A method that has the first half for nothing, and learns nothing later."""
    late = np.arange(LENGTH) >= LENGTH // 2
    none = store_oracle_run(tmp_path / "g", "none", frozen)
    run = store_oracle_run(
        tmp_path / "g", "ngram", lambda i, known, _: known + np.where(late, 2.0 + i, 0.0)
    )
    grade = grade_of(run, none)
    assert grade is not None
    assert grade.share is not None
    assert grade.share.value == pytest.approx(0.5, abs=1e-6)
    assert grade.share_late is not None
    assert grade.share_late.value == pytest.approx(0.0, abs=1e-6)


def test_without_the_first_token_the_others_keep_their_place(tmp_path: Path) -> None:
    run = store_oracle_run(tmp_path / "g", "none", frozen, left_out=1)
    best = best_of(run)
    assert best is not None
    reader = best_readers("oracle:markov-1", 3, LENGTH, VOCABULARY)[1]
    np.testing.assert_array_equal(best[1].knowing, reader.knowing[1:])
    grade = grade_of(run, run)
    assert grade is not None
    assert grade.share is None
    assert grade.regret.value == pytest.approx(3.0 * (LENGTH - 1), rel=1e-6)


def test_where_nothing_is_to_be_gained_there_is_no_share(tmp_path: Path) -> None:
    none = store_oracle_run(tmp_path / "g", "none", lambda i, known, _: known)
    run = store_oracle_run(tmp_path / "g", "ngram", lambda i, known, _: known + 1.0)
    grade = grade_of(run, none)
    assert grade is not None
    assert grade.share is None
    assert grade.regret.value == pytest.approx(LENGTH, rel=1e-6)


def test_one_document_and_dependent_ones_have_no_interval(tmp_path: Path) -> None:
    for place, options in enumerate(({"documents": 1}, {"reset": "never"})):
        group = tmp_path / str(place)
        none = store_oracle_run(group, "none", frozen, **options)
        grade = grade_of(store_oracle_run(group, "ngram", part_of_the_way(0.5), **options), none)
        assert grade is not None
        assert grade.share is not None
        assert grade.share.value == pytest.approx(0.5, abs=1e-6)
        assert grade.share.interval is None
        assert grade.regret.interval is None


def test_other_symbols_than_are_drawn_are_not_graded(tmp_path: Path) -> None:
    run = store_oracle_run(tmp_path / "g", "none", frozen, sha256="f" * 64)
    with pytest.raises(BenchError, match="holds other symbols than are drawn here"):
        best_of(run)
    gaps = store_oracle_run(tmp_path / "h", "none", frozen, left_out=2)
    with pytest.raises(BenchError, match="unscored in between"):
        best_of(gaps)


def test_the_share_of_the_best_reader_that_learns_is_one(tmp_path: Path) -> None:
    none = store_oracle_run(tmp_path / "g", "none", frozen)
    run = store_oracle_run(tmp_path / "g", "ngram", lambda i, known, learning: learning)
    grade = grade_of(run, none)
    assert grade is not None
    assert grade.share_learning is not None
    assert grade.share_learning.value == pytest.approx(1.0, abs=1e-6)
    assert grade.share is not None
    assert grade.share.value < 1
    assert math.isclose(grade.regret_learning.value, 0.0, abs_tol=1e-3)
