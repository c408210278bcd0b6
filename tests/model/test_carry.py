"""Reading on from carried keys and values, against whole documents under an explicit mask."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures import VOCAB, tiny_net
from torch import Tensor
from transformers import PreTrainedModel

from tta_bench import LanguageModel
from tta_bench.errors import ModelError
from tta_bench.model.cache import LaneCache
from tta_bench.model.window import Window

CHUNK, CAPACITY, REACH = 6, 20, 16
"""The reach is that of sliding windows, and the size of chunks of attention, in the tiny models."""

PATTERNS = {
    "full_attention": lambda query, key: key <= query,
    "sliding_attention": lambda query, key: (key <= query) & (query - key < REACH),
    "chunked_attention": lambda query, key: (key <= query) & (query // REACH == key // REACH),
}


def read_in_parts(net: PreTrainedModel, ids: Tensor, resets: dict[int, int]) -> list[Tensor]:
    """Logits of each chunk of two lanes; `resets` says which lane starts anew at which chunk."""
    model = LanguageModel(net, None, "tiny")
    past = LaneCache(2, CAPACITY, model.device)
    counts = torch.tensor([CHUNK, CHUNK])
    rows = []
    for step, part in enumerate(ids.split(CHUNK, dim=1)):
        if step in resets:
            past.reset(resets[step])
        rows.append(model.logits(Window(part, counts, counts, CHUNK, past)).full())
        past.commit(counts)
    return rows


def seen_in_parts(length: int, kind: str) -> Tensor:
    """Additive mask [1, 1, T, T]: the pattern, and of the past what the cache still holds."""
    position = torch.arange(length)
    query, key = position[:, None], position[None]
    held = key >= query // CHUNK * CHUNK - CAPACITY
    allowed = PATTERNS[kind](query, key) & held
    return torch.zeros(length, length).masked_fill(~allowed, torch.finfo().min)[None, None]


def expected(plain: PreTrainedModel, ids: Tensor, kinds: list[str]) -> Tensor:
    masks = {kind: seen_in_parts(ids.shape[1], kind) for kind in kinds}
    # A model whose layers are of one kind takes their mask.
    mask = masks if len(masks) > 1 else masks[kinds[0]]
    return plain(input_ids=ids, attention_mask=mask, use_cache=False).logits


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("llama", ["full_attention"]),
        ("mistral", ["sliding_attention"]),  # it has a window and no `layer_types`
        ("gemma3_text", ["full_attention", "sliding_attention"]),
        ("llama4_text", ["full_attention", "chunked_attention"]),
        ("gpt2", ["full_attention"]),  # its positions are learned
        ("bart", ["full_attention"]),  # and here counted from the length of the cache
    ],
)
def test_patterns_and_positions_are_kept(kind: str, layers: list[str]) -> None:
    """Eight chunks, so that a cache of three is full; the second lane starts anew at the third."""
    net = tiny_net(kind)
    plain = copy.deepcopy(net)
    ids = torch.randint(3, VOCAB, (2, 8 * CHUNK), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = torch.cat(read_in_parts(net, ids, {3: 1}), dim=1)
        first = expected(plain, ids[:1], layers)
        second = expected(plain, ids[1:, 3 * CHUNK :], layers)
    torch.testing.assert_close(found[1:, 3 * CHUNK :], second, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:1], first, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mamba", "qwen3_next", "rwkv", "xlnet"])
def test_a_model_without_keys_says_so(kind: str) -> None:
    model = LanguageModel(tiny_net(kind), None, "tiny")
    words = r"cannot read on from carried keys and values \(.+\); use --context-mode recompute\.$"
    with pytest.raises(ModelError, match=words):
        model.require_carry()
    window = Window(torch.ones(1, 4).long(), torch.tensor([4]), torch.tensor([4]), 4)
    carried = Window(
        window.input_ids, window.lengths, window.scored, 4, LaneCache(1, 8, model.device)
    )
    with pytest.raises(ModelError, match=words):
        model.logits(carried)
    assert model.logits(window).full().isfinite().all()


def test_the_window_is_read_alone_without_its_padding() -> None:
    """The last position of a document is the last that the model has."""
    model = LanguageModel(tiny_net("bart"), None, "tiny")
    most = model.max_positions
    past = LaneCache(2, 8, model.device)
    past.positions += torch.tensor([most - 2, 0])
    counts = torch.tensor([2, 6])
    ids = torch.ones(2, 6).long()
    assert model.logits(Window(ids, counts, counts, 6, past)).full().isfinite().all()
