"""`tint`: what Trainable Transformer in Transformer computes (Panigrahi et al. 2023).

TinT (arXiv 2307.01189) is a transformer built by hand, such that its forward pass trains a small
model inside it on the first part of a block and then predicts the rest. What the small model goes
through is one step of gradient descent; this method takes it directly:

    w <- w0 - lr * factor * G,   G = d(sum of the losses in the prefix) / dw

and the whole block is read again by w, with the prefix in context. Which tensors move, at which
factor, is said in `tensors`; how G departs from a gradient, in `backward`.

A stream becomes blocks: for each chunk the prefix is the last `context` tokens before it, and every
block starts from the pretrained w0, so that nothing but tokens is kept. The last target of a prefix
is the first input of the chunk, which is known before anything of the chunk is predicted. (The
authors cut a text into blocks of 1,024 and train on the first half: `context=512`, chunks of 512.)
`context=0` takes as prefix whatever the protocol or a method below shows of the text before.

`gradient=held` has exact Jacobians of norms and activations in place of the authors' differences,
and `gradient=exact` is the plain gradient of the same tensors, all at one rate. The authors built
GPT-2 and OPT. On a model with gated MLPs or RMS norms the same rules mean: values, outputs, and all
matrices of the MLP move.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tta_bench import LanguageModel, Method, Needs, Scores, StepShape, Window, register
from tta_bench_methods.parameter.tint.backward import differences, held_attention
from tta_bench_methods.parameter.tint.blocks import block_of, remember
from tta_bench_methods.parameter.tint.tensors import (
    mask_queries_and_keys,
    queries_and_keys,
    updated,
)


@dataclass
class Options:
    """The step, and where it is taken."""

    lr: float = field(default=1e-5, metadata={"help": "step size, on the summed loss"})
    context: int = field(
        default=256, metadata={"help": "tokens of the prefix; 0: what the protocol shows"}
    )
    layers: int | None = field(
        default=None, metadata={"help": "top layers that are updated; none: all"}
    )
    gradient: Literal["tint", "held", "exact"] = field(
        default="tint", metadata={"help": "as the authors', with exact Jacobians, or the plain one"}
    )

    def __post_init__(self) -> None:
        if self.context < 0:
            raise ValueError("context must be at least 0.")
        if self.lr < 0:
            raise ValueError("lr must be at least 0.")
        if self.layers is not None and self.layers < 1:
            raise ValueError("layers must be at least 1.")


@register("tint")
class Tint(Method):
    """TinT: one step on the prefix of a block, then the rest of it (Panigrahi et al. 2023)."""

    family = "parameter"
    learns_from_losses = False
    off: ClassVar[dict[str, object]] = {"lr": 0.0, "context": 0}
    Params: ClassVar[type[Any]] = Options

    @classmethod
    def probe_params(cls, params: Options) -> Options:
        return replace(params, context=min(params.context, 24))  # few positions there

    @classmethod
    def needs(cls, params: Options, model: LanguageModel, step: StepShape) -> Needs:
        cls._factors(params, model)
        return Needs(positions=params.context + step.scored if params.context else 0)

    @classmethod
    def _factors(cls, params: Options, model: LanguageModel) -> dict[str, float]:
        """What is updated, on a model whose attention and norms are known."""
        factors = updated(model, params.layers)
        # A model without the values of its weights is taken at the names of its modules.
        if params.gradient == "tint" and model.device.type != "meta":
            with differences(model):
                pass
        return dict.fromkeys(factors, 1.0) if params.gradient == "exact" else factors

    def prepare(self) -> None:
        self.model.require_gradients()
        self.factors = self._factors(self.params, self.model)
        alone = self.model.one_by_one(self.factors) if self.lanes > 1 else None
        if alone is not None:
            self.notes = (f"lanes are read one after another: {alone}.",)

    def init_state(self) -> dict[str, Tensor]:
        """The last inputs [context], the newest last, and how many of them there are."""
        device = self.model.device
        return {
            "tokens": torch.zeros(self.params.context, dtype=torch.int64, device=device),
            "filled": torch.zeros((), dtype=torch.int64, device=device),
        }

    def score(self, window: Window) -> Scores:
        block = self._block(window)
        return self.model.logits(block, self.adapted(block))

    def _block(self, window: Window) -> Window:
        if self.params.context == 0:
            return self.below.provide(window)
        return block_of(self.state["tokens"], self.state["filled"], window)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if self.params.context:
            remember(self.state["tokens"], self.state["filled"], window)

    def adapted(self, block: Window) -> dict[str, Tensor]:
        """The weights after the step on each lane's prefix, [B, ...]; none where none is needed."""
        before = block.lengths - block.scored
        width = int(before.max())
        if self.params.lr == 0 or width == 0:
            return {}
        prefix = Window(block.input_ids[:, :width], before, before, width)
        targets = block.input_ids[:, 1 : width + 1].masked_fill(~prefix.mask, 0)
        lanes = block.lanes
        leaves = {
            name: self.model.parameter(name).expand(lanes, *self.model.parameter(name).shape)
            for name in self.factors
        }
        leaves = {name: value.clone().requires_grad_() for name, value in leaves.items()}
        gradients = self._gradients(prefix, targets, leaves)
        for name, gradient in zip(leaves, gradients, strict=True):
            start = leaves[name].detach()
            wide = torch.promote_types(start.dtype, torch.float32)
            step = self.params.lr * self.factors[name] * mask_queries_and_keys(name, gradient)
            leaves[name] = (start.to(wide) - step.to(wide)).to(start.dtype)
        return leaves

    @torch.enable_grad()
    def _gradients(
        self, prefix: Window, targets: Tensor, leaves: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """The gradient of each lane's summed loss, one tensor for each of the leaves."""
        with ExitStack() as stack:
            if self.params.gradient != "exact":
                stack.enter_context(held_attention(self.model))
            if self.params.gradient == "tint":
                stack.enter_context(differences(self.model))
            rows = self.model.logits(prefix, leaves).full()
            wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
            losses = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none")
            summed = (losses * prefix.mask.flatten()).sum()
            return torch.autograd.grad(summed, list(leaves.values()))

    def flops(self, shape: StepShape) -> float:
        block = self.below.provided(shape)
        if self.params.context:
            context = min(self.params.context, shape.start)
            block = StepShape(context + shape.scored, shape.scored, 0)
        length = block.inputs - block.scored
        flops = self.cost.forward(block) + self.below.beside(shape)
        if self.params.lr == 0 or length == 0:
            return flops
        prefix = StepShape(length, length, 0)
        flops += self.cost.forward(prefix) + self.cost.backward(prefix, list(self.factors))
        if self.params.gradient != "exact":
            flops -= length * self._held_flops()
        return flops

    def _held_flops(self) -> float:
        """FLOPs per token of the gradients through queries and keys that are not computed."""
        shapes = self.cost.linear_shapes()
        held = queries_and_keys(self.model, self.params.layers, self.factors)
        return sum(2.0 * inner * outer for inner, outer in (shapes[name] for name in held))
