"""A method in a process of its own, as the engine sees it: like any other."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

from tta_bench.contract.method import Method
from tta_bench.engine.isolation.host import GoneError, Host
from tta_bench.model.scores import DenseLogits, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window

Result = TypeVar("Result")


def ask(method: Method, question: Callable[[Method], Result]) -> Result:
    """What a question about a method gives in the process that the method lives in.

    Args:
        method: it may be isolated.
        question: a function of a module, for numbers and words.

    Raises:
        IsolatedError: the method raised, or its process is gone.
    """
    return method.ask(question) if isinstance(method, IsolatedMethod) else question(method)


class IsolatedMethod(Method):
    """Stands in this process for a method in another one, and passes on what the engine asks.

    Its scores are rows that are already there when the engine reads the targets. Losses for `adapt`
    are computed a second time where the method lives, with their graph if it needs gradients.
    Figures of a process that is gone are unknown: NaN, which a summary stores as null.
    """

    def __init__(self, host: Host, model: LanguageModel, lanes: int, seed: int):
        self.model = model
        self.lanes = lanes
        self._below = None
        self.state, self._fresh = {}, {}
        self._host = host
        self._number = host.build(lanes, seed)
        weakref.finalize(self, host.dropped.append, self._number)
        self._offline_flops = float(self.ask(attrgetter("offline_flops")))
        seconds = self.ask(attrgetter("offline_seconds"))
        self._offline_seconds = None if seconds is None else float(seconds)
        self._notes: tuple[str, ...] = ()

    def ask(self, question: Callable[[Method], Any]) -> Any:
        """The answer of the method where it lives."""
        return self._host.request("ask", self._number, question)["value"]

    def score(self, window: Window) -> Scores:
        answer = self._host.request(
            "score",
            self._number,
            window.input_ids.cpu().numpy(),
            window.lengths.cpu().numpy(),
            window.scored.cpu().numpy(),
            window.chunk_size,
        )
        shape = (window.lanes, window.chunk_size, self.model.vocab_size)
        scores = DenseLogits(self._host.rows(answer.get("dtype"), shape).to(self.model.device))
        scores.normalised = answer.get("value") is True
        return scores

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        self._host.request("adapt", self._number, targets.cpu().numpy())

    def reset(self, lane: int) -> None:
        self._host.request("reset", self._number, lane)

    def state_bytes(self) -> int:
        return self._figure(methodcaller("state_bytes"))

    def flops(self, shape: StepShape) -> float | None:
        return self._figure(methodcaller("flops", shape))

    def invisible_flops(self, shape: StepShape) -> float:
        return self._figure(methodcaller("invisible_flops", shape))

    def figures(self, lane: int) -> dict[str, float]:
        return dict(self.ask(methodcaller("figures", lane)))

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        with suppress(GoneError):
            self._notes = tuple(map(str, self.ask(attrgetter("notes"))))
        return self._notes

    @property
    def offline_flops(self) -> float:  # type: ignore[override]
        return self._offline_flops

    @property
    def offline_seconds(self) -> float | None:  # type: ignore[override]
        return self._offline_seconds

    def _figure(self, question: Callable[[Method], Any]) -> Any:
        try:
            return self.ask(question)
        except GoneError:
            return math.nan
