"""The tokens of a stream with a known best reader as text, for excerpts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_tokenizers import byte_level

from tta_bench.documents import tokenized
from tta_bench.documents.tokens import Options
from tta_bench.errors import DocumentError
from tta_bench.evaluation.reopen import Reopened


def test_each_token_is_a_piece_of_its_own(tmp_path: Path) -> None:
    options = Options(limit=3, max_tokens=50)
    spec = "oracle:unigram:symbols=8"
    documents = tokenized(spec, byte_level(), limit=3, max_tokens=50, cache_dir=tmp_path)
    reopened = Reopened(spec, byte_level(), options, documents)
    found = dict(reopened.pieces({2, 0}))
    assert list(found) == [0, 2]
    assert found[2] == [byte_level().decode([id_]) for id_ in reopened.ids(2)]
    with pytest.raises(DocumentError, match="no text"):
        list(reopened.places({0}))
