"""A plugin: the delta rule over hidden states as a trained head, in one file."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tta_bench import register
from tta_bench.heads import Head, SlowOptions, TrainedHead, loss_gradient


@dataclass
class DeltaOptions(SlowOptions):
    labels: bool = True
    width: int = 8


class DeltaHead(Head):
    """y = h + gate S^T q; each position fades S, reads it and corrects what its key recalls.

    The value is minus the gradient of the loss at h, or a projection of h, which is read at once.
    """

    def __init__(self, hidden_size, slow):
        super().__init__()
        self.adapts, self.learns_from_labels = slow.fast, slow.labels
        self.query, self.key = (nn.Linear(hidden_size, slow.width, bias=False) for _ in range(2))
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.keep, self.gate = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(0.1))
        self.begin = nn.Parameter(0.1 * torch.randn(slow.width, hidden_size))

    def fresh_state(self, lanes):
        return {"S": self.begin.expand(lanes, -1, -1)} if self.adapts else {}

    def forward(self, hidden, labels, mask, unembedding, state):
        q, k = (F.normalize(part(hidden), dim=-1) for part in (self.query, self.key))
        if not self.adapts:
            return hidden + self.gate * (q @ self.begin), {}
        S, outputs = state["S"], []
        if self.learns_from_labels:
            v = -loss_gradient(hidden, labels, torch.ones_like(mask, dtype=q.dtype), unembedding)
        else:
            v = self.value(hidden)
        for t in range(hidden.shape[1]):
            faded = self.keep.sigmoid() * S
            error = v[:, t] - (k[:, t, None] @ faded)[:, 0]
            written = faded + k[:, t, :, None] * error[:, None]
            outputs.append(q[:, t, None] @ (faded if self.learns_from_labels else written))
            S = torch.where(mask[:, t, None, None], written, S)
        return hidden + self.gate * torch.cat(outputs, dim=1), {"S": S}

    def flops(self, positions, unembedding):
        width, d = self.begin.shape
        if not self.adapts:
            return 2.0 * positions * 2 * d * width + 2.0 * positions * d * width
        value = 2 * unembedding if self.learns_from_labels else 2 * d * d
        return positions * (2.0 * 4 * d * width + value)


@register("toy-delta")
class ToyDelta(TrainedHead):
    """The delta rule between body and unembedding, for tests."""

    family = "head"
    Slow = DeltaOptions

    @classmethod
    def slow_weights(cls, model, slow):
        return DeltaHead(model.hidden_size, slow)


@dataclass
class InputOptions(DeltaOptions):
    labels: bool = False


@register("toy-inputs")
class ToyInputs(ToyDelta):
    """The same, learning from inputs alone."""

    family = "head"
    Slow = InputOptions
