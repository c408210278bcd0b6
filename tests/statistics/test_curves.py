"""Curves over position, frequency and distance, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_bench.statistics import (
    ONE_DOCUMENT,
    by_distance,
    by_frequency,
    by_occurrence,
    by_position,
    clustered_ratio,
    earlier_occurrences,
    last_distances,
    log_edges,
)

texts = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=40), min_size=1, max_size=6)


def test_edges_are_powers_of_two_unless_finer() -> None:
    assert log_edges(1) == [1, 2]
    assert log_edges(7) == [1, 2, 4, 8]
    assert log_edges(8) == [1, 2, 4, 8, 16]
    assert log_edges(16, 2) == [1, 2, 3, 4, 6, 8, 11, 16, 23]
    with pytest.raises(ValueError):
        log_edges(0)


def test_position_by_hand() -> None:
    curve = by_position([np.array([1.0, 2, 3, 4]), np.array([3.0, 6])])
    assert [(b.low, b.high, b.tokens) for b in curve] == [(1, 2, 2), (2, 4, 3), (4, 8, 1)]
    assert [b.estimate.value for b in curve] == pytest.approx([2, 11 / 3, 4])
    assert curve[1].estimate == clustered_ratio([5.0, 6.0], [2.0, 1.0])
    assert (curve[2].estimate.interval, curve[2].estimate.reason) == (None, ONE_DOCUMENT)


def test_edges_of_ones_own_leave_out_the_rest() -> None:
    curve = by_position([np.arange(10.0)], [3, 5, 7])
    assert [(b.low, b.tokens, b.estimate.value) for b in curve] == [(3, 2, 2.5), (5, 2, 4.5)]
    assert by_position([]) == []


@given(texts)
def test_the_last_distance_is_that_of_a_loop(documents: list[list[int]]) -> None:
    for text in documents:
        seen: dict[int, int] = {}
        expected = []
        for place, token in enumerate(text):
            expected.append(place - seen.get(token, place))
            seen[token] = place
        assert last_distances(np.array(text)).tolist() == expected


@given(texts)
def test_earlier_occurrences_are_those_of_a_loop(documents: list[list[int]]) -> None:
    for text in documents:
        expected = [text[:place].count(token) for place, token in enumerate(text)]
        assert earlier_occurrences(np.array(text)).tolist() == expected
    assert earlier_occurrences(np.array([], dtype=int)).tolist() == []


@given(texts, st.booleans())
def test_every_scored_token_is_in_one_bucket(
    documents: list[list[int]], first_scored: bool
) -> None:
    ids = [np.array(text) for text in documents]
    values = [np.sqrt(x + 1.0)[0 if first_scored else 1 :] for x in ids]
    total = sum(map(len, values))
    by_token = [curve(values, ids) for curve in (by_frequency, by_occurrence, by_distance)]
    for curve in (by_position(values), *by_token):
        assert sum(b.tokens for b in curve) == total
        pooled = sum(b.tokens * b.estimate.value for b in curve)
        assert pooled == pytest.approx(sum(v.sum() for v in values))
        assert all(b.low < b.high for b in curve)


def test_distance_by_hand() -> None:
    """The first token is not scored, yet the third has it two steps back."""
    curve = by_distance([np.array([5.0, 1, 3])], [np.array([7, 8, 7, 7])])
    found = [(b.low, b.high, b.estimate.value) for b in curve]
    assert found == [(0, 1, 5.0), (1, 2, 3.0), (2, 4, 1.0)]


def test_occurrence_by_hand() -> None:
    """The first token is not scored, yet it is the third's earlier occurrence."""
    curve = by_occurrence([np.array([5.0, 1, 3, 4])], [np.array([7, 8, 7, 7, 7])])
    found = [(b.low, b.high, b.estimate.value) for b in curve]
    assert found == [(0, 1, 5.0), (1, 2, 1.0), (2, 4, 3.5)]


def test_frequency_by_hand() -> None:
    losses, ids = [np.array([1.0, 2, 3])], [np.array([0, 0, 1])]
    assert [(b.low, b.estimate.value) for b in by_frequency(losses, ids)] == [(1, 3.0), (2, 1.5)]
    counts = np.array([100, 0])
    found = [(b.low, b.estimate.value) for b in by_frequency(losses, ids, counts)]
    assert found == [(0, 3.0), (64, 1.5)]


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer token ids"):
        by_distance([np.zeros(3)], [np.zeros(2, dtype=int)])
    with pytest.raises(ValueError, match="as many documents"):
        by_frequency([np.zeros(3)], [])


def test_equal_documents_are_one_cluster_of_a_curve() -> None:
    values = [np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([3.0, 5.0])]
    apart = by_position(values, [1, 3])
    joined = by_position(values, [1, 3], ["a", "a", "b"])
    assert apart[0].estimate.value == joined[0].estimate.value
    assert (apart[0].estimate.documents, joined[0].estimate.documents) == (3, 2)
    assert by_position(values, [1, 3], ["a"] * 3)[0].estimate.interval is None
