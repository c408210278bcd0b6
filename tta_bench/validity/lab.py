"""The bench on which one method is probed: fresh instances of it, and probes as data."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_bench.contract.method import Method
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build, split_spec, to_spec
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import BenchError
from tta_bench.model.language_model import LanguageModel
from tta_bench.validity.models import tiny_model
from tta_bench.validity.reader import PLAIN, Diverged, Reader
from tta_bench.validity.report import ProbeResult, Status
from tta_bench.validity.tensors import restore, shared_weights

SAME = 1e-5
"""Log-probabilities closer than this, in nats, are the same; no cheat lives on less."""


@dataclass(frozen=True)
class Subject:
    """A method with its hyper-parameters, of which the probes make fresh instances."""

    name: str
    cls: type[Method]
    params: Any

    @classmethod
    def from_spec(cls, spec: str) -> Subject:
        """The method that `name:key=value,...` names.

        Raises:
            UsageError: an unknown method or parameter.
            MethodError: its module cannot be imported.
        """
        name, values = split_spec(spec)
        method = load(name)
        return cls(name, method, method.probe_params(build(method.Params, values, name)))

    @property
    def spec(self) -> str:
        """The shortest spec of it."""
        return to_spec(self.name, self.params)


class CannotBuild(Exception):
    """The method refuses to be built on a tiny random model, with a reason a user can read."""


class Lab:
    """One subject on one tiny model; what an instance does to either never reaches the next."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self.model = tiny_model()
        self._weights = shared_weights(self.model)

    def fresh(
        self, lanes: int = 1, model: LanguageModel | None = None, params: Any = None
    ) -> Method:
        """A new instance, on the original weights and under the seed of all instances.

        Raises:
            CannotBuild: the method says in a `BenchError` that it does not run on this model.
        """
        restore(self.model, self._weights)
        seed_everything()
        params = self.subject.params if params is None else params
        try:
            return self.subject.cls(model or self.model, params, lanes)
        except BenchError as error:
            raise CannotBuild(str(error)) from error

    def read(
        self,
        documents: Sequence[TokenizedDocument],
        lanes: int = 1,
        protocol: Protocol = PLAIN,
    ) -> list[Tensor]:
        """What a fresh instance predicts of each document, [tokens, V]."""
        return Reader(self.fresh(lanes), protocol).read(documents)


def seed_everything() -> None:
    """The one seed of all probes; a GPU's generator, which none of them uses, is left alone."""
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


Found = tuple[Status, float | None, str, str]
"""The status, value, figure and sentence of a probe; see `ProbeResult`."""


@dataclass(frozen=True)
class Probe:
    """One rule that a method is tested against.

    Attributes:
        name: its name in the table.
        run: tests a method.
        needs: the names of probes that must pass before this one can be judged.
    """

    name: str
    run: Callable[[Lab], Found]
    needs: tuple[str, ...] = ()

    def result(self, lab: Lab) -> ProbeResult:
        """Tests the method; whatever it raises is a failure."""
        try:
            return ProbeResult(self.name, *self.run(lab))
        except CannotBuild as error:
            sentence = f"Not built on a tiny random model: {error}"
            return ProbeResult(self.name, "skip", None, "—", sentence)
        except Diverged as error:
            return ProbeResult(self.name, "fail", None, "diverged", str(error))
        except Exception as error:  # a method is foreign code: whatever it raises is a finding
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            sentence = f"The method raised {type(error).__name__}: {reason}"
            return ProbeResult(self.name, "fail", None, "raised", sentence)


def compared(difference: float, good: str, bad: str, limit: float = SAME) -> Found:
    """What a probe found that compares log-probabilities; the sentences say of what."""
    figure = f"{difference:.1e} nats" if difference else "0 nats"
    if difference <= limit:
        return "pass", difference, figure, good
    return "fail", difference, figure, bad
