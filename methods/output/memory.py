"""Output methods over the document so far: pairs of a hidden state and the token that followed it.

At position t each remembered pair i < t has a share, and the shares are mixed into what the method
stands on, with l = weight:

    p(y) = (1 - l) p_below(y) + l * sum over i with y_i = y of share_i(t)

The memory holds the last `window` pairs. y_i is read before position t for every i < t, so the
mask inside a chunk is strict. With an empty memory p = p_below. Hidden states are those of what
the method stands on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench import (
    LanguageModel,
    Method,
    MethodError,
    Needs,
    Scores,
    StepShape,
    Window,
    compiled,
)
from tta_bench_methods.output.mixture import Mixture, mixed, places_of


@dataclass
class MemoryParams:
    """What is remembered, and how much it counts."""

    window: int = field(default=2048, metadata={"help": "pairs remembered"})
    weight: float = field(default=0.1, metadata={"help": "share l of the memory, 0 to 1"})

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError("window must be at least 1.")
        if not 0 <= self.weight < 1:
            raise ValueError("weight must be at least 0 and below 1.")


class MemoryMethod(Method):
    """Base of these methods: a subclass says what shares the pairs have.

    Keys are L2-normalised hidden states, so that one setting serves models of any width and scale.
    """

    family = "output"
    graphs = True
    learns_from_losses = False

    def shares(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        """The shares [B, C, N] of N pairs, which sum to one over the `visible` ones.

        Args:
            queries: [B, C, d].
            keys: [B, N, d].
            visible: [B, C, N] bool; where a query has none, its shares are ignored.
        """
        raise NotImplementedError

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        return Needs(hidden=params.weight > 0)

    def prepare(self) -> None:
        self._shares_of, self._mixed = self._visible_shares, mixed

    def compile(self) -> None:
        self._shares_of, self._mixed = compiled(self._visible_shares), compiled(mixed)

    def init_state(self) -> dict[str, Tensor]:
        """Unit hidden states [W, d] and the tokens [W] that followed them, the newest last."""
        size, device = self.params.window, self.model.device
        return {
            "keys": torch.zeros(size, self.model.hidden_size, device=device),
            "tokens": torch.zeros(size, dtype=torch.int64, device=device),
            "filled": torch.zeros((), dtype=torch.int64, device=device),
        }

    def score(self, window: Window) -> Scores:
        below = self.below.score(window)
        if self.params.weight == 0:
            return below
        if below.hidden is None:
            self.model.require_split()
            raise MethodError(f"{self.name} needs hidden states, and what stands below has none.")
        unit = F.normalize(below.hidden.detach().float(), dim=-1)  # [B, C, d]
        self._keys = torch.cat([self.state["keys"], unit], dim=1)  # [B, W+C, d]
        # The token after chunk position i is the chunk's input i+1; the last one's is never read.
        following = torch.cat([window.chunk_ids[:, 1:], window.chunk_ids[:, :1]], dim=1)
        tokens = torch.cat([self.state["tokens"], following], dim=1)  # [B, W+C]
        places = places_of(tokens, self.model.vocab_size)
        shares, known = self._shares_of(unit, self._keys, self.state["filled"])
        return Mixture(below, shares, tokens, places, known, self.params.weight, self._mixed)

    def _visible_shares(self, unit: Tensor, keys: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """The shares [B, C, W+C], zero where nothing is remembered, and where that is [B, C, 1]."""
        columns = unit.shape[1]
        visible = visible_pairs(filled, self.params.window, columns)
        known = (filled[:, None] + torch.arange(columns, device=filled.device) > 0)[..., None]
        return torch.where(known, self.shares(unit, keys, visible), 0.0), known

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if self.params.weight == 0:
            return
        keys, held = self._keys, torch.cat([self.state["tokens"], targets], dim=1)  # [B, W+C, ..]
        del self._keys  # a chunk's memory must not lie beside that of the next
        # The newest W of a lane's pairs begin where its own chunk's length says.
        places = torch.arange(self.params.window, device=held.device)
        index = places + window.scored[:, None]  # [B, W]
        torch.gather(
            keys, 1, index[:, :, None].expand(-1, -1, keys.shape[2]), out=self.state["keys"]
        )
        self.state["tokens"].copy_(held.gather(1, index))
        self.state["filled"].add_(window.scored).clamp_(max=self.params.window)

    def flops(self, shape: StepShape) -> float | None:
        if self.params.weight == 0:
            return self.below.flops(shape)
        pairs = self.params.window + shape.scored
        return self.below.flops(shape, 2 * self.model.hidden_size * pairs * shape.scored)


def visible_pairs(filled: Tensor, size: int, columns: int) -> Tensor:
    """[B, C, W+C] bool: the last W pairs before each column, of those there are.

    Args:
        filled: [B], how many of the W pairs of the memory there are; the newest lie last.
        size: W.
        columns: C, whose own pairs follow those of the memory.
    """
    entry = torch.arange(size + columns, device=filled.device)
    column = torch.arange(columns, device=filled.device)[:, None]
    strictly_before = (entry < size + column) & (entry >= column)
    return strictly_before & (entry >= (size - filled)[:, None, None])
