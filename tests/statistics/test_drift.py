"""Forward transfer, retention and return against figures that were worked out by hand."""

import math

import numpy as np
import pytest
from drift_runs import store_stream

from tta_bench.errors import BenchError
from tta_bench.statistics.drift import (
    FIRST_TOKENS,
    drift_of,
    forward_along,
    losses_along,
    over_blocks,
    retention_along,
)
from tta_bench.statistics.student import t_quantile

# Documents of domains A, B, A: two texts, one text, the same two texts.
TEXTS = "abcab"
CARRIED = [[4.0, 4.0], [3.0, 2.0], [5.0, 5.0], [3.0, 3.0], [3.0, 1.5]]
FRESH = [[4.0, 4.0], [4.0, 3.0], [5.0, 4.0], [4.0, 4.0], [4.0, 3.0]]
PROBES = [29.0, 28.0, 33.0, 31.0, 32.0]


@pytest.fixture
def pair(tmp_path):
    run = store_stream(tmp_path, CARRIED, texts=TEXTS, probes=PROBES, fresh_probe=30.0)
    store_stream(tmp_path, FRESH, texts=TEXTS, reset="document")
    return run


def test_forward_transfer_by_hand(pair):
    forward = drift_of(pair).forward
    # Documents 2 to 5: 7 - 5, 9 - 10, 8 - 6 and 7 - 4.5 nats, of two tokens each.
    assert forward.sums == (2.0, -1.0, 2.0, 2.5)
    assert forward.sizes == (2, 2, 2, 2)
    assert forward.estimate.value == 5.5 / 8
    assert forward.estimate.interval is None
    assert forward.estimate.reason == "4 documents: an interval over blocks needs 40"


def test_return_by_hand(pair):
    drift = drift_of(pair)
    # The first text: 8 - 6 nats, the second: 5 - 4.5; fresh: 8 - 6 and 7 - 4.5.
    assert drift.returned.sums == (2.0, 0.5)
    assert drift.returned.estimate.value == 2.5 / 4
    assert drift.returned_fresh.sums == (2.0, 2.5)
    assert drift.returned_fresh.estimate.value == 4.5 / 4


def test_retention_by_hand(pair):
    kept = drift_of(pair).retained
    assert kept.fresh == 3.0
    np.testing.assert_allclose(kept.gains, [0.1, 0.2, -0.3, -0.1, -0.2], atol=1e-15)


def test_a_text_read_twice_in_a_row_is_no_return(tmp_path):
    run = store_stream(tmp_path, CARRIED, texts="aabca")
    returned = drift_of(run).returned
    assert [row.index for row in returned.rows] == [4]
    assert returned.sums == (8.0 - 4.5,)


def test_only_the_first_tokens_count_for_forward_transfer(tmp_path):
    long = [[2.0] * (FIRST_TOKENS + 100)] * 2
    better = [long[0], [1.5] * FIRST_TOKENS + [9.0] * 100]
    run = store_stream(tmp_path, better)
    store_stream(tmp_path, long, reset="document")
    forward = drift_of(run).forward
    assert (forward.sums, forward.sizes) == ((512.0,), (1024,))


def test_without_fresh_readings_the_reason_names_the_flag(tmp_path):
    drift = drift_of(store_stream(tmp_path, CARRIED, texts=TEXTS))
    assert drift.forward is None
    assert drift.returned_fresh is None
    assert "--fresh makes it" in drift.lacks
    assert drift.returned.estimate.value == 2.5 / 4  # it needs the stream alone
    store_stream(tmp_path / "other", FRESH, texts=TEXTS, reset="document")  # in another group


def test_fresh_readings_of_other_texts_are_refused(tmp_path):
    run = store_stream(tmp_path, CARRIED, texts=TEXTS)
    store_stream(tmp_path, FRESH, texts="abcad", reset="document")
    with pytest.raises(BenchError, match="read other documents"):
        drift_of(run)


def test_a_run_that_is_reset_does_not_drift(tmp_path):
    assert drift_of(store_stream(tmp_path, FRESH, reset="document")) is None


# Blocks


def test_an_interval_over_ten_blocks_by_hand():
    # Blocks of four documents whose sums are 4 times 0, 1, 0, 1, ...: residuals -2 and 2.
    sums = [float(place // 4 % 2) for place in range(40)]
    found = over_blocks(sums, [1.0] * 40)
    assert found.value == 0.5
    error = math.sqrt(10 / 9 * 10 * 2.0**2) / 40
    assert found.standard_error == pytest.approx(error, abs=1e-15)
    half = t_quantile(0.975, 9) * error
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half), abs=1e-12)
    assert found.documents == 40
    assert found.reason is None


def test_documents_that_do_not_fill_blocks_evenly_all_count():
    random = np.random.default_rng(0)
    sums, sizes = random.normal(size=47).tolist(), random.integers(5, 9, 47).tolist()
    found = over_blocks(sums, sizes)
    assert found.value == pytest.approx(sum(sums) / sum(sizes), abs=1e-15)
    assert found.interval[0] < found.value < found.interval[1]


def test_blocks_that_go_together_have_no_interval():
    drifting = [place / 40 for place in range(40)]
    found = over_blocks(drifting, [1.0] * 40)
    assert found.value == pytest.approx(19.5 / 40)
    assert found.interval is None
    assert found.reason == "neighbouring blocks of documents go together: no interval"


def test_blocks_cover_where_documents_would_not():
    """Neighbours that depend on each other: an interval over documents is far too narrow."""
    random = np.random.default_rng(1)
    rounds, documents, tie = 300, 200, 0.6
    noise = random.normal(size=(rounds, documents))
    values = np.zeros_like(noise)
    values[:, 0] = noise[:, 0] / math.sqrt(1 - tie**2)
    for place in range(1, documents):
        values[:, place] = tie * values[:, place - 1] + noise[:, place]
    blocks, apart = [], []
    for line in values:
        found = over_blocks(line.tolist(), [1.0] * documents)
        if found.interval is not None:
            blocks.append(found.interval[0] < 0 < found.interval[1])
        half = 1.972 * line.std(ddof=1) / math.sqrt(documents)
        apart.append(abs(line.mean()) < half)
    assert len(blocks) > 0.95 * rounds
    assert np.mean(blocks) > 0.89
    assert np.mean(apart) < 0.75


# Over the stream


def test_curves_over_the_stream(pair):
    drift = drift_of(pair)
    losses = losses_along(pair).curve(5)
    assert [(b.low, b.high, b.tokens, b.estimate.value) for b in losses] == [
        (1, 2, 2, 4.0),
        (2, 3, 2, 2.5),
        (3, 4, 2, 5.0),
        (4, 5, 2, 3.0),
        (5, 6, 2, 2.25),
    ]
    assert all(bucket.estimate.interval is None for bucket in losses)
    forward = forward_along(drift).curve(5, 2)
    assert [(b.low, b.estimate.value) for b in forward] == [(1, 1.0), (3, 3.5 / 6)]
    kept = retention_along(drift).curve(5, 2)
    assert [b.estimate.documents for b in kept] == [2, 3]
    assert [b.estimate.value for b in kept] == pytest.approx([0.15, -0.2])
