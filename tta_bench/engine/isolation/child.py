"""The other side: the process that holds a model and its methods, and answers the engine.

It is sent a window's inputs and asked for scores, and only when the engine has all of them is it
sent the targets. So whatever a method looks for in this process, the targets of the chunk that it
scores are not there, save those that are inputs of the same window.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.method import Method
from tta_bench.contract.method_spec import MethodSpec
from tta_bench.cost.counter import count_flops
from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.engine.isolation.answers import send_answer
from tta_bench.engine.isolation.orphan import end_with_parent
from tta_bench.engine.outcome import outcome_of
from tta_bench.engine.step import Step
from tta_bench.errors import ChangedError, MethodError
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import load_model
from tta_bench.model.loading import ModelKey
from tta_bench.model.precision import float32_products
from tta_bench.model.scores import DenseLogits, Scores
from tta_bench.model.window import Window


@dataclass(frozen=True)
class Origin:
    """Everything that another process needs to make a method, as plain data.

    Attributes:
        model: what `load_model` takes.
        identity: what `model_identity` says of the model that must be found by that name.
        method: the method.
        deterministic: whether PyTorch is held to deterministic algorithms.
        threads: threads of PyTorch's CPU kernels.
    """

    model: ModelKey
    identity: dict[str, Any]
    method: MethodSpec
    deterministic: bool
    threads: int

    def load(self) -> LanguageModel:
        """The model.

        Raises:
            ChangedError: it is another one by now.
        """
        model = load_model(*self.model)
        if model_identity(describe_model(model)) != self.identity:
            raise ChangedError(
                f"{model.name} was changed while it was in use: run the command again."
            )
        return model


@dataclass(frozen=True)
class Request:
    """One question to the process.

    Attributes:
        verb: the name of a method of `Household`.
        arguments: what it is called with.
        dropped: numbers of instances that nobody needs any more.
        count: whether the FLOPs of the answer are counted.
    """

    verb: str
    arguments: tuple[Any, ...]
    dropped: tuple[int, ...] = ()
    count: bool = False


@dataclass
class Answer:
    """What a verb gives: a value of JSON, and perhaps rows."""

    value: Any = None
    rows: Tensor | None = field(default=None, repr=False)


class Kept(DenseLogits):
    """All rows of a step, computed once; the engine has a copy of them."""

    def __init__(self, scores: Scores):
        super().__init__(scores.rows(0, scores.shape[1]))
        if self.shape != scores.shape:
            raise MethodError(f"rows gave a tensor of shape {self.shape}, not {scores.shape}.")
        self.normalised = scores.normalised


class Instance:
    """One method, and what it scored last."""

    def __init__(self, method: Method):
        self.method = method
        self.step = Step(method)
        self.window: Window | None = None
        self.kept: Kept | None = None

    def score(self, window: Window) -> Kept:
        self.window = self.kept = None  # two steps need not fit into memory
        with torch.set_grad_enabled(self.method.gradients), self._products():
            kept = Kept(self.step.score(window))
        self.window, self.kept = window, kept
        return kept

    def adapt(self, targets: Tensor) -> None:
        assert self.window is not None
        assert self.kept is not None
        if type(self.method).adapt is Method.adapt and not self.method.gradients:
            return  # it learns nothing, and the engine has computed the losses
        with torch.set_grad_enabled(self.method.gradients), self._products():
            scored = self.step.scored(self.kept, lambda: targets, self.window.mask)
            self.step.adapt(self.window, targets.clone(), scored.nll)

    def _products(self) -> Any:
        return float32_products(self.method.model.dtype)


class Household:
    """The model and the instances of one method that live in this process."""

    def __init__(self, model: LanguageModel, choice: MethodChoice):
        self.model = model
        self.choice = choice
        self.instances: dict[int, Instance] = {}

    def answer(self, request: Request) -> tuple[dict[str, Any], Tensor | None]:
        """What is sent back, whatever the method does."""
        for number in request.dropped:
            self.instances.pop(number, None)
        said: list[Answer] = []

        def act() -> None:
            said.append(getattr(self, request.verb)(*request.arguments))

        head: dict[str, Any] = {}
        try:
            if request.count:
                counted = count_flops(act)
                head = {"flops": counted.flops, "blind_ops": list(counted.blind_ops)}
            else:
                act()
        except (Exception, SystemExit) as error:  # a method is foreign code: it may raise anything
            return failure(error), None
        return {**head, "value": said[0].value}, said[0].rows

    def build(self, number: int, lanes: int, seed: int) -> Answer:
        self.model.compiled = False
        torch.manual_seed(seed)
        method = self.choice.cls(self.model, self.choice.params, lanes)
        self.instances[number] = Instance(method)
        return Answer()

    def score(
        self, number: int, ids: np.ndarray, lengths: np.ndarray, scored: np.ndarray, chunk: int
    ) -> Answer:
        window = Window(self._here(ids), self._here(lengths), self._here(scored), chunk)
        kept = self.instances[number].score(window)
        return Answer(kept.normalised, kept.logits)

    def adapt(self, number: int, targets: np.ndarray) -> Answer:
        self.instances[number].adapt(self._here(targets))
        return Answer()

    def reset(self, number: int, lane: int) -> Answer:
        self.instances[number].method.reset(lane)
        return Answer()

    def ask(self, number: int, question: Callable[[Method], Any]) -> Answer:
        return Answer(question(self.instances[number].method))

    def _here(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.model.device)


def failure(error: BaseException) -> dict[str, Any]:
    """The answer that says what was raised."""
    status, reason = outcome_of(error)
    changed = isinstance(error, ChangedError)
    return {"failed": reason, "oom": status == "oom", "changed": changed}


def serve(connection: Connection, origin: Origin) -> None:
    """Answers requests until the other end is closed; the first answer says that it is ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's matter, which ends this
    end_with_parent()
    torch.set_num_threads(origin.threads)
    with deterministic_algorithms(origin.deterministic):
        try:
            household = Household(origin.load(), origin.method.choice())
        except Exception as error:  # a plugin or the code of a model: it may raise anything
            _send(connection, failure(error), None)
            return
        _send(connection, {"value": None}, None)
        while True:
            try:
                request = connection.recv()
            except (EOFError, OSError):
                return
            if not _send(connection, *household.answer(request)):
                return
            del request


def _send(connection: Connection, answer: dict[str, Any], rows: Tensor | None) -> bool:
    """Sends an answer; returns whether anyone is there to take it."""
    try:
        send_answer(connection, answer, rows)
    except (MethodError, TypeError, ValueError) as error:
        send_answer(connection, failure(error))
    except OSError:
        return False
    return True
