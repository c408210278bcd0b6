"""The spec of a stream, and what its documents hold."""

from __future__ import annotations

import time

import numpy as np
import pytest
from slow import slow

from tta_bench.errors import DocumentError
from tta_bench.oracle.best import best_readers, symbols_sha256
from tta_bench.oracle.fixed import Recall
from tta_bench.oracle.spec import NAMES, stream_of

PINNED = {
    "unigram": "c82798e62eb6fb5d",
    "markov-1": "4e5d4a4bdd3a09a6",
    "markov-2": "74bc5bf9d72d40c9",
    "tree": "d5d1d7db830509e0",
    "switching": "21e2f4f747946fcc",
    "bursty": "1aa387e4991985ba",
    "copy": "1ea5e33fba0c872c",
    "recall": "e1cfb783f9199562",
    "nothing": "d8cd8c69e643ec5b",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_document_depends_on_seed_and_number_alone(name: str) -> None:
    stream = stream_of(f"oracle:{name}")
    document = stream.draw(3, 3000)
    assert document.min() >= 0
    assert document.max() < sum(stream.classes)
    np.testing.assert_array_equal(stream.draw(3, 3000), document)
    np.testing.assert_array_equal(stream.draw(3, 1000), document[:1000])
    assert (stream.draw(4, 3000) != document).any()
    assert (stream_of(f"oracle:{name}:seed=1").draw(3, 3000) != document).any()
    # Stored runs are graded by drawing them again, for ever.
    assert symbols_sha256(document)[:16] == PINNED[name]


def test_a_full_restaurant_is_a_beginning_of_a_longer_one() -> None:
    stream = stream_of("oracle:bursty:symbols=20")
    document = stream.draw(0, 4000)
    assert len(set(document[:1000])) == 20
    np.testing.assert_array_equal(stream.draw(0, 1500), document[:1500])


def test_what_is_asked_was_told() -> None:
    stream = stream_of("oracle:recall:pairs=4,keys=6,gap=3,symbols=9")
    assert isinstance(stream, Recall)
    for episode in stream.draw(0, 19 * 20).reshape(20, 19):
        told, asked = episode[:8].reshape(4, 2), episode[11:].reshape(4, 2)
        assert len(set(told[:, 0])) == 4
        assert set(map(tuple, told)) == set(map(tuple, asked))
        assert (told[:, 0] < 6).all()
        assert (told[:, 1] >= 6).all()


def test_a_copy_is_as_far_away_as_it_says() -> None:
    document = stream_of("oracle:copy:lag=5").draw(0, 40)
    assert (document[5:10] == document[:5]).all()
    assert (document[15:20] == document[10:15]).all()
    assert (document[10:15] != document[5:10]).any()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("unigrm", "did you mean 'oracle:unigram'"),
        ("", "there are unigram, markov-1"),
        ("markov-9", "more than 1,048,576"),
        ("unigram:symbols=1", "'symbols' must be at least 2, but is 1"),
        ("unigram:alpha=0", "'alpha' must be at least 0.02"),
        ("unigram:alpha=nan", "'alpha' must be at least 0.02"),
        ("unigram:alfa=1", "did you mean 'alpha'"),
        ("unigram:order=1", "write markov-1"),
        ("unigram:alpha", "not key=value"),
        ("unigram:alpha=1,alpha=2", "gives 'alpha' twice"),
        ("tree:depth=8", "more than"),
        ("tree:split=1", "'split' must be in (0, 1)"),
        ("switching:hazard=1", "'hazard' must be in [0, 1)"),
        ("switching:order=2", "'order' must be in [0, 1]"),
        ("bursty:d=1", "'d' must be in [0, 1)"),
        ("bursty:theta=0", "'theta' must be in (0"),
        ("copy:lag=0", "'lag' must be at least 1"),
        ("recall:keys=3,pairs=4", "'keys' must be at least 4"),
        ("nothing:seed=-1", "'seed' must be at least 0"),
        ("nothing:symbols=x", "must be a whole number"),
    ],
)
def test_a_bad_spec_is_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(DocumentError) as raised:
        stream_of(f"oracle:{spec}")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_documents_side_by_side_are_read_as_alone() -> None:
    for name in NAMES:
        reader = best_readers(f"oracle:{name}", 3, 700, 5000)[2]
        stream = stream_of(f"oracle:{name}")
        document = stream.draw(2, 700)
        alone = stream.losses(document[None])[0]
        np.testing.assert_allclose(reader.knowing, alone, rtol=0, atol=1e-12)
        assert reader.learning.sum() > reader.knowing.sum()
        assert reader.sha256 == symbols_sha256(document)


@slow
@pytest.mark.parametrize("name", NAMES)
def test_a_million_tokens_are_cheap(name: str) -> None:
    started = time.process_time()
    document = stream_of(f"oracle:{name}").draw(0, 1 << 20)
    assert len(document) == 1 << 20
    assert time.process_time() - started < 5
