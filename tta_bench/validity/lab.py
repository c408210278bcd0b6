"""The bench on which one method is probed: fresh instances of it, and probes as data."""

from __future__ import annotations

import dataclasses
import inspect
import random
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.method import Method
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.preflight import check_needs
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.streams import full_step
from tta_bench.errors import BenchError
from tta_bench.model.language_model import LanguageModel
from tta_bench.validity.fingerprint import differences, fingerprint
from tta_bench.validity.models import built_in_model, tiny_model
from tta_bench.validity.process import ProcessState
from tta_bench.validity.reader import PLAIN, Diverged, Reader, largest_difference
from tta_bench.validity.report import ProbeResult, Status
from tta_bench.validity.subject import Change, Subject
from tta_bench.validity.tensors import restore, shared_weights

SAME = 1e-5
"""Log-probabilities closer than this, in nats, are the same; no cheat lives on less."""

_ROUNDING = 1e-7
"""Relative change of weights that stands for another order of summation in float32."""

_AMPLIFIED = 100.0
"""Times the effect of `_ROUNDING` that readings on other numbers of lanes may differ."""


class CannotBuild(Exception):
    """The method refuses to be built on a model of the probes, with a reason a user can read."""


class Lab:
    """One subject on one model; what an instance does to either never reaches the next probe.

    The model is a tiny random one; for a method that refuses it in words, the built-in model.

    Attributes:
        subject: the method.
        model: the model it is probed on.
        params: the hyper-parameters it is probed with.
        notes: what the user must know about how it is probed.
        spoiled: names of what instances have left changed in the model or in the process.
    """

    def __init__(self, subject: Subject):
        self.subject = subject
        self.params = subject.params
        self.notes: list[str] = []
        self.spoiled: list[str] = []
        self._process = ProcessState()
        self._use(tiny_model)
        if self.changes:
            self.notes.append(f"probed with {', '.join(map(str, self.changes))}.")

    @property
    def changes(self) -> list[Change]:
        """The hyper-parameters that are not as given."""
        return dataclasses.replace(self.subject, params=self.params).changes

    def choose_model(self) -> None:
        """Takes the built-in model if the method refuses the tiny one and not that."""
        refusal = self._refusal(self.params)
        if refusal is None:
            return
        self._use(built_in_model)
        if self._refusal(self.params) is not None:
            self._use(tiny_model)
            return
        why = refusal.rstrip(".")
        self.notes.append(f"probed on {self.model.name}: it refuses the tiny random model ({why}).")

    def _use(self, make: Callable[[], LanguageModel]) -> None:
        self._make = make
        self.model = make()
        self.model.one_by_one(())  # the bench's own forms for lanes stand in it from now on
        self._weights = shared_weights(self.model)
        self._fingerprint = fingerprint(self.model)

    def _refusal(self, params: Any) -> str | None:
        """Why the method cannot be built with these; None if it can, or raises anything else."""
        try:
            self.fresh(params=params)
        except CannotBuild as error:
            return str(error)
        except Exception:  # the probe `runs` will meet it again, and tell it
            return None
        return None

    def fresh(
        self, lanes: int = 1, model: LanguageModel | None = None, params: Any = None
    ) -> Method:
        """A new instance, on the original weights and under the seed of all instances.

        Raises:
            CannotBuild: the method says in a `BenchError` that it does not run on this model.
        """
        restore(self.model, self._weights)
        seed_everything()
        params = self.params if params is None else params
        model = model or self.model
        choice = MethodChoice(self.subject.name, self.subject.cls, params)
        try:
            # Documents of the probes are short, whatever it would read of longer ones.
            check_needs(choice, model, full_step(PLAIN), longest=0)
            return self.subject.cls(model, params, lanes)
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

    def harm(self) -> list[str]:
        """Names of what is no longer as it was in the model and in the process."""
        return [
            *self._process.changes(),
            *differences(self._fingerprint, fingerprint(self.model)),
        ]

    def repair(self) -> None:
        """Notes what instances have left changed, and puts it back."""
        harm = self.harm()
        if not harm:
            return
        self.spoiled += [name for name in harm if name not in self.spoiled]
        self._process.restore()
        restore(self.model, self._weights)
        if differences(self._fingerprint, fingerprint(self.model)):
            built_in_model.cache_clear()
            self._use(self._make)
        self._process = ProcessState()  # threads that run cannot be ended


def rounding_noise(
    build: Callable[[], Method], document: TokenizedDocument, protocol: Protocol
) -> float:
    """The nats that rounding alone can move a prediction of the document by, amplified by the
    method's own learning: what becomes of weights that differ in their last bits.

    Args:
        build: makes an instance with one lane, on the original weights.
        document: what is read.
        protocol: how it is read.
    """
    (one,) = Reader(build(), protocol).read([document])
    method = build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in method.model.net.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight.mul_(1 + _ROUNDING * noise)
    (other,) = Reader(method, protocol).read([document])
    return _AMPLIFIED * largest_difference([one], [other])


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
        diverging: whether a document that diverges is no failure of this probe: far into a random
            model honest settings may be too bold.
    """

    name: str
    run: Callable[[Lab], Found]
    needs: tuple[str, ...] = ()
    diverging: bool = False

    def result(self, lab: Lab) -> ProbeResult:
        """Tests the method; whatever it raises is a failure."""
        try:
            return ProbeResult(self.name, *self.run(lab))
        except CannotBuild as error:
            sentence = f"Built neither on a tiny random model nor on the built-in one: {error}"
            return ProbeResult(self.name, "skip", None, "—", sentence)
        except Diverged as error:
            if self.diverging:
                return ProbeResult(self.name, "skip", None, "—", f"Cannot be judged: {error}")
            return ProbeResult(self.name, "fail", None, "diverged", str(error))
        except Exception as error:  # a method is foreign code: whatever it raises is a finding
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            place = _place(error, lab.subject.cls)
            sentence = f"The method raised {type(error).__name__}{place}: {reason}"
            trace = "".join(traceback.format_exception(error))
            return ProbeResult(self.name, "fail", None, "raised", sentence, trace)


def _place(error: BaseException, cls: type) -> str:
    """` (file:line)` of the innermost call in the method's own folder; empty if there is none."""
    folders = set()
    for part in getattr(cls, "parts", (cls,)):
        with suppress(TypeError, OSError):  # a class made at a prompt has no file
            folders.add(Path(inspect.getfile(part)).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent in folders]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def compared(difference: float, good: str, bad: str, limit: float = SAME) -> Found:
    """What a probe found that compares log-probabilities; the sentences say of what."""
    figure = f"{difference:.1e} nats" if difference else "0 nats"
    if difference <= limit:
        return "pass", difference, figure, good
    return "fail", difference, figure, bad
