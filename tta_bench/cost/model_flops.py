"""FLOP formulas of a language model: forward, and backward for any set of trainable parameters.

2 FLOPs per multiply-add. With n inputs read, c of them scored and p keys of the past:

    forward   2 N_b n + sum over layers 4 d_a n (n + p) + 2 d V c
    backward  per matrix 2 n |W| where its input needs a gradient and 2 n |W| where it is trained
              itself; attention 8 d_a n (n + p) where its inputs need a gradient; the unembedding
              likewise, 2 d V c each

N_b is the number of matrix parameters in the body and d_a = heads x head width. Attention counts as
the full rectangle: gradients stop at cached keys, but products with the rectangle are computed
anyway. What needs a gradient is not derived from names but traced with autograd in a tiny forward
pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tta_bench.cost.counter import count_flops
from tta_bench.cost.linear_calls import Call, Recorder, features_of
from tta_bench.errors import ModelError
from tta_bench.model.scores import token_nll
from tta_bench.model.step_shape import StepShape
from tta_bench.model.synthetic import SyntheticStream

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel

_PROBE = 4
"""Number of tokens in the forward pass that is traced."""

_CLOSE = 0.02
"""Largest relative difference between formula and counter for the formula to be used."""


@dataclass(frozen=True)
class _Trace:
    """A forward pass with some parameters trainable."""

    body: tuple[Call, ...]
    attention: tuple[tuple[int, bool], ...]  # d_a, and whether a gradient passes through
    head: tuple[Call, ...]


class _Known(NamedTuple):
    """What was found out about a model."""

    traces: dict[tuple[frozenset[str], frozenset[str]], _Trace]
    counts: dict[tuple[StepShape, frozenset[str], frozenset[str]], float]


_KNOWN: WeakKeyDictionary[LanguageModel, _Known] = WeakKeyDictionary()
"""What is known of each model that is in memory, however many methods ask for its cost."""


_BY_FORMULA: WeakKeyDictionary[LanguageModel, bool] = WeakKeyDictionary()
"""Whether the formula holds for each model that is in memory."""


class ModelCost:
    """FLOPs of one lane of a model, by formula.

    The formula is compared with the counter once per model. Where they differ (experts in 3-D
    weights, state space layers), all FLOPs are counted instead.
    """

    def __init__(self, model: LanguageModel):
        self.model = model
        known = _KNOWN.setdefault(model, _Known({}, {}))
        self._traces, self._counts = known.traces, known.counts

    @property
    def by_formula(self) -> bool:
        """Whether the formula holds for this architecture; otherwise FLOPs are counted.

        Kernels for weights in few bits are invisible to the counter: there it is taken to hold.
        """
        if self.model not in _BY_FORMULA:
            _BY_FORMULA[self.model] = bool(self.model.few_bits) or self._agrees()
        return _BY_FORMULA[self.model]

    def _agrees(self) -> bool:
        """Whether the formula gives what was counted."""
        few, more = (self._count(StepShape(n, n, 0)) for n in (_PROBE, 2 * _PROBE))
        quadratic = (more - 2 * few) / (2 * _PROBE**2)
        linear = few / _PROBE - quadratic * _PROBE
        trace = self._trace()
        expected = 2 * sum(call.size * call.rows for call in trace.body) + self.unembed(1)
        rectangle = 4 * sum(width for width, _ in trace.attention)
        return (
            abs(linear - expected) <= _CLOSE * expected
            and abs(quadratic - rectangle) <= _CLOSE * rectangle
        )

    def unembed(self, n: int) -> float:
        """FLOPs of computing the logits of `n` hidden states."""
        return 2.0 * sum(call.size for call in self._trace().head) * n

    def forward(self, shape: StepShape) -> float:
        """FLOPs of reading and scoring one step."""
        if not self.by_formula:
            return self._count(shape)
        trace = self._trace()
        return (
            2 * sum(call.size * call.rows for call in trace.body) * shape.inputs
            + 4 * sum(width for width, _ in trace.attention) * _rectangle(shape)
            + self.unembed(self._head_rows(shape))
        )

    def backward(self, shape: StepShape, trainable: Collection[str]) -> float:
        """FLOPs of the gradient of one step's loss with respect to some parameters.

        Args:
            shape: size of the step; its forward pass is not included.
            trainable: names of `net.named_parameters()`.

        Raises:
            ModelError: the model has no parameter of such a name.
        """
        return self._gradients(shape, trainable)

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) features of every linear module that a token passes through, by name."""
        modules = dict(self.model.net.named_modules())
        trace = self._trace()
        return {call.module: features_of(modules[call.module]) for call in trace.body + trace.head}

    def lora(self, shape: StepShape, rank: int, modules: Collection[str]) -> float:
        """FLOPs that low-rank adapters add to `forward(shape)`: their forward and all gradients.

        The adapters run beside the frozen weights, y += (x A^T) B^T, and only they are trained. (An
        adapter that is merged into its weight, W + B A, costs backward(shape, the weights) + 6 rank
        in out per module instead.)

        Args:
            shape: size of the step.
            rank: r, the rank of every adapter.
            modules: names of the adapted modules, from `linear_shapes()`.

        Raises:
            ModelError: the model has no linear module of such a name.
        """
        shapes = self.linear_shapes()
        unknown = sorted(set(modules) - set(shapes))
        if unknown:
            raise ModelError(f"{self.model.name} has no linear module {unknown[0]!r} to adapt.")
        total = self._gradients(shape, (), modules)
        trace = self._trace((), modules)
        for calls, tokens in ((trace.body, shape.inputs), (trace.head, self._head_rows(shape))):
            for call in calls:
                if call.module in modules:
                    inner, outer = shapes[call.module]
                    # Forward and own gradients of A and B, then the gradients through B and A.
                    per_rank = 2 * (inner + outer) + outer + inner * call.input_grad
                    total += 2 * tokens * call.rows * rank * per_rank
        return total

    def _gradients(
        self, shape: StepShape, trainable: Collection[str], adapted: Collection[str] = ()
    ) -> float:
        """FLOPs of the backward pass to trainable parameters and outputs of adapted modules."""
        if not self.by_formula:
            return self._count(shape, trainable, adapted) - self._count(shape)
        trace = self._trace(trainable, adapted)
        return (
            sum(call.backward() for call in trace.body) * shape.inputs
            + 8 * sum(width for width, grad in trace.attention if grad) * _rectangle(shape)
            + sum(call.backward() for call in trace.head) * self._head_rows(shape)
        )

    def _head_rows(self, shape: StepShape) -> int:
        """Number of logits computed: a model that cannot be split computes them for all inputs."""
        return shape.inputs if self.model.split_error else shape.scored

    def _aliases(self, names: Collection[str]) -> dict[str, Tensor]:
        """Leaves that share the storage of the model's parameters and require gradients."""
        try:
            shared = {name: self.model.parameter(name) for name in sorted(names)}
        except AttributeError as error:
            raise ModelError(f"{self.model.name} has no such parameter: {error}.") from None
        leaves = {id(value): value.detach().requires_grad_() for value in shared.values()}
        return {name: leaves[id(value)] for name, value in shared.items()}

    def _trace(self, trainable: Collection[str] = (), adapted: Collection[str] = ()) -> _Trace:
        key = frozenset(trainable), frozenset(adapted)
        if key not in self._traces:
            weights = self._aliases(trainable)
            window, _ = SyntheticStream(self.model, StepShape(_PROBE, _PROBE, 0)).window()
            with Recorder(self.model.net, _PROBE, key[1]) as recorder, _autograd(True):
                self.model.logits(window, weights).full()
            self._traces[key] = self._sorted_out(recorder.calls)
        return self._traces[key]

    def _sorted_out(self, calls: list[Call]) -> _Trace:
        modules = dict(self.model.net.named_modules())
        head = self.model.net.get_output_embeddings()
        last: dict[str, Call] = {}
        for call in calls:
            parent = call.module.rpartition(".")[0]
            if "Attention" in type(modules[parent]).__name__:
                last[parent] = call  # the output projection, whose input is the output of attention
        return _Trace(
            body=tuple(call for call in calls if modules[call.module] is not head),
            attention=tuple(
                (features_of(modules[call.module])[0], call.input_grad) for call in last.values()
            ),
            head=tuple(call for call in calls if modules[call.module] is head),
        )

    def _count(
        self, shape: StepShape, trainable: Collection[str] = (), adapted: Collection[str] = ()
    ) -> float:
        """Counted FLOPs of a forward pass and, if something needs a gradient, of its backward."""
        shape = shape._replace(
            start=0
        )  # the cost of the model does not depend on the place in the stream
        key = shape, frozenset(trainable), frozenset(adapted)
        if key not in self._counts:
            weights = self._aliases(trainable)
            gradients = bool(weights or adapted)
            window, targets = SyntheticStream(self.model, shape).window()
            recorder = Recorder(self.model.net, shape.inputs, key[2])

            def step() -> None:
                scores = self.model.logits(window, weights)
                nll = token_nll(scores, lambda: targets, window.mask, gradients)
                if gradients:
                    leaves = {id(leaf): leaf for leaf in (*weights.values(), *recorder.anchors)}
                    torch.autograd.grad(nll.sum(), list(leaves.values()), allow_unused=True)

            with recorder, _autograd(gradients):
                self._counts[key] = count_flops(step).flops
        return self._counts[key]


@contextmanager
def _autograd(enabled: bool) -> Iterator[None]:
    """Turns gradients on or off, even if the caller is in inference mode."""
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):
        yield


def _rectangle(shape: StepShape) -> float:
    return float(shape.inputs * (shape.inputs + shape.past))
