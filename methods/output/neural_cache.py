"""`neural-cache`: the continuous cache of Grave et al. (2017, arXiv 1612.04426).

The document so far is a memory of pairs (hidden state h_i, the token y_i that followed it).
At position t, with l = weight and theta = flatness,

    p(y) = (1 - l) p_below(y) + l p_cache(y)
    p_cache(y) ~ sum over i < t with y_i = y of exp(theta h_t . h_i)

over the last `window` pairs. Hidden states are L2-normalised, so that one theta serves models of
any width and scale (the paper's LSTM states are used as they are). y_i is read before position t
for every i < t, so the mask inside a chunk is strict. With an empty memory
p = p_below. Hidden states and p_below are the model's, or those of the method that the cache
stands on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tta_bench import Method, MethodError, Scores, StepShape, Window, register


@register("neural-cache")
class NeuralCache(Method):
    """Continuous cache: mixes in tokens that followed similar hidden states (Grave et al. 2017)."""

    family = "output"

    @dataclass
    class Params:
        """Hyper-parameters of the cache."""

        window: int = field(default=2048, metadata={"help": "pairs remembered"})
        theta: float = field(default=20.0, metadata={"help": "flatness, on unit hidden states"})
        weight: float = field(default=0.1, metadata={"help": "share l of the cache, 0 to 1"})

        def __post_init__(self) -> None:
            if self.window < 1:
                raise ValueError("window must be at least 1.")
            if not 0 <= self.weight < 1:
                raise ValueError("weight must be at least 0 and below 1.")

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
            raise MethodError("neural-cache needs hidden states, and what stands below has none.")
        hidden = below.hidden.detach().float()  # [B, C, d]
        unit = torch.nn.functional.normalize(hidden, dim=-1)
        keys = torch.cat([self.state["keys"], unit], dim=1)  # [B, W+C, d]
        # The token after chunk position i is the chunk's input i+1; the last one's is never read.
        following = torch.cat([window.chunk_ids[:, 1:], window.chunk_ids[:, :1]], dim=1)
        tokens = torch.cat([self.state["tokens"], following], dim=1)  # [B, W+C]
        size, columns = self.params.window, window.chunk_size
        entry = torch.arange(size + columns, device=unit.device)
        column = torch.arange(columns, device=unit.device)[:, None]
        strictly_before = (entry < size + column) & (entry >= column)  # the last W pairs
        empty = size - self.state["filled"]
        visible = strictly_before & (entry >= empty[:, None, None])  # [B, C, W+C]
        similar = self.params.theta * unit @ keys.transpose(1, 2)
        shares = torch.softmax(similar.masked_fill(~visible, -math.inf), dim=-1)
        known = (self.state["filled"][:, None] + column.T > 0)[..., None]  # [B, C, 1]
        shares = torch.where(known, shares, 0.0)  # an empty memory gives NaN shares
        self._keys = keys
        return _Mixture(below, shares, tokens, known, self.params.weight)

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


class _Mixture(Scores):
    """log((1 - l) p_below + l p_cache), normalised; p_below alone where the memory is empty."""

    normalised = True

    def __init__(self, below: Scores, shares: Tensor, tokens: Tensor, known: Tensor, weight: float):
        super().__init__(*below.shape)
        self.below = below
        self.hidden = below.hidden
        self.shares = shares  # [B, C, W+C], each row sums to one, or to zero
        self.tokens = tokens  # [B, W+C]
        self.known = known  # [B, C, 1]
        self.weight = weight

    def rows(self, start: int, stop: int) -> Tensor:
        model = torch.log_softmax(self.below.rows(start, stop).float(), dim=-1)
        shares = self.shares[:, start:stop]
        index = self.tokens[:, None, :].expand_as(shares)
        cache = torch.zeros_like(model).scatter_add_(2, index, shares)
        mixed = model + torch.where(self.known[:, start:stop], math.log1p(-self.weight), 0.0)
        # Only tokens that are remembered gain; the vocabulary is much larger than the memory.
        gain = cache.gather(2, index).log() + math.log(self.weight)
        return mixed.scatter_(2, index, torch.logaddexp(mixed.gather(2, index), gain))
