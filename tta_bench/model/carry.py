"""How a model reads on from carried keys and values: all lanes at once, or each by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tta_bench.errors import ModelError
from tta_bench.model.attention import NAME as CAUSAL
from tta_bench.model.cache import LaneCache
from tta_bench.model.compilation import run_split
from tta_bench.model.placement import reading_device
from tta_bench.model.rounding import apart
from tta_bench.model.window import Window

if TYPE_CHECKING:
    from tta_bench.model.split import Split

Read = Callable[["Split", Mapping[str, Tensor], str, Window], Tensor]
"""Reads a window whose past is carried: of the split, its replaced weights, and what is wanted."""

_PART = 5
"""Tokens that are read at a time to find out how a model reads on."""
_RELATIVE = {"full_attention", "sliding_attention"}
"""Kinds of layers whose pattern depends on the distance of two tokens, not on where they stand."""


def read_together(
    split: Split, replaced: Mapping[str, Tensor], what: str, window: Window
) -> Tensor:
    """Reads all lanes at once: the model is told the positions of the inputs, and what is held."""
    past, width = window.past, window.input_ids.shape[1]
    assert past is not None
    causal_alone = split.net.config.get_text_config()._attn_implementation == CAUSAL
    output, cache = run_split(
        split,
        replaced,
        what,
        window.input_ids,
        use_cache=True,
        past_key_values=past.to_transformers(),
        # Transformers builds no mask for an attention that has no mask function of its own.
        attention_mask=past.attention_mask(width, split.net.dtype)
        if causal_alone
        else past.held(width),
        position_ids=past.position_ids(width, window.lengths),
    )
    past.stage(cache, width)
    return output


def read_alone(split: Split, replaced: Mapping[str, Tensor], what: str, window: Window) -> Tensor:
    """Reads a window of one lane, without padding, from a cache that knows its own position."""
    past, ids = window.past, window.input_ids
    assert past is not None
    if not int(window.lengths):  # an idle lane, which forgets all before it reads again
        return run_split(split, replaced, what, ids, use_cache=False)[0]
    cache = past.alone()
    output, cache = run_split(split, replaced, what, ids, use_cache=True, past_key_values=cache)
    past.stage(cache, ids.shape[1], masked=past.length - int(past.valid))
    return output


def way_to_read_on(split: Split, what: str, vocab_size: int) -> Read | str:
    """The way in which a model reads in parts what it reads at once, or why there is none.

    Tried on a few synthetic tokens: two lanes at different positions, one of which starts anew.
    """
    if reading_device(split.net).type == "meta":
        return read_together  # there are no values to compare
    kinds = set(getattr(split.net.config.get_text_config(), "layer_types", None) or ())
    ways: list[Read] = [read_together, read_alone]
    problem = ""
    for read in ways if kinds <= _RELATIVE else ways[1:]:
        try:
            if _parts_are_the_whole(split, what, vocab_size, read):
                return read
            problem = "what it reads in parts differs from what it reads at once"
        except torch.OutOfMemoryError:
            raise
        except ModelError as error:
            problem = str(error)
        except Exception as error:  # code of others: there is no end to what it raises
            problem = f"its code ends in {type(error).__name__}"
    return problem


@torch.no_grad()
def _parts_are_the_whole(split: Split, what: str, vocab_size: int, read: Read) -> bool:
    device = reading_device(split.net)
    ids = (torch.arange(4 * _PART, device=device) * 37 % vocab_size).view(2, 2 * _PART)
    counts = torch.full((2,), _PART, device=device)
    past = LaneCache(2, 2 * _PART, device)
    for part in ids.split(_PART, dim=1):
        past.reset(1)
        window = Window(part, counts, counts, _PART, past)
        rows = [window] if read is read_together else [window.row(0), window.row(1)]
        found = torch.cat([read(split, {}, what, row) for row in rows])
        past.commit(counts)
    for lane, start in ((0, 0), (1, _PART)):
        whole = split(what, ids[lane : lane + 1, start:], use_cache=False)[0][0, -_PART:].double()
        if apart(found[lane].double(), whole, split.net.dtype) is not None:
            return False
    return True
