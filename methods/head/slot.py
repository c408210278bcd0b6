"""`slot`: one vector on the last hidden states (SLOT; Hu et al. 2025, arXiv 2505.12392).

    logits_t = E (h_t + delta)

After each chunk delta takes `steps` steps of AdamW on the mean cross-entropy of the chunk's tokens,
which were predicted from the same h_t; no gradient passes through the body. delta is zero at a
document's start. Each chunk has an AdamW of its own, so that delta is all that is kept.

The authors fit delta to a prompt and then generate under it: one fit from zero for each prompt.
Here a document is read chunk by chunk, each chunk predicted with what was fitted to those before,
and the fit goes on from the delta of the chunk before. Their constants are eps 1e-5, weight decay
1e-8, five steps and a step size of 0.1, which is too large for small models.

In a stack h and its logits are those of the method below; the gradient is taken through the model's
own unembedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tta_bench import Logits, Method, MethodError, Scores, StepShape, Window, register
from tta_bench.heads import loss_gradient, unembedding_of

BETAS = (0.9, 0.999)
EPS = 1e-5
WEIGHT_DECAY = 1e-8


@register("slot")
class Slot(Method):
    """SLOT: one vector added to the last hidden states, fitted to the text just read."""

    family = "head"
    graphs = True
    learns_from_losses = False

    @dataclass
    class Params:
        """How the vector is fitted."""

        lr: float = field(default=0.03, metadata={"help": "step size, in units of hidden states"})
        steps: int = field(default=5, metadata={"help": "steps of AdamW after each chunk"})

        def __post_init__(self) -> None:
            if self.lr < 0:
                raise ValueError("lr must be at least 0.")
            if self.steps < 1:
                raise ValueError("steps must be at least 1.")

    def prepare(self) -> None:
        self.model.require_split()
        self.unembedding = unembedding_of(self.model)

    def init_state(self) -> dict[str, Tensor]:
        """The vector [d]."""
        return {"delta": torch.zeros(self.model.hidden_size, device=self.model.device)}

    def score(self, window: Window) -> Scores:
        below = self.below.score(window)
        if below.hidden is None or below.unembed is None:
            raise MethodError(
                "slot is a head: it reads hidden states, and what stands below it gives "
                "probabilities alone; put it below."
            )
        if self.params.lr == 0:
            return below
        self._hidden = below.hidden.detach().float()
        moved = self._hidden + self.state["delta"][:, None]
        return Logits(moved.to(self.model.dtype), below.unembed, self.model.vocab_size)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if self.params.lr == 0:
            return
        hidden, delta, lr = self._hidden, self.state["delta"], self.params.lr
        del self._hidden
        share = window.mask / window.scored.clamp_min(1)[:, None]
        first, second = torch.zeros_like(delta), torch.zeros_like(delta)
        for number in range(1, self.params.steps + 1):
            point = hidden + delta[:, None]
            gradient = loss_gradient(point, targets, share, self.unembedding).sum(1)
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            root = (second / (1 - BETAS[1] ** number)).sqrt()
            delta.mul_(1 - lr * WEIGHT_DECAY)
            delta.addcdiv_(first, root + EPS, value=-lr / (1 - BETAS[0] ** number))

    def flops(self, shape: StepShape) -> float | None:
        if self.params.lr == 0:
            return self.below.flops(shape)
        # Each step computes the chunk's logits and the gradient at their hidden states.
        return self.below.flops(shape, self.params.steps * 2 * self.cost.unembed(shape.scored))
