"""Neighbours in the document so far, mixed in as the gate says; and how that is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench import LanguageModel, MethodError, Scores, Window
from tta_bench.heads import BodyModule, SlowOptions, State, Unembedding
from tta_bench_methods.output.knn_adapter.gate import Gate
from tta_bench_methods.output.knn_lm import nearest, squared_distances
from tta_bench_methods.output.memory import visible_pairs

NEAREST = 8
"""Distances that the gate sees."""
FARTHEST = 4.0
"""The largest squared distance of unit vectors: what stands where there are fewer neighbours."""
WEIGHT, TEMPERATURE = 0.1, 0.1
"""What every position begins with, before training."""


@dataclass
class GateOptions(SlowOptions):
    """The store and the net."""

    window: int = field(default=2048, metadata={"help": "pairs remembered"})
    k: int = field(default=1024, metadata={"help": "neighbours"})
    width: int = field(default=32, metadata={"help": "width of the net's layers"})
    layers: int = field(default=3, metadata={"help": "layers of the net"})

    def __post_init__(self) -> None:
        for name in ("window", "k", "width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1.")


class Adapted(Scores):
    """log((1 - l) p_below + l p_neighbours), with l and the shares of each position's own."""

    normalised = True

    def __init__(self, below: Scores, shares: Tensor, tokens: Tensor, log_weights: Tensor):
        super().__init__(*below.shape)
        self.hidden = below.hidden
        self._below, self._shares, self._tokens = below, shares, tokens
        self._log_weights = log_weights

    def rows(self, start: int, stop: int) -> Tensor:
        below = self._below.rows(start, stop).float().log_softmax(-1)
        return mixed(
            below, self._shares[:, start:stop], self._tokens, self._log_weights[:, start:stop]
        )


def mixed(below: Tensor, shares: Tensor, tokens: Tensor, log_weights: Tensor) -> Tensor:
    """Log-probabilities [B, n, V] of the mixture.

    Args:
        below: log-probabilities of the model [B, n, V].
        shares: [B, n, N] of the neighbours; zero where one is none.
        tokens: [B, N], what followed each.
        log_weights: [B, n, 2], of the model and of the neighbours.
    """
    place = tokens[:, None].expand_as(shares)
    found = torch.zeros_like(below).scatter_add(2, place, shares.to(below.dtype))
    # A logarithm of zero would have no gradient.
    found = found.clamp_min(torch.finfo(below.dtype).tiny).log()
    return torch.logaddexp(below + log_weights[..., :1], found + log_weights[..., 1:])


class AdaptedNeighbours(BodyModule):
    """kNN-LM whose l and temperature come from a gate. Its state are the last W pairs of a lane.

    Pairs are constants; what is trained is the gate, for the loss of the mixture.
    """

    def __init__(self, hidden_size: int, options: GateOptions):
        super().__init__()
        self.options, self.hidden_size = options, hidden_size
        features = {"distances": NEAREST, "pairs": 1}
        self.gate = Gate(hidden_size, features, options.width, options.layers)
        with torch.no_grad():
            self.gate.weights.weight.zero_()
            self.gate.weights.bias.copy_(torch.tensor([1 - WEIGHT, WEIGHT]).log())
            self.gate.log_temperature.weight.zero_()
            self.gate.log_temperature.bias.fill_(math.log(TEMPERATURE))

    def fresh_state(self, lanes: int) -> State:
        """Unit hidden states [lanes, W, d] and the tokens that followed, the newest last."""
        size, device = self.options.window, self.gate.weights.bias.device
        return {
            "keys": torch.zeros(lanes, size, self.hidden_size, device=device),
            "tokens": torch.zeros(lanes, size, dtype=torch.int64, device=device),
            "filled": torch.zeros(lanes, dtype=torch.int64, device=device),
        }

    def mix(self, below: Scores, window: Window, state: State) -> tuple[Scores, Tensor]:
        """The mixture with what stands below, and the keys [B, W + C, d] for `stored`."""
        if below.hidden is None:
            raise MethodError("knn-adapter needs hidden states, and what stands below has none.")
        hidden = below.hidden.detach().float()
        unit = F.normalize(hidden, dim=-1)
        keys = torch.cat([state["keys"].float(), unit], dim=1)
        # The token after chunk position i is the chunk's input i+1; the last one's is never read.
        following = torch.cat([window.chunk_ids[:, 1:], window.chunk_ids[:, :1]], dim=1)
        tokens = torch.cat([state["tokens"], following], dim=1)
        visible = visible_pairs(state["filled"], self.options.window, unit.shape[1])
        distances = squared_distances(unit, keys, unit @ keys.mT)
        distances = distances.masked_fill(~visible, math.inf)
        log_weights, log_temperature = self._gate(hidden, distances, visible)
        near = nearest(distances, self.options.k) & visible
        known = visible.any(-1, keepdim=True)
        likeness = torch.where(near, -distances, 0.0) / log_temperature.exp()
        # Where nothing is known the shares would be NaN, and so would their gradients.
        shares = torch.softmax(likeness.masked_fill(known & ~near, -math.inf), dim=-1)
        alone = torch.tensor([0.0, -math.inf], device=hidden.device)
        log_weights = torch.where(known, log_weights, alone)
        return Adapted(below, torch.where(known, shares, 0.0), tokens, log_weights), keys

    def _gate(self, hidden: Tensor, distances: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        count = min(NEAREST, distances.shape[-1])
        closest = distances.topk(count, largest=False).values.clamp_max(FARTHEST)
        closest = F.pad(closest, (0, NEAREST - count), value=FARTHEST)
        pairs = visible.sum(-1, keepdim=True).float().log1p()
        context = F.layer_norm(hidden, hidden.shape[-1:])
        if not self.options.fast:
            context, closest, pairs = (torch.zeros_like(x) for x in (context, closest, pairs))
        return self.gate(context, {"distances": closest, "pairs": pairs})

    def stored(self, keys: Tensor, window: Window, labels: Tensor, state: State) -> State:
        """The newest W pairs of each lane, once a chunk's labels are known."""
        held = torch.cat([state["tokens"], labels], dim=1)
        size = self.options.window
        index = torch.arange(size, device=labels.device) + window.scored[:, None]
        return {
            "keys": keys.gather(1, index[..., None].expand(-1, -1, keys.shape[2])),
            "tokens": held.gather(1, index),
            "filled": (state["filled"] + window.scored).clamp(max=size),
        }

    def read(self, model: LanguageModel, window: Window, state: State) -> tuple[Scores, Tensor]:
        return self.mix(model.logits(window), window, state)

    def write(
        self, memo: Tensor, window: Window, labels: Tensor, unembedding: Unembedding, state: State
    ) -> State:
        return self.stored(memo, window, labels, state)
