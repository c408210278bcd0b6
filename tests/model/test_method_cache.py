"""Carried keys that a method keeps itself: given to the model, staged, and taken back."""

import pytest
import torch
from tiny import random_document

from tta_bench import LaneCache, MethodError, Window
from tta_bench.model.positions import check_window


def window(ids, past):
    counts = torch.full((len(ids),), ids.shape[1])
    return Window(ids, counts, counts, ids.shape[1], past)


def two_texts(length):
    texts = [random_document("a", length, seed).token_ids for seed in (1, 2)]
    return torch.stack([torch.from_numpy(text).long() for text in texts])


def test_what_was_taken_can_be_given_back(llama):
    ids = two_texts(24)
    past = LaneCache(2, 8, llama.device)
    llama.logits(window(ids[:, :16], past))
    first = past.taken()
    assert past.taken() == []  # nothing is staged any more
    again = LaneCache.of(first, torch.full((2,), 16))
    found = llama.logits(window(ids[:, 16:], again)).full()
    whole = llama.logits(window(ids, None)).full()[:, 16:]
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)
    keys, values = again.taken()[0]
    assert keys.shape[2] == values.shape[2] == 24
    torch.testing.assert_close(keys[:, :, :16], first[0][0], rtol=0, atol=0)


def test_lanes_that_were_not_read_are_zero(llama):
    ids = two_texts(6)
    past = LaneCache(2, 8, llama.device)
    llama.logits(window(ids, past).row(1))
    for keys, values in past.taken():
        for part in (keys, values):
            assert part.any(-1).any(-1).any(-1).tolist() == [False, True]


def test_a_window_holds_what_is_valid_and_not_every_slot(llama):
    most, ids = llama.max_positions, two_texts(6)
    empty = [(torch.zeros(2, 1, most, 1), torch.zeros(2, 1, most, 1))]
    check_window(llama, window(ids, LaneCache.of(empty, torch.tensor([0, most - 6]))))
    with pytest.raises(MethodError, match=f"{most + 1} tokens does not fit"):
        check_window(llama, window(ids, LaneCache.of(empty, torch.tensor([0, most - 5]))))
