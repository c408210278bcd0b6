"""`dynamic-eval`: gradient steps on the text just read (Mikolov et al. 2010; Krause et al. 2018).

After each chunk (or every `interval` tokens) the adapted weights theta of a lane take one step on
the mean cross-entropy g of the tokens scored since the last one. The scoring forward pass is
reused for the gradient, so adapting everything costs 3x a forward pass. Each lane has weights of
its own, kept in float32, and starts every document from the pretrained theta0. All lanes are read,
differentiated and stepped at once: their weights are the slices of one tensor [lanes, ...].
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from tta_bench import Method, Scores, StepShape, Window, compiled, register
from tta_bench_methods.parameter.dynamic_eval.rules import (
    RULES,
    STATISTICS_BLOCK,
    gradient_statistics,
)
from tta_bench_methods.parameter.dynamic_eval.step import Adapted, Update, change_one, step
from tta_bench_methods.parameter.dynamic_eval.subsets import LowRankAdapters, subset_names


@register("dynamic-eval")
class DynamicEvaluation(Method):
    """Dynamic evaluation: gradient descent on the text just read (Krause et al. 2018)."""

    family = "parameter"
    gradients = True
    graphs = True

    @dataclass
    class Params:
        """Hyper-parameters of dynamic evaluation."""

        optimizer: Literal["sgd", "adam", "adamw", "rms18", "rms19", "rms-gpt2"] = field(
            default="adam", metadata={"help": "update rule"}
        )
        lr: float | None = field(
            default=None, metadata={"help": "learning rate; none: the rule's own default"}
        )
        subset: str = field(
            default="all",
            metadata={"help": "all, body, mlp, last-K, norm, bias, head or lora"},
        )
        clip: float | None = field(
            default=None, metadata={"help": "largest gradient norm of a step"}
        )
        prior: float | None = field(
            default=None,
            metadata={"help": "pull back to the pretrained weights (adamw, rms18, rms19)"},
        )
        interval: int | None = field(
            default=None, metadata={"help": "tokens between steps; none: every chunk"}
        )
        rank: int = field(default=8, metadata={"help": "rank r of lora"})
        targets: tuple[str, ...] = field(
            default=("mlp",), metadata={"help": "modules lora adapts, by part of their names"}
        )
        stats: str | None = field(
            default=None,
            metadata={"help": "dataset for the gradient statistics of the rms rules"},
        )
        stats_blocks: int = field(
            default=200, metadata={"help": "blocks of 512 tokens read for the statistics"}
        )

        def __post_init__(self) -> None:
            needs_stats = RULES[self.optimizer].needs_statistics
            if needs_stats and self.stats is None:
                raise ValueError(
                    f"optimizer={self.optimizer} needs gradient statistics; add stats=DATASET, "
                    "text other than what is evaluated."
                )
            if self.prior is not None and RULES[self.optimizer].prior is None:
                raise ValueError(f"prior does not go with optimizer={self.optimizer}.")
            if needs_stats and self.subset == "lora":
                raise ValueError("lora has no pretrained gradients: use sgd, adam or adamw.")
            if self.lr is not None and self.lr < 0:
                raise ValueError("lr must be at least 0.")
            if self.interval is not None and self.interval < 1:
                raise ValueError("interval must be at least 1 token.")
            if self.rank < 1 or self.stats_blocks < 1:
                raise ValueError("rank and stats_blocks must be at least 1.")

    @classmethod
    def offline_datasets(cls, params: Params) -> list[str]:
        return [] if params.stats is None else [params.stats]

    @classmethod
    def probe_params(cls, params: Params) -> Params:
        return replace(params, stats_blocks=1)

    def prepare(self) -> None:
        rule = RULES[self.params.optimizer]
        self.rule = rule
        self.lr = rule.lr if self.params.lr is None else self.params.lr
        self.prior = (rule.prior or 0.0) if self.params.prior is None else self.params.prior
        self.adapters: LowRankAdapters | None = None
        if self.params.subset == "lora":
            self.adapters = LowRankAdapters(self.model, self.params.rank, self.params.targets)
            self.start = self.adapters.initial()
        else:
            names = subset_names(self.model, self.params.subset)
            self.start = {name: self.model.parameter(name).float() for name in names}
        self.statistics: dict[str, Tensor] = {}
        if rule.needs_statistics:
            assert self.params.stats is not None
            blocks, names = self.params.stats_blocks, list(self.start)
            squares = gradient_statistics(self.model, names, self.params.stats, blocks)
            self.statistics = rule.prepare_statistics(squares, blocks)
            shape = StepShape(STATISTICS_BLOCK, STATISTICS_BLOCK, 0)
            a_block = self.cost.forward(shape) + self.cost.backward(shape, names)
            self.offline_flops = blocks * a_block
        alone = self.model.one_by_one(self.start) if self.lanes > 1 else None
        if alone is not None:
            self.notes = (f"lanes are read one after another: {alone}.",)
        self._change = change_one

    def init_state(self) -> dict[str, Tensor]:
        """Adapted weights, the rule's moments, and gradients that wait for the interval to end.

        Where the model is not float32, also the weights in its own dtype, which it reads.
        """
        state = {f"weight:{name}": value for name, value in self.start.items()}
        if self.model.dtype != torch.float32:
            state |= {f"read:{n}": value.to(self.model.dtype) for n, value in self.start.items()}
        for slot in self.rule.slots:
            state |= {f"{slot}:{name}": torch.zeros_like(v) for name, v in self.start.items()}
        if self.params.interval is not None:
            state |= {f"waiting:{name}": torch.zeros_like(v) for name, v in self.start.items()}
        device = self.model.device
        state["tokens_waiting"] = torch.zeros((), dtype=torch.int64, device=device)
        state["steps"] = torch.zeros((), dtype=torch.int64, device=device)
        return state

    def compile(self) -> None:
        # One program for tensors of every shape: compiled for each, it would take a minute.
        self._change = compiled(change_one, dynamic=True)

    def score(self, window: Window) -> Scores:
        read = {name: self._read(name) for name in self.start}
        self._leaves = {n: value.detach().requires_grad_() for n, value in read.items()}
        return self.model.logits(window, self._leaves)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        losses = nll.sum(1)
        if self.params.interval is None:
            losses = losses / window.scored.clamp_min(1)  # the mean, before it is differentiated
        leaves = list(self._leaves.values())
        gradients = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        del self._leaves
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        names = [name for i, name in enumerate(self.start) if i in set(used)]
        update = Update(self.rule, self.lr, self.prior, self.params.clip, self.params.interval)
        step(
            update,
            [self._adapted(name) for name in names],
            [gradients[i] for i in used],
            window.scored,
            self.state["tokens_waiting"],
            self.state["steps"],
            self._change,
        )

    def _adapted(self, name: str) -> Adapted:
        return Adapted(
            weight=self._all(name),
            read=self._read(name),
            slots=[self._all(name, slot) for slot in self.rule.slots],
            waiting=None if self.params.interval is None else self._all(name, "waiting"),
            start=None if self.rule.prior is None else self.start[name],
            statistics=self.statistics.get(name),
        )

    def _read(self, name: str) -> Tensor:
        """What the model reads; in float32 the weights themselves."""
        return self._all(name, "weight" if self.model.dtype == torch.float32 else "read")

    def _all(self, name: str, what: str = "weight") -> Tensor:
        """The state of one parameter, of all lanes: [B, ...]."""
        return self.state[f"{what}:{name}"]

    def flops(self, shape: StepShape) -> float:
        cost = self.cost
        if self.adapters is not None:
            added = cost.lora(shape, self.params.rank, list(self.adapters.modules))
            return cost.forward(shape) + added
        return cost.forward(shape) + cost.backward(shape, list(self.start))
