"""No text in both parts: equal documents, near-equal ones, and how quickly that is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tta_bench.documents import TokenizedDocument
from tta_bench.errors import UsageError
from tta_bench.tuning.overlap import PASSAGE, passage_hashes, require_no_overlap


class Documents(list):
    def __init__(self, spec, documents):
        super().__init__(documents)
        self.spec = spec
        self.total_tokens = sum(len(document.token_ids) for document in documents)


def document(key, ids, sha256=None):
    ids = np.asarray(ids, np.int32)
    return TokenizedDocument(key, ids, len(ids), len(ids), sha256 or f"sha of {key}")


def random_ids(seed, length=600):
    return np.random.default_rng(seed).integers(0, 2000, length)


def refused(mine, theirs):
    with pytest.raises(UsageError) as raised:
        require_no_overlap([Documents("a", mine)], [Documents("b", theirs)])
    return str(raised.value)


def test_other_texts_pass():
    mine = [document(f"d{i}", random_ids(i)) for i in range(20)]
    theirs = [document(f"e{i}", random_ids(100 + i)) for i in range(20)]
    require_no_overlap([Documents("a", mine)], [Documents("b", theirs)])


def test_equal_texts_are_named_even_where_other_parts_of_them_are_read():
    mine, theirs = document("one", random_ids(1), "f00"), document("two", random_ids(2), "f00")
    sentence = refused([document("x", random_ids(3)), mine], [theirs])
    assert sentence == (
        "one of a and two of b are the same text on the tuning and the reported side; tune on "
        "other text."
    )


def test_near_equal_texts_are_named():
    ids = random_ids(1)
    near = np.concatenate([random_ids(2, 300), ids[100:400], random_ids(3, 900)])
    assert "x of a and y of b on the tuning" in refused([document("x", ids)], [document("y", near)])


def test_a_short_passage_in_common_is_no_copy():
    licence = random_ids(9, 100)
    mine = document("x", np.concatenate([licence, random_ids(1)]))
    theirs = document("y", np.concatenate([licence, random_ids(2)]))
    require_no_overlap([Documents("a", [mine])], [Documents("b", [theirs])])
    tiny = [document("t", random_ids(1, 5)), document("empty", [])]
    require_no_overlap([Documents("a", tiny)], [Documents("b", [theirs])])


def test_many_pairs_are_counted_and_three_named():
    mine = [document(f"d{i}", random_ids(i)) for i in range(5)]
    theirs = [document(f"e{i}", random_ids(i)) for i in range(5)]
    sentence = refused(mine, theirs)
    assert sentence.count(" of b") == 3
    assert "and 2 more pairs" in sentence


def test_a_passage_has_one_hash_wherever_it_stands():
    ids = random_ids(4, 100)
    hashes = passage_hashes(ids)
    assert len(hashes) == 100 - PASSAGE + 1 == len(set(hashes.tolist()))
    assert passage_hashes(ids[7:])[0] == hashes[7]
    changed = ids.copy()
    changed[7] += 1
    assert (passage_hashes(changed) != hashes).sum() == 8
    assert len(passage_hashes(ids[: PASSAGE - 1])) == 0


def test_a_thousand_documents_are_compared_quickly():
    ids = random_ids(1, 300_000).astype(np.int32).reshape(1000, 300)
    documents = [document(f"d{i}", row) for i, row in enumerate(ids)]
    mine, theirs = Documents("a", documents[:500]), Documents("b", documents[500:])
    began = time.process_time()
    require_no_overlap([mine], [theirs])
    assert time.process_time() - began < 2
    theirs.append(document("copy", ids[3]))
    assert "d3 of a and copy of b" in refused(mine, theirs)
