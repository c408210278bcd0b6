"""`Stack`: methods that stand on each other, as one method.

The first part stands at the bottom. Each acts on what stands below it: a context method says what
the model reads, a parameter method changes the model that reads it, a head reads the hidden states
below, an output method mixes into the distributions below. Costs and state add up.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tta_bench.contract.method import Method
from tta_bench.contract.needs import Needs
from tta_bench.contract.part import Part
from tta_bench.contract.stated import needs_of
from tta_bench.errors import MethodError, UsageError
from tta_bench.model.scores import Scores

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window

_RANKS = {"context": 0, "parameter": 1, "head": 2, "output": 3}
"""Families from the bottom up. Several heads or output methods may stand on each other."""


@dataclass(frozen=True)
class PartParams:
    """One part of a stack: its name and an instance of its `Params`."""

    name: str
    params: Any


@dataclass(frozen=True)
class StackParams:
    """Hyper-parameters of a stack: those of its parts, the bottom first."""

    parts: tuple[PartParams, ...]


class Stack(Method):
    """Methods on top of each other; a subclass for each list of methods is made by `stack_of`.

    Every part learns from the losses of its own distributions; the top one's are the stack's.
    """

    parts: ClassVar[tuple[type[Method], ...]]
    Params: ClassVar[type[Any]] = StackParams

    def __init__(self, model: LanguageModel, params: Any, lanes: int, below: None = None):
        self.params = params
        self.lanes = lanes
        self._below = below
        self.methods = self._built(model)
        self.model = self.methods[-1].model

    def _built(self, model: LanguageModel) -> list[Method]:
        """The parts, each on the one below it; a body that came with one of them serves all."""
        methods: list[Method] = []
        body = model
        for cls, own in zip(self.parts, self.params.parts, strict=True):
            method = cls(body, own.params, self.lanes, self._part(methods, cls))
            if method.model is not body:
                if body is not model:
                    raise UsageError(
                        f"{self.name} would have two bodies: those of two of its parts, which "
                        "come with one of their own; leave one out."
                    )
                body = method.model
                methods = self._moved(methods, body)
                method._below = self._part(methods, cls)
            methods.append(method)
        return methods

    def _moved(self, methods: Sequence[Method], body: LanguageModel) -> list[Method]:
        """The same parts on another body."""
        moved: list[Method] = []
        for method in methods:
            cls = type(method)
            moved.append(cls(body, method.params, self.lanes, self._part(moved, cls)))
            if moved[-1].model is not body:
                raise UsageError(
                    f"{self.name} would have two bodies: {cls.name} comes with one of its own, "
                    "and so does a part above it; leave one out."
                )
        return moved

    @staticmethod
    def _part(methods: Sequence[Method], above: type[Method]) -> Part | None:
        return Part(methods[-1], above) if methods else None

    @property
    def state(self) -> dict[str, Tensor]:  # type: ignore[override]
        """The state of all parts; a key begins with the part's number, from 0 at the bottom."""
        return {
            f"{number}.{name}": value
            for number, method in enumerate(self.methods)
            for name, value in method.state.items()
        }

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"{m.name}: {note}" for m in self.methods for note in m.notes)

    @property
    def gradients(self) -> bool:  # type: ignore[override]
        return self.methods[-1].gradients

    @property
    def graphs(self) -> bool:  # type: ignore[override]
        return all(method.graphs for method in self.methods)

    @property
    def offline_flops(self) -> float:  # type: ignore[override]
        return sum(method.offline_flops for method in self.methods)

    @property
    def offline_seconds(self) -> float | None:  # type: ignore[override]
        known = [m.offline_seconds for m in self.methods if m.offline_seconds is not None]
        return sum(known) if known else None

    @classmethod
    def offline_datasets(cls, params: Any) -> list[str]:
        pairs = zip(cls.parts, params.parts, strict=True)
        return [name for part, own in pairs for name in part.offline_datasets(own.params)]

    @classmethod
    def probe_params(cls, params: Any) -> Any:
        pairs = zip(cls.parts, params.parts, strict=True)
        return StackParams(
            tuple(PartParams(own.name, part.probe_params(own.params)) for part, own in pairs)
        )

    @classmethod
    def artifacts(cls, params: Any, model: LanguageModel) -> dict[str, str]:
        return {
            f"{number}.{name}": digest
            for number, (part, own) in enumerate(zip(cls.parts, params.parts, strict=True))
            for name, digest in part.artifacts(own.params, model).items()
        }

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        each = [
            needs_of(part, own.params, model, step)
            for part, own in zip(cls.parts, params.parts, strict=True)
        ]
        return Needs(
            positions=max(need.positions for need in each),
            hidden=any(need.hidden for need in each),
            weights=any(need.weights for need in each),
        )

    def compile(self) -> None:
        for method in self.methods:
            method.compile()

    def score(self, window: Window) -> Scores | Tensor:
        scores = self.methods[-1].score(window)
        for upper in self.methods[1:]:
            part = upper._below
            assert isinstance(part, Part)
            if not part.asked:
                raise MethodError(
                    f"{upper.name} does not read what stands below it, so it cannot stand on "
                    f"{part.method.name}."
                )
        return scores

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        for upper in self.methods[1:]:
            part = upper._below
            assert isinstance(part, Part)
            part.adapt(window, targets, nll.detach())
        self.methods[-1].adapt(window, targets, nll)

    def reset(self, lane: int) -> None:
        for method in self.methods:
            method.reset(lane)

    def state_bytes(self) -> int:
        return sum(method.state_bytes() for method in self.methods)

    def figures(self, lane: int) -> dict[str, float]:
        return {
            f"{method.name}: {name}": value
            for method in self.methods
            for name, value in method.figures(lane).items()
        }

    def flops(self, shape: StepShape) -> float | None:
        return self.methods[-1].flops(shape)

    def invisible_flops(self, shape: StepShape) -> float:
        return self.methods[-1].invisible_flops(shape)


@functools.cache
def stack_of(names: tuple[str, ...], parts: tuple[type[Method], ...]) -> type[Stack]:
    """The class of these methods on top of each other, the bottom first.

    Raises:
        UsageError: one of them cannot stand on the one below it.
    """
    for name, part in zip(names, parts, strict=True):
        if part.family not in _RANKS:
            raise UsageError(f"{name} changes nothing that others could stand on; leave it out.")
    for below, above in itertools.pairwise(parts):
        if _RANKS[above.family] < _RANKS[below.family]:
            raise UsageError(
                f"{above.name} ({above.family}) cannot stand on {below.name} ({below.family}): "
                f"from the bottom up come {', '.join(_RANKS)}; write {above.name} first."
            )
        if above.family == below.family and above.family in ("context", "parameter"):
            raise UsageError(
                f"{above.name} cannot stand on {below.name}: one {above.family} method at most."
            )
    unswitchable = any(part.off == {} for part in parts)
    members: dict[str, Any] = {
        "__doc__": f"{' + '.join(names)}, the first at the bottom.",
        "__module__": __name__,
        "name": "+".join(names),
        "family": "+".join(part.family for part in parts),
        "parts": parts,
        "off": {} if unswitchable else None,
    }
    return type("Stack", (Stack,), members)
