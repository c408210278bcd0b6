"""How many tokens a model may read at once: the one rule, for protocols and for methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from tta_bench.errors import MethodError, UsageError

if TYPE_CHECKING:
    from tta_bench.model.window import Window


class Positioned(Protocol):
    """A `LanguageModel`, as far as this file knows it."""

    name: str

    @property
    def max_positions(self) -> int | None: ...


def check_positions(model: Positioned, tokens: int, reader: str, remedy: str) -> None:
    """Raises UsageError if more tokens would be read at once than the model has positions.

    Rotary positions are no exception: farther apart than in training, tokens are read badly and
    without a word.

    Args:
        model: the model, or its shape.
        tokens: the tokens read at once, carried ones included.
        reader: what reads them, with its verb, such as `window:context=9 reads`.
        remedy: what to do, such as `lower --chunk`.
    """
    most = model.max_positions
    if most is not None and tokens > most:
        raise UsageError(
            f"{reader} {tokens} tokens at once, but {model.name} has {most} positions; {remedy}."
        )


def check_window(model: Positioned, window: Window) -> None:
    """Raises MethodError if a lane of a window reads more tokens than the model has positions.

    Padding may lie beyond them. A method that builds wide windows and did not say so in its
    `needs` is caught here.
    """
    most, ids = model.max_positions, window.input_ids
    carried = 0 if window.past is None else window.past.length
    if most is None or carried + ids.shape[1] <= most or not _readable(ids):
        return
    held = 0 if window.past is None else window.past.valid
    tokens = int((window.lengths + held).max())
    if tokens > most:
        raise MethodError(
            f"a window of {tokens} tokens does not fit into the {most} positions of {model.name}; "
            "the method must read fewer, and say how many in needs()."
        )


def _readable(ids: torch.Tensor) -> bool:
    """Whether values may be looked at: not without weights, nor while a CUDA graph is captured."""
    return ids.device.type != "meta" and not (
        ids.is_cuda and torch.cuda.is_current_stream_capturing()
    )
