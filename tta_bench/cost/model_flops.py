"""FLOP formulas of a language model: forward, and backward for any set of trainable parameters.

2 FLOPs per multiply-add. With n inputs read, c of them scored and p keys of the past:

    forward   2 N_b n + sum over layers 4 d_a n (n + p) + 2 d V c
    backward  per matrix 2 n |W| where its input needs a gradient and 2 n |W| where it is trained
              itself; attention 8 d_a n (n + p) where its inputs need a gradient; the unembedding
              likewise, 2 d V c each

N_b are the body's matrix parameters, d_a = heads x head width, attention is the full rectangle.
Gradients stop at cached keys, but their products with the whole rectangle are computed all the
same. What needs a gradient is not derived from names: autograd says so in one tiny forward pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tta_bench.cost.counter import count_flops
from tta_bench.errors import ModelError
from tta_bench.model.scores import token_nll
from tta_bench.model.step_shape import StepShape
from tta_bench.model.synthetic import SyntheticStream

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from tta_bench.model.language_model import LanguageModel

_PROBE = 4
"""Tokens of a tracing pass."""

_CLOSE = 0.02
"""How near the formula must come to the counter to be used for an architecture."""


@dataclass(frozen=True)
class _Call:
    """One matrix product with a weight, as autograd sees it."""

    module: str
    size: int  # entries of the weight
    rows: float  # rows of its input per input token
    input_grad: bool
    weight_grad: bool

    def backward(self) -> float:
        """FLOPs per input token (per scored token for the unembedding)."""
        return 2 * self.size * self.rows * (self.input_grad + self.weight_grad)


@dataclass(frozen=True)
class _Trace:
    """A forward pass with some parameters trainable."""

    body: tuple[_Call, ...]
    attention: tuple[tuple[int, bool], ...]  # d_a, and whether a gradient passes through
    head: tuple[_Call, ...]


class _Known(NamedTuple):
    """What was found out about a model."""

    traces: dict[tuple[frozenset[str], frozenset[str]], _Trace]
    counts: dict[tuple[StepShape, frozenset[str], frozenset[str]], float]


_KNOWN: WeakKeyDictionary[LanguageModel, _Known] = WeakKeyDictionary()
"""For as long as a model lives, however many methods ask for its cost."""


class ModelCost:
    """FLOPs of one lane of a model, by formula.

    Architectures that the formula does not describe (experts in 3-D weights, state space layers)
    are found by comparing it with the counter; for them every figure is a counted one.
    """

    def __init__(self, model: LanguageModel):
        self.model = model
        known = _KNOWN.setdefault(model, _Known({}, {}))
        self._traces, self._counts = known.traces, known.counts

    @property
    def by_formula(self) -> bool:
        """Whether the formula holds for this architecture; otherwise figures are counted."""
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
        """FLOPs of the logits of `n` hidden states."""
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
        """FLOPs of differentiating one step's loss with respect to some parameters.

        Args:
            shape: the step; its forward pass is not included.
            trainable: names of `net.named_parameters()`.

        Raises:
            ModelError: a name that the model does not have.
        """
        return self._gradients(shape, trainable)

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) features of every matrix product a token passes, by module name."""
        modules = dict(self.model.net.named_modules())
        trace = self._trace()
        return {call.module: _features(modules[call.module]) for call in trace.body + trace.head}

    def lora(self, shape: StepShape, rank: int, modules: Collection[str]) -> float:
        """FLOPs that low-rank adapters add to `forward(shape)`: their forward and all gradients.

        The adapters run beside the frozen weight, y += (x A^T) B^T, in the named modules (names of
        `linear_shapes()`), and only they are trained. (An adapter merged into its weight,
        W + B A, costs instead backward(shape, the weights) + 6 rank in out per module.)
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
                    # A and B: forward and their own gradients; then through B, and through A.
                    per_rank = 2 * (inner + outer) + outer + inner * call.input_grad
                    total += 2 * tokens * call.rows * rank * per_rank
        return total

    def _gradients(
        self, shape: StepShape, trainable: Collection[str], adapted: Collection[str] = ()
    ) -> float:
        """The backward pass for trainable parameters and for the outputs of adapted modules."""
        if not self.by_formula:
            return self._count(shape, trainable, adapted) - self._count(shape)
        trace = self._trace(trainable, adapted)
        return (
            sum(call.backward() for call in trace.body) * shape.inputs
            + 8 * sum(width for width, grad in trace.attention if grad) * _rectangle(shape)
            + sum(call.backward() for call in trace.head) * self._head_rows(shape)
        )

    def _head_rows(self, shape: StepShape) -> int:
        """A model that cannot be split computes the logits of everything it reads."""
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
            with _Recorder(self.model.net, key[1]) as recorder, _autograd(True):
                self.model.logits(window, weights).full()
            self._traces[key] = self._sorted_out(recorder.calls)
        return self._traces[key]

    def _sorted_out(self, calls: list[_Call]) -> _Trace:
        modules = dict(self.model.net.named_modules())
        head = self.model.net.get_output_embeddings()
        last: dict[str, _Call] = {}
        for call in calls:
            parent = call.module.rpartition(".")[0]
            if "Attention" in type(modules[parent]).__name__:
                last[parent] = call  # the output projection: its input is what attention made
        return _Trace(
            body=tuple(call for call in calls if modules[call.module] is not head),
            attention=tuple(
                (_features(modules[call.module])[0], call.input_grad) for call in last.values()
            ),
            head=tuple(call for call in calls if modules[call.module] is head),
        )

    def _count(
        self, shape: StepShape, trainable: Collection[str] = (), adapted: Collection[str] = ()
    ) -> float:
        """Counted FLOPs of a forward pass and, if something needs a gradient, of its backward."""
        shape = shape._replace(start=0)  # to the model alone every place is like any other
        key = shape, frozenset(trainable), frozenset(adapted)
        if key not in self._counts:
            weights = self._aliases(trainable)
            gradients = bool(weights or adapted)
            window, targets = SyntheticStream(self.model, shape).window()
            recorder = _Recorder(self.model.net, key[2])

            def step() -> None:
                scores = self.model.logits(window, weights)
                nll = token_nll(scores, lambda: targets, window.mask, gradients)
                if gradients:
                    leaves = {id(leaf): leaf for leaf in (*weights.values(), *recorder.anchors)}
                    torch.autograd.grad(nll.sum(), list(leaves.values()), allow_unused=True)

            with recorder, _autograd(gradients):
                self._counts[key] = count_flops(step).flops
        return self._counts[key]


class _Recorder:
    """Notes the calls of linear modules in `net`; outputs of `adapted` ones need gradients."""

    def __init__(self, net: nn.Module, adapted: Collection[str]):
        self.calls: list[_Call] = []
        self.anchors: list[Tensor] = []  # zeros added to the outputs of adapted modules
        self._modules = {
            name: module
            for name, module in net.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        }
        self._adapted = adapted
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Recorder:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(partial(self._note, name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(
        self, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        inner, outer = _features(module)
        self.calls.append(
            _Call(
                module=name,
                size=inner * outer,
                rows=args[0].numel() / inner / _PROBE,
                input_grad=args[0].requires_grad,
                weight_grad=_weight(module).requires_grad,
            )
        )
        if name not in self._adapted:
            return None
        self.anchors.append(torch.zeros((), device=output.device, requires_grad=True))
        return output + self.anchors[-1]


@contextmanager
def _autograd(enabled: bool) -> Iterator[None]:
    """Gradients on or off, also where the caller is in inference mode."""
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):
        yield


def _rectangle(shape: StepShape) -> float:
    return float(shape.inputs * (shape.inputs + shape.past))


def _features(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a Linear or of GPT-2's Conv1D, whose weight is stored the other way round."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inner, outer = _weight(module).shape
    return inner, outer


def _weight(module: nn.Module) -> Tensor:
    """Also while `functional_call` has put a plain tensor in the parameter's place."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
