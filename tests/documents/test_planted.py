"""Planted sentences: where they stand, what the control has in their place, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tta_bench.documents.planted import Planting, parse_planted
from tta_bench.documents.sources import open_source
from tta_bench.documents.split import undivided
from tta_bench.documents.tokens import TokenizedDataset, tokenized
from tta_bench.errors import DocumentError
from tta_bench.model.load import load_tokenizer

OPTIONS = "least=128,most=512,each=2"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("builtin:tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts, one of them shorter than any lag."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    words = [" ".join(random.choice(["ein", "großes", "λόγος", "tree"], 9)) for _ in range(150)]
    (folder / "long.txt").write_text("".join(f"{line}.\n" for line in words))
    (folder / "short.txt").write_text("Too short to remember anything.\n")
    return folder


def opened(folder: Path, tokenizer, options: str = OPTIONS, **limits) -> TokenizedDataset:
    cache = folder.parent / "cache"
    return tokenized(f"planted:{options}:{folder}", tokenizer, cache_dir=cache, **limits)


def test_what_is_asked_was_said_that_many_tokens_before(folder, tokenizer):
    document, control = opened(folder, tokenizer, max_tokens=1500)
    assert (document.key, control.key) == ("long.txt", "long.txt (control)")
    assert document.asked.planted
    assert not control.asked.planted
    assert document.asked.answers == control.asked.answers
    assert len(document.token_ids) == len(control.token_ids) == 1500
    lags = sorted(lag for *_, lag in document.asked.answers)
    assert len(lags) == 6
    for lag, least in zip(lags, (128, 128, 256, 256, 512, 512), strict=True):
        assert least <= lag < 2 * least
    other = document.token_ids != control.token_ids
    for start, stop, lag in document.asked.answers:
        said = slice(start - lag, stop - lag)
        answer = document.token_ids[start:stop]
        np.testing.assert_array_equal(document.token_ids[said], answer)
        np.testing.assert_array_equal(control.token_ids[start:stop], answer)
        assert not np.array_equal(control.token_ids[said], answer)
        assert not other[start:stop].any()
        other[said] = False
        name = tokenizer.decode(answer).strip()
        assert tokenizer.decode(control.token_ids).count(name) == 1
        assert tokenizer.decode(document.token_ids).count(name) == 2


def test_sizes_are_those_of_the_text_that_is_read(folder, tokenizer):
    for document in opened(folder, tokenizer):
        text = tokenizer.decode(document.token_ids)
        assert document.n_bytes == len(text.encode())
        assert document.n_words == 0, "no one has counted them"


def test_the_rest_is_the_text_from_its_start(folder, tokenizer):
    plain = tokenized(str(folder / "long.txt"), tokenizer, cache_dir=folder.parent / "cache")[0]
    document = opened(folder, tokenizer)[0]
    text, left = document.token_ids.tolist(), iter(plain.token_ids.tolist())
    expected = next(left)
    found = 0
    for token in text:  # a subsequence: sentences stand in between
        if token == expected:
            found += 1
            expected = next(left, None)
    assert found == len(plain.token_ids)
    assert document.sha256 == plain.sha256, "both documents are one text to the statistics"


def test_seeds_and_values_are_other_documents(folder, tokenizer):
    first = opened(folder, tokenizer)
    again = tokenized(
        f"planted:{OPTIONS}:{folder}", tokenizer, cache_dir=folder.parent / "another cache"
    )
    assert again.fingerprint == first.fingerprint
    assert again[0].asked == first[0].asked
    for changed in (f"{OPTIONS},seed=1", "least=128,most=256,each=2", "least=128,most=512,each=1"):
        assert opened(folder, tokenizer, changed).fingerprint != first.fingerprint


def test_where_there_is_no_room_a_sentence_says_so(folder, tokenizer):
    with pytest.raises(DocumentError, match=r"leaves no room for 4 sentences 1,024 tokens apart"):
        opened(folder, tokenizer, "each=4", max_tokens=1000)
    with pytest.raises(DocumentError, match="lower --min-tokens"):
        opened(folder, tokenizer, "least=65536")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("planted:", "names no dataset"),
        ("planted:least=100:x", "must be a power of two, but is 100"),
        ("planted:least=64:x", "'least' must be above 64"),
        ("planted:least=256,most=128:x", "at most 'most'"),
        ("planted:each=0:x", "'each' must be at least 1"),
        ("planted:lest=128:x", "did you mean 'least'"),
        ("planted:least=128,few:x", "there is no option 'few'"),
        ("planted:least=many:x", "'least' must be a whole number"),
    ],
)
def test_a_spec_that_is_wrong_is_one_sentence(spec, sentence):
    with pytest.raises(DocumentError, match=sentence):
        parse_planted(spec)


def test_specs():
    assert parse_planted("npm:a/*.txt") is None
    assert parse_planted("planted:npm:a/*.txt") == (Planting(), "npm:a/*.txt")
    assert parse_planted("planted:seed=3:share:0.5:x") == (Planting(seed=3), "share:0.5:x")
    assert undivided("planted:each=1:share:0.5:x") == "x"
    assert Planting().lags == [1024, 2048, 4096, 8192, 16384, 32768, 65536]
    with pytest.raises(DocumentError, match="choose a dataset of texts"):
        open_source("planted:builtin:stdlib", None)
