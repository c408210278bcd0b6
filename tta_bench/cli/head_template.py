"""`my-method`: a small block before the unembedding whose second layer learns while it reads.

    a_t = relu(W1 rms(h_t))²      y_t = h_t + W2 a_t - eta sum over s < t of (a_s . a_t) g_s

g_s is the gradient of the model's own loss at y_s, so the sum is what one gradient step on every
earlier token does to W2. W1, W2 and eta are slow weights, trained through these steps.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from tta_bench import register
from tta_bench.heads import Head, SlowOptions, TrainedHead, loss_gradient


@dataclass
class Options(SlowOptions):  # tta-bench train my-method:width=256
    width: int = field(default=128, metadata={"help": "hidden units"})


class MyMethodHead(Head):
    def __init__(self, hidden_size, options):
        super().__init__()
        self.adapts = options.fast  # fast=no: the control of the same size
        self.first = nn.Linear(hidden_size, options.width, bias=False)
        self.second = nn.Linear(options.width, hidden_size, bias=False)
        self.log_step = nn.Parameter(torch.tensor(-5.0))
        nn.init.zeros_(self.second.weight)  # training begins with the model's own predictions

    def fresh_state(self, lanes):  # what B lanes have written before they have read anything
        if not self.adapts:
            return {}
        return {"writes": self.first.weight.new_zeros(lanes, *self.first.weight.shape)}

    def forward(self, hidden, labels, mask, unembedding, state):  # a chunk [B, T, d]
        a = self.first(F.rms_norm(hidden, hidden.shape[-1:])).relu().square()
        y = hidden + self.second(a)
        if not self.adapts:
            return y, {}
        g = loss_gradient(y, labels, mask, unembedding)  # 0 where the mask is False
        earlier = (a @ a.mT).tril(-1) @ g + a @ state["writes"]  # strictly s < t
        return y - self.log_step.exp() * earlier, {"writes": state["writes"] + a.mT @ g}

    def flops(self, positions, unembedding):  # 2 per multiply-add
        layer = self.first.weight.numel()
        slow = 2 * positions * 2 * layer
        if not self.adapts:
            return slow
        pairs = 2 * positions**2 * sum(self.first.weight.shape)
        return slow + 2 * positions * 2 * layer + pairs + 2 * positions * unembedding


@register("my-method")
class MyMethod(TrainedHead):
    """A small block whose second layer takes a gradient step on every token it has read."""

    Slow = Options

    @classmethod
    def slow_weights(cls, model, options):
        return MyMethodHead(model.hidden_size, options)
