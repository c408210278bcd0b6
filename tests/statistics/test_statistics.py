"""Quality, paired differences and Student's t, against closed forms, scipy and other tools."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stored_runs import make_row

from tta_bench.statistics import (
    BOOTSTRAP_DOCUMENTS,
    ONE_DOCUMENT,
    bootstrap_interval,
    clustered_ratio,
    holm,
    holm_pairs,
    paired_difference,
    quality,
    sign_flip_p,
    t_p_value,
    t_quantile,
    tiers,
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


def test_a_sum_of_perplexities_beyond_floats_is_infinite() -> None:
    """exp(709.5) is a float, and twice as much is none."""
    figures = quality(rows_of([(1, 709.5), (1, 709.5)]))
    assert figures is not None
    assert figures.perplexity < figures.macro_perplexity == math.inf


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
    without = [6 / 50, 5 / 40, 3 / 30]  # the ratio of the two other documents
    expected = math.sqrt(2 / 3 * sum((r - ratio) ** 2 for r in without))
    assert estimate.standard_error == pytest.approx(expected)
    assert estimate.interval is not None
    half = stats.t.ppf(0.975, 2) * expected
    assert estimate.interval == pytest.approx((ratio - half, ratio + half))


@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(1, 5000)), min_size=2, max_size=30))
def test_the_standard_error_is_the_jackknife_over_documents(pairs: list[tuple[float, int]]) -> None:
    """Literally: the ratio again without each document in turn."""
    sums, sizes = zip(*pairs, strict=True)
    estimate = clustered_ratio(sums, sizes)
    count, total, tokens = len(pairs), math.fsum(sums), sum(sizes)
    without = [(total - s) / (tokens - n) for s, n in pairs]
    spread = math.fsum((r - estimate.value) ** 2 for r in without)
    expected = math.sqrt((count - 1) / count * spread)
    assert estimate.standard_error == pytest.approx(expected, rel=1e-6, abs=1e-9)


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


def test_t_p_value_is_scipys() -> None:
    for degrees in (1, 2, 5, 23, 100, 999):
        for t in (0.01, 0.5, 1.0, 2.5, 6.0):
            expected = 2 * stats.t.sf(t, degrees)
            assert t_p_value(-t * 0.3, 0.3, degrees) == pytest.approx(expected, abs=1e-13)
    assert t_p_value(0.0, 0.0, 3) == 1.0
    assert t_p_value(0.1, 0.0, 3) == 0.0


@pytest.mark.parametrize("count", [2, 3, 7, 12])
def test_exact_sign_flips_are_scipys(count: int) -> None:
    sums = np.random.default_rng(count).normal(0.4, 1, count)
    expected = stats.permutation_test(
        (sums,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(sums.tolist()) == pytest.approx(expected.pvalue, abs=1e-12)


def test_sign_flips_by_hand() -> None:
    assert sign_flip_p([1.0]) is None
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip_p([-1.0] * 6) == 2**-5  # every document better: the least p there is
    assert sign_flip_p([1.0, 1.0, -1.0]) == 1.0
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5]) == 2**-4


def test_random_sign_flips_are_near_the_exact_ones_and_seeded() -> None:
    sums = np.random.default_rng(0).normal(0.5, 1, 18).tolist()
    found = sign_flip_p(sums)
    patterns = 2 * ((np.arange(2**17)[:, None] >> np.arange(17)) & 1) - 1
    totals = np.abs(patterns @ np.array(sums[1:]) + sums[0])
    assert found == pytest.approx(np.mean(totals >= abs(sum(sums)) - 1e-12), abs=0.01)
    assert found == sign_flip_p(sums)
    assert sign_flip_p([1.0] * 100) == 1 / 10_001


def test_the_bootstrap_is_scipys_and_only_offered_from_forty_documents_on() -> None:
    random = np.random.default_rng(1)
    sizes = random.integers(100, 4000, 60).astype(float)
    sums = random.normal(-0.05, 0.02, 60) * sizes
    expected = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    found = bootstrap_interval(sums.tolist(), sizes.tolist())
    assert found == pytest.approx((expected.low, expected.high), abs=2e-4)
    assert found == bootstrap_interval(sums.tolist(), sizes.tolist())
    assert found != bootstrap_interval(sums.tolist(), sizes.tolist(), seed=1)
    few = BOOTSTRAP_DOCUMENTS - 1
    assert bootstrap_interval(sums[:few].tolist(), sizes[:few].tolist()) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_raw_p_and_bonferronis(values: list[float]) -> None:
    found = holm(values)
    for p, adjusted in zip(values, found, strict=True):
        assert adjusted is not None
        assert p <= adjusted <= min(1.0, len(values) * p)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [found[i] for i in order] == sorted(found)  # type: ignore[type-var]


def test_tiers_open_where_a_row_is_told_apart_from_the_first_of_its_tier() -> None:
    apart = {(0, 2), (0, 3), (1, 3)}  # 2 and 3, 0 and 1, 1 and 2 cannot be told apart

    def p_value(i: int, j: int) -> float:
        return 1e-6 if (i, j) in apart else 0.5

    assert tiers([1.0, 2.0, 3.0, 4.0], p_value) == [1, 1, 2, 2]
    assert tiers([4.0, 3.0, 2.0, None], lambda i, j: 1e-6) == [3, 2, 1, None]
    assert tiers([2.0, 1.0], lambda i, j: None) == [1, 1]
    assert tiers([], p_value) == []
    # Holm over all six pairs: 0.01 alone is not enough.
    assert tiers([1.0, 2.0, 3.0, 4.0], lambda i, j: 0.01) == [1, 1, 1, 1]


def test_a_pair_keeps_its_sums() -> None:
    pair = paired_difference(rows_of([(10, 1.0), (30, 2.0)]), rows_of([(10, 1.5), (30, 2.1)]))
    assert pair.sums == pytest.approx((-5.0, -3.0))
    assert pair.sizes == (10, 30)
    assert pair.p_t == pytest.approx(2 * stats.t.sf(abs(pair.delta / pair.standard_error), 1))
    assert paired_difference(rows_of([(10, 1.0)]), rows_of([(10, 2.0)])).p_t is None


def test_equal_documents_are_one_cluster() -> None:
    mine, theirs = rows_of([(10, 1.0), (20, 2.0), (30, 1.5)]), rows_of([(10, 2.0)] * 3)
    theirs = [
        replace(b, tokens=a.tokens, nll=2.0 * a.tokens) for a, b in zip(mine, theirs, strict=True)
    ]
    copies = [replace(r, key=f"{r.key}-{i}") for r in mine for i in range(4)]
    theirs = [replace(r, key=f"{r.key}-{i}") for r in theirs for i in range(4)]
    pair = paired_difference(copies, theirs)
    once = paired_difference(copies[::4], theirs[::4])
    assert (pair.documents, pair.clusters, pair.tokens) == (12, 3, 240)
    assert pair.delta == pytest.approx(once.delta)
    assert pair.interval == pytest.approx(once.interval)
    assert pair.p_t == pytest.approx(once.p_t)
    assert pair.sums == pytest.approx([4 * s for s in once.sums])


def test_copies_of_one_document_have_no_interval() -> None:
    mine, theirs = rows_of([(10, 1.0)] * 12), rows_of([(10, 2.0)] * 12)
    copies = [[replace(row, sha256="c" * 64) for row in rows] for rows in (mine, theirs)]
    pair = paired_difference(*copies)
    assert (pair.delta, pair.interval, pair.p_t) == (-1.0, None, None)
    assert pair.reason == "12 documents, 1 of them distinct: an interval needs at least two"
    # A hash that is not known says nothing of equality.
    unknown = [[replace(row, sha256="") for row in rows] for rows in (mine, theirs)]
    assert paired_difference(*unknown).clusters == 12


def test_documents_that_depend_on_each_other_have_no_interval() -> None:
    mine, theirs = rows_of([(10, 1.0), (20, 2.0), (5, 1.0)]), rows_of([(10, 2.0), (20, 1), (5, 3)])
    pair = paired_difference(mine, theirs, dependent=True)
    assert pair.delta == paired_difference(mine, theirs).delta
    assert (pair.interval, pair.p_t, sign_flip_p(pair.sums)) == (None, None, None)
    assert pair.reason is not None
    assert "depend on each other" in pair.reason


def test_pairs_of_ranked_rows_are_one_family() -> None:
    found = holm_pairs([1.0, None, 2.0, 3.0], lambda i, j: 0.01 * (i + j))
    assert found == pytest.approx({(0, 2): 0.06, (0, 3): 0.06, (2, 3): 0.06})
