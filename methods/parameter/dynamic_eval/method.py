"""`dynamic-eval`: gradient steps on the text just read (Mikolov et al. 2010; Krause et al. 2018).

After each chunk (or every `interval` tokens) the adapted weights theta of a lane take one step on
the mean cross-entropy g of the tokens scored since the last one. The scoring forward pass is
reused for the gradient, so adapting everything costs 3x a forward pass; each further step on the
same chunk (`steps`) reads it again and costs as much. Each lane has weights of its own, kept in
float32, and starts every document from the pretrained theta0. All lanes are read, differentiated
and stepped at once: their weights are the slices of one tensor [lanes, ...].

With `subset=query` keys and values are made by weights that stay, as in query-only test-time
training (qTTT). The cross-entropy may weigh tokens (`weights`), see `token_weights`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tta_bench import (
    LanguageModel,
    Method,
    Needs,
    Scores,
    StepShape,
    Window,
    compiled,
    register,
    token_nll,
)
from tta_bench_methods.parameter.dynamic_eval.low_rank import LowRankAdapters, warm_shape, warmed
from tta_bench_methods.parameter.dynamic_eval.offline import (
    STATISTICS_BLOCK,
    gradient_statistics,
    inverse_frequencies,
)
from tta_bench_methods.parameter.dynamic_eval.options import Options
from tta_bench_methods.parameter.dynamic_eval.rules import rule_of
from tta_bench_methods.parameter.dynamic_eval.step import Adapted, Update, change_one, step
from tta_bench_methods.parameter.dynamic_eval.subsets import subset_names
from tta_bench_methods.parameter.dynamic_eval.token_weights import term_weights, with_mean_one


@register("dynamic-eval")
class DynamicEvaluation(Method):
    """Dynamic evaluation: gradient descent on the text just read (Krause et al. 2018)."""

    family = "parameter"
    gradients = True
    graphs = True

    Params: ClassVar[type[Any]] = Options

    @classmethod
    def offline_datasets(cls, params: Options) -> list[str]:
        return [name for name in (params.stats, params.warm) if name is not None]

    @classmethod
    def probe_params(cls, params: Options) -> Options:
        cheaper = replace(params, stats_blocks=1)
        return cheaper if params.warm is None else replace(cheaper, warm_chunks=2)

    @classmethod
    def needs(cls, params: Options, model: LanguageModel, step: StepShape) -> Needs:
        """Weights to change: a subset may be empty, or want blocks that were not found."""
        if params.subset == "lora":
            LowRankAdapters(model, params.rank, params.targets)
        else:
            subset_names(model, params.subset)
        return Needs()

    def prepare(self) -> None:
        self.model.require_gradients()
        params = self.params
        rule = rule_of(params.optimizer, params.momentum)
        lr = rule.lr if params.lr is None else params.lr
        prior = (rule.prior or 0.0) if params.prior is None else params.prior
        self.rule = rule
        self.update = Update(rule, lr, prior, params.clip, params.interval)
        self.adapters: LowRankAdapters | None = None
        if params.subset == "lora":
            self.adapters = LowRankAdapters(self.model, params.rank, params.targets)
            self.start = self._first_adapters(self.adapters)
        else:
            names = subset_names(self.model, params.subset)
            self.start = {name: self.model.parameter(name).float() for name in names}
        self.statistics: dict[str, Tensor] = {}
        if rule.needs_statistics:
            assert params.stats is not None
            blocks, names = params.stats_blocks, list(self.start)
            squares = gradient_statistics(self.model, names, params.stats, blocks)
            self.statistics = rule.prepare_statistics(squares, blocks)
            self.offline_flops = blocks * self._step_flops(
                StepShape(STATISTICS_BLOCK, STATISTICS_BLOCK, 0)
            )
        if params.weights == "tf-idf":
            assert params.stats is not None
            self.rarity = inverse_frequencies(self.model, params.stats, params.stats_blocks)
        alone = self.model.one_by_one(self.start) if self.lanes > 1 else None
        if alone is not None:
            self.notes = (f"lanes are read one after another: {alone}.",)
        self._change = change_one

    def _first_adapters(self, adapters: LowRankAdapters) -> dict[str, Tensor]:
        """What every document starts from: random A, or those warmed on other text."""
        if self.params.warm is None:
            return adapters.initial()
        chunks = self.params.warm_chunks
        self.offline_flops = chunks * self._step_flops(warm_shape())
        return warmed(adapters, self.update._replace(interval=None), self.params.warm, chunks)

    def init_state(self) -> dict[str, Tensor]:
        """Adapted weights, the rule's moments, and gradients that wait for the interval to end.

        With tf-idf also how often each token was read, [V]. Where the model is not float32, also
        the weights in its own dtype, which it reads.
        """
        state = {f"weight:{name}": value for name, value in self.start.items()}
        if self.model.dtype != torch.float32:
            state |= {f"read:{n}": value.to(self.model.dtype) for n, value in self.start.items()}
        for slot in self.rule.slots:
            state |= {f"{slot}:{name}": torch.zeros_like(v) for name, v in self.start.items()}
        if self.params.interval is not None:
            state |= {f"waiting:{name}": torch.zeros_like(v) for name, v in self.start.items()}
        device = self.model.device
        if self.params.weights == "tf-idf":
            state["counts"] = torch.zeros(self.model.vocab_size, device=device)
        state["tokens_waiting"] = torch.zeros((), dtype=torch.int64, device=device)
        state["steps"] = torch.zeros((), dtype=torch.int64, device=device)
        return state

    def compile(self) -> None:
        # One program for tensors of every shape: compiled for each, it would take a minute.
        self._change = compiled(change_one, dynamic=True)

    def score(self, window: Window) -> Scores:
        self._window = self.below.provide(window)
        return self._read_with_gradients()

    def _read_with_gradients(self) -> Scores:
        """What the model says of the chunk by its present weights, as leaves of a graph."""
        read = {name: self._read(name) for name in self.start}
        self._leaves = {n: value.detach().requires_grad_() for n, value in read.items()}
        return self.model.logits(self._window, self._leaves)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        weights = self._token_weights(window, targets, nll.detach())
        for number in range(self.params.steps):
            if number > 0:
                scores = self._read_with_gradients()
                nll = token_nll(scores, lambda: targets, window.mask, gradients=True)
            self._step(window, nll if weights is None else weights * nll)
        del self._window

    def _token_weights(self, window: Window, targets: Tensor, nll: Tensor) -> Tensor | None:
        """[B, C]; None where all tokens count alike."""
        if self.params.weights == "uniform":
            return None
        if self.params.weights == "tf-idf":
            counts = self.state["counts"]
            counts.scatter_add_(1, targets, window.mask.to(counts.dtype))
            worth = term_weights(counts, self.rarity, targets)
        else:
            worth = nll
        return with_mean_one(worth, window.mask, window.scored)

    def _step(self, window: Window, losses: Tensor) -> None:
        """One step on these losses [B, C] of the last reading."""
        summed = losses.sum(1)
        if self.params.interval is None:
            summed = summed / window.scored.clamp_min(1)  # the mean, before it is differentiated
        leaves = list(self._leaves.values())
        gradients = torch.autograd.grad(summed.sum(), leaves, allow_unused=True)
        del self._leaves
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        names = [name for i, name in enumerate(self.start) if i in set(used)]
        step(
            self.update,
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
        steps = self.params.steps * self._step_flops(self.below.provided(shape))
        return steps + self.below.beside(shape)

    def _step_flops(self, shape: StepShape) -> float:
        """Reading a chunk and differentiating its loss, once."""
        if self.adapters is None:
            return self.cost.forward(shape) + self.cost.backward(shape, list(self.start))
        added = self.cost.lora(shape, self.params.rank, list(self.adapters.modules))
        return self.cost.forward(shape) + added
