"""The contract of a method: score a chunk from its inputs, then learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tta_bench.contract.below import Below, Standing
from tta_bench.contract.needs import Needs
from tta_bench.errors import MethodError
from tta_bench.model.scores import Scores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tta_bench.cost.model_flops import ModelCost
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window

FAMILIES = ("none", "output", "head", "parameter", "context")


@dataclass
class NoOptions:
    """Nothing can be chosen."""


class Method:
    """Base class of every method. A subclass defines `score`; the rest has an honest default.

    The engine calls `score(window)`, computes the loss itself, then calls
    `adapt(window, targets, nll)`; at a document's start it calls `reset(lane)`. A subclass that
    returns its fresh state from `init_state` as tensors gets per-lane storage (`self.state[name]`
    of shape [lanes, ...]), `reset` and `state_bytes` for nothing.

    Methods stack. An output method mixes into the distributions of `self.below`, a head reads the
    hidden states of what stands there, and adds its FLOPs to those below; a parameter method reads
    what `self.below.provide(window)` gives with weights of its own, and a context method provides
    it. A method that stands alone has the bare model below it.
    """

    def score(self, window: Window) -> Scores | Tensor:
        """Distributions for the chunk, from inputs alone: `Scores`, or logits [B, C, V].

        The label of a column is the next column's input (`Window.chunk_ids`), so labels before
        position t may be used at t, and only those: `tta-bench check` tests it.
        """
        raise MethodError(f"{type(self).__name__} does not define score(window).")

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        """Learns from the chunk just scored.

        Args:
            window: the window that was scored.
            targets: [B, C] int64, the tokens of the chunk; 0 at padding.
            nll: [B, C] float32, nats; 0 at padding. Differentiable if `gradients` is True.
        """

    def reset(self, lane: int) -> None:
        """Makes `lane` bit for bit what it was when fresh."""
        for name, value in self._fresh.items():
            self.state[name][lane] = value

    name: ClassVar[str] = ""
    """The name it is registered under."""

    family: ClassVar[str] = "none"
    """Where it acts, one of `FAMILIES`."""

    off: ClassVar[Mapping[str, Any] | None] = None
    """Parameters that switch it off: with them it predicts exactly what stands below it. None: a
    step size or weight of a usual name at 0 does (`lr`, `step`, `weight`, ...). {}: nothing does.
    """

    gradients: ClassVar[bool] = False
    """True: scoring runs under autograd and the `nll` given to `adapt` can be differentiated."""

    learns_from_losses: ClassVar[bool] = True
    """False: `adapt` leaves its `nll` unread, so that a stack need not keep what it is made of."""

    graphs: ClassVar[bool] = False
    """True: `score` and `adapt` never wait for the device (no `.item()`, no `.tolist()`, no shape
    that depends on values) and keep their state in place: a step may become a CUDA graph.
    """

    notes: tuple[str, ...] = ()
    """Sentences for the user about this very run, such as a slower path that was taken."""

    offline_flops: float = 0.0
    """FLOPs spent before the first document, in `prepare` or in training, reported as a one-off."""

    offline_seconds: float | None = None
    """Seconds they took; None: what `prepare` takes."""

    @dataclass
    class Params:
        """Hyper-parameters, one field each with a default."""

    Slow: ClassVar[type[Any]] = NoOptions
    """Dataclass of how slow weights are made, each field with a default; see `slow_weights`."""

    def __init__(
        self, model: LanguageModel, params: Any, lanes: int, below: Standing | None = None
    ):
        """Prepares the method and its fresh state.

        Args:
            model: the language model.
            params: an instance of `Params`.
            lanes: B, documents read side by side.
            below: the method that this one stands on, on the same model and lanes; whoever stacks
                them also adapts and resets it. None: the bare model.
        """
        self.model = model
        self.params = params
        self.lanes = lanes
        self._below = below
        self.prepare()
        fresh = self.init_state()
        if not isinstance(fresh, dict):
            raise MethodError(
                f"{type(self).__name__}.init_state must return a dict of tensors by name, not "
                f"{type(fresh).__name__}."
            )
        self._fresh = fresh
        self.state = {
            name: value.expand(lanes, *value.shape).clone() for name, value in fresh.items()
        }

    @property
    def below(self) -> Below:
        """What stands below: `score(window)` and `flops(shape)`."""
        return Below(self.model, self._below)

    @property
    def cost(self) -> ModelCost:
        """FLOP formulas of `self.model`."""
        from tta_bench.cost.model_flops import ModelCost

        return ModelCost(self.model)

    @classmethod
    def offline_datasets(cls, params: Any) -> list[str]:
        """Datasets that `prepare` reads; none of them may be what is evaluated."""
        return []

    @classmethod
    def probe_params(cls, params: Any) -> Any:
        """Hyper-parameters for probes on tiny models: cheaper where `prepare` is expensive."""
        return params

    @classmethod
    def artifacts(cls, params: Any, model: LanguageModel) -> dict[str, str]:
        """Hashes of the files it will load, by what they are: part of the key of a run.

        Raises:
            UsageError: a file is missing, or is not for this method on this model; told before any
                method runs.
        """
        return {}

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        """What must be there for it to run, checked for every method before the first one runs.

        By default a head reads hidden states, and every method reads the protocol's windows.

        Args:
            params: an instance of `Params`.
            model: the model; for `tta-bench plan` without the values of its weights.
            step: the widest step of the protocol.

        Raises:
            UsageError: it does not run on this model, in words of its own.
        """
        return Needs(hidden=cls.family == "head")

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: Any) -> nn.Module | None:
        """A fresh module of what `tta-bench train` trains; None: the model's own body alone.

        Args:
            model: the base model.
            slow: an instance of `Slow`.

        Returns:
            A `tta_bench.heads.Head`, which stands between the body and the unembedding, or a
            `tta_bench.heads.BodyModule`, which acts inside the body.

        Raises:
            MethodError: the method has nothing to train.
        """
        raise MethodError(f"{cls.__name__} has no slow weights to train.")

    def prepare(self) -> None:
        """One-off work before the first document, such as building modules."""

    def compile(self) -> None:
        """Compiles what `score` and `adapt` do beside the model.

        Called before warm-up where compilation is on. A method that has nothing to gain from
        `torch.compile` leaves it out.
        """

    def init_state(self) -> dict[str, Tensor]:
        """The fresh fast state of one lane, without a lane dimension, on the model's device."""
        return {}

    def state_bytes(self) -> int:
        """Bytes of adaptation state a lane needs beyond the shared weights."""
        return sum(value.numel() * value.element_size() for value in self._fresh.values())

    def figures(self, lane: int) -> dict[str, float]:
        """Figures of its own on the document that the lane has read, by name: stored in its row.

        Asked once, when the document ends. Of a state that is kept for them, such as how far
        weights have moved; they decide nothing.
        """
        return {}

    def flops(self, shape: StepShape) -> float | None:
        """Analytic FLOPs of `score` and `adapt` of one lane in one step; None if not known.

        2 per multiply-add; element-wise work and optimiser arithmetic are not counted. What stands
        below is included: `self.below.flops(shape, own)`. Where it is None, the counter's figure
        stands in.
        """
        return None

    def invisible_flops(self, shape: StepShape) -> float:
        """The part of `flops` that PyTorch's counter cannot see (mv, linalg, custom kernels)."""
        return self.below.invisible_flops(shape)
