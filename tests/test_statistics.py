"""Quality, paired differences and Student's t, against closed forms, scipy and other tools."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stored_runs import make_row

from tta_bench.statistics import (
    ONE_DOCUMENT,
    clustered_ratio,
    paired_difference,
    quality,
    t_quantile,
)
from tta_bench.store import Row

losses = st.floats(0, 1e4)
documents = st.lists(st.tuples(st.integers(1, 10**6), losses, losses), min_size=1, max_size=30)


def rows_of(figures: list[tuple[int, float]]) -> list[Row]:
    """Rows of (tokens, nats per token)."""
    return [
        make_row(i, tokens=n, bytes=4 * n, words=n, nll=n * mean)
        for i, (n, mean) in enumerate(figures)
    ]


def test_t_quantile_is_scipys() -> None:
    degrees = [*range(1, 201), 999, 1000, 1001, 5000, 10**6]
    for probability in (0.025, 0.5, 0.6, 0.9, 0.95, 0.975, 0.995, 0.9999):
        expected = stats.t.ppf(probability, degrees)
        found = [t_quantile(probability, n) for n in degrees]
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_t_quantile_refuses_what_has_none(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError):
        t_quantile(probability, degrees)


def test_quality_gives_the_figures_of_lm_evaluation_harness() -> None:
    """Six documents at window 512; the expected figures are what that program printed."""
    lines = [
        (1508, 1093, 5457, 4553.1865),
        (1500, 1317, 6643, 5141.9771),
        (1100, 874, 4293, 3516.2393),
        (100, 68, 386, 360.1227),
        (512, 402, 2270, 1556.9124),
        (513, 383, 2039, 1484.4758),
    ]
    rows = [
        make_row(i, tokens=tokens, words=words, bytes=n, nll=nll)
        for i, (tokens, words, n, nll) in enumerate(lines)
    ]
    figures = quality(rows)
    assert figures is not None
    assert figures.nll == pytest.approx(16612.9137, abs=2e-4)
    assert figures.perplexity == pytest.approx(23.91831, abs=1e-5)
    assert figures.word_perplexity == pytest.approx(55.4616, abs=1e-4)
    assert figures.byte_perplexity == pytest.approx(2.198532, abs=1e-6)
    assert figures.bits_per_byte == pytest.approx(1.136541, abs=1e-6)


def test_macro_figures_weigh_documents_equally() -> None:
    figures = quality(rows_of([(10, 1.0), (1000, 3.0)]))
    assert figures is not None
    assert figures.macro_nll == pytest.approx(2.0)
    assert figures.macro_perplexity == pytest.approx((math.e + math.e**3) / 2)
    assert figures.perplexity == pytest.approx(math.exp(3010 / 1010))


def test_only_done_documents_count() -> None:
    done = rows_of([(10, 1.0), (20, 2.0)])
    others = [make_row(i, status) for i, status in enumerate(("skipped", "oom", "error"), 7)]
    assert quality([*done, *others]) == quality(done)
    assert quality(others) is None


def test_bytes_that_one_document_lacks_are_not_known() -> None:
    first, second = rows_of([(10, 1.0), (20, 2.0)])
    figures = quality([first, replace(second, bytes=0, words=0)])
    assert figures is not None
    assert figures.bits_per_byte is None
    assert figures.byte_perplexity is None
    assert figures.word_perplexity is None
    assert figures.perplexity == pytest.approx(math.exp(50 / 30))


def test_perplexity_beyond_floats_is_infinite() -> None:
    figures = quality(rows_of([(10, 1e4)]))
    assert figures is not None
    assert figures.perplexity == figures.macro_perplexity == math.inf


@given(documents)
def test_quality_does_not_depend_on_the_order(figures: list[tuple[int, float, float]]) -> None:
    rows = rows_of([(n, mine) for n, mine, _ in figures])
    assert quality(rows) == quality(rows[::-1])


@given(documents)
def test_difference_is_antisymmetric_and_that_of_the_means(
    figures: list[tuple[int, float, float]],
) -> None:
    mine = rows_of([(n, a) for n, a, _ in figures])
    theirs = rows_of([(n, b) for n, _, b in figures])
    there, back = paired_difference(mine, theirs), paired_difference(theirs, mine)
    assert there.delta == -back.delta  # type: ignore[operator]
    first, second = quality(mine), quality(theirs)
    assert first is not None
    assert second is not None
    expected = (first.nll - second.nll) / first.tokens
    assert there.delta == pytest.approx(expected, abs=1e-9)
    if len(figures) == 1:
        assert (there.interval, there.reason) == (None, ONE_DOCUMENT)
    else:
        assert there.interval is not None
        assert there.interval[0] <= there.delta <= there.interval[1]  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=40), st.integers(1, 1000))
def test_equal_sizes_give_the_t_test_of_one_sample(sums: list[float], size: int) -> None:
    estimate = clustered_ratio(sums, [size] * len(sums))
    per_token = [s / size for s in sums]
    assert estimate.standard_error == pytest.approx(stats.sem(per_token), abs=1e-9)
    if estimate.standard_error:
        test = stats.ttest_1samp(per_token, 0.0).confidence_interval(0.95)
        assert estimate.interval == pytest.approx((test.low, test.high), abs=1e-8)


def test_unequal_sizes_by_hand() -> None:
    """r = 6/60; errors 1 - 1, 2 - 2, 3 - 3 are zero; then one document gains 1 nat more."""
    assert clustered_ratio([1, 2, 3], [10, 20, 30]).standard_error == pytest.approx(0, abs=1e-15)
    estimate = clustered_ratio([1, 2, 4], [10, 20, 30])
    ratio = 7 / 60
    errors = [1 - 10 * ratio, 2 - 20 * ratio, 4 - 30 * ratio]
    expected = math.sqrt(3 / 2 * sum(e**2 for e in errors)) / 60
    assert estimate.standard_error == pytest.approx(expected)
    assert estimate.interval is not None
    half = stats.t.ppf(0.975, 2) * expected
    assert estimate.interval == pytest.approx((ratio - half, ratio + half))


def test_a_scale_moves_the_interval_with_it() -> None:
    """The ratio of perplexities is the difference, exponentiated; so is its interval."""
    pair = paired_difference(rows_of([(10, 1.0), (30, 2.0)]), rows_of([(10, 1.5), (30, 2.1)]))
    assert pair.delta == pytest.approx(-8 / 40)
    assert pair.ratio == pytest.approx(math.exp(-0.2))
    assert pair.macro_delta == pytest.approx(-0.3)
    assert pair.interval is not None
    assert pair.ratio_interval == pytest.approx(tuple(map(math.exp, pair.interval)))


def test_documents_of_one_side_are_left_out_and_counted() -> None:
    mine, theirs = rows_of([(10, 1.0), (20, 1.0), (30, 1.0)]), rows_of([(10, 2.0), (20, 2.0)])
    theirs.append(make_row(2, "oom"))
    pair = paired_difference(mine, theirs)
    assert (pair.documents, pair.tokens, pair.unpaired) == (2, 30, 1)
    assert pair.delta == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": 21}, "20 tokens, the baseline's 21"),
        ({"sha256": "f" * 64}, "another content"),
    ],
)
def test_other_texts_are_not_paired(change: dict[str, object], words: str) -> None:
    mine = rows_of([(10, 1.0), (20, 1.0)])
    pair = paired_difference(mine, [mine[0], replace(mine[1], **change)])  # type: ignore[arg-type]
    assert pair.delta is None
    assert pair.interval is None
    assert pair.reason is not None
    assert words in pair.reason


def test_nothing_in_common_is_refused() -> None:
    pair = paired_difference(rows_of([(10, 1.0)]), [])
    assert (pair.delta, pair.reason) == (None, "no document is done by both")
