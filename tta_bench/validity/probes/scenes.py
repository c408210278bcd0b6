"""The rules again where runs take place: wide chunks, long documents, many lanes, many tokens.

A method may take another path there than in chunks of 8: a branch for wide chunks, a buffer that
wraps, a memory that is used late, lanes in groups. One scene is read three times: alone on one
lane; on eight lanes, beside copies of the document with other futures and a shorter stranger; and
again on the first instance, after the stranger and a reset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tta_bench.contract.method import Method
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.protocol import Protocol
from tta_bench.model.language_model import LanguageModel
from tta_bench.validity.lab import SAME, CannotBuild, Found, Lab, rounding_noise
from tta_bench.validity.models import (
    FIRST_SPECIAL,
    built_in_model,
    document,
    with_other_future,
)
from tta_bench.validity.reader import WIDE, Reader, largest_difference
from tta_bench.validity.tensors import restore, shared_weights

LANES = 8


@dataclass(frozen=True)
class Scene:
    """What is read, and how.

    Attributes:
        protocol: how documents are divided.
        length: tokens of the document.
        seed: seed of the document, so that no two scenes read the same one.
        vocabulary: ids are drawn below it.
    """

    protocol: Protocol
    length: int
    seed: int
    vocabulary: int = FIRST_SPECIAL

    @property
    def text(self) -> TokenizedDocument:
        return document(self.length, self.seed, self.vocabulary)

    @property
    def stranger(self) -> TokenizedDocument:
        """Another document, which ends in mid chunk, more than a chunk earlier."""
        chunk = self.protocol.chunk
        return document(self.length - chunk - chunk // 3, self.seed + 1, self.vocabulary)

    @property
    def places(self) -> list[int]:
        """From where the six copies hold other tokens: in every part of a chunk, early and late."""
        chunk = self.protocol.chunk
        last = (self.length - 1) // chunk * chunk
        middle = last // 2 // chunk * chunk
        return [
            chunk // 3,
            middle,
            middle + chunk // 2 + 1,
            last - 1,
            last + (self.length - last) // 3,
            self.length - 1,
        ]

    def judge(self, build: Build, noise: Noise) -> Found:
        """Reads the scene and compares."""
        text, stranger, places = self.text, self.stranger, self.places
        copies = [
            with_other_future(text, place, self.seed + i, self.vocabulary)
            for i, place in enumerate(places)
        ]
        one = Reader(build(1), self.protocol)
        (alone,) = one.read([text])
        beside = Reader(build(LANES), self.protocol).read([text, *copies, stranger])
        (other,) = one.read([stranger])
        (again,) = one.read([text])
        future = {
            place: largest_difference([beside[0][: place + 1]], [copy[: place + 1]])
            for place, copy in zip(places, beside[1:-1], strict=True)
        }
        place = max(future, key=lambda place: future[place])
        lanes = largest_difference([alone, other], [beside[0], beside[-1]])
        memory = largest_difference([alone], [again])
        limit = SAME
        if max(future[place], lanes) > limit:
            limit = max(limit, noise(self))
        size = f"documents of {self.length} tokens in chunks of {self.protocol.chunk}"
        wrong: list[tuple[float, str]] = []
        if future[place] > limit:
            wrong.append(
                (future[place], f"other tokens from token {place} on change what comes before it")
            )
        if lanes > limit:
            first = _first(alone, beside[0], limit)
            where = f"token {first}" if first is not None else "a token of the shorter document"
            wrong.append((lanes, f"one lane and {LANES} differ, first at {where}"))
        if memory > 0:
            first = _first(alone, again, 0.0)
            wrong.append((memory, f"after another document and a reset, token {first} differs"))
        if wrong:
            worst = max(value for value, _ in wrong)
            sentence = f"In {size}: {'; '.join(phrase for _, phrase in wrong)}."
            return "fail", worst, f"{worst:.1e} nats", sentence
        worst = max(future[place], lanes)
        figure = f"{worst:.1e} nats" if worst else "0 nats"
        return "pass", worst, figure, f"Future, lanes and reset hold in {size}, on {LANES} lanes."


class Build:
    """Makes instances on one model with one set of hyper-parameters, on its original weights."""

    def __init__(self, lab: Lab, model: LanguageModel, params: Any):
        self.lab, self.model, self.params = lab, model, params
        self._weights = shared_weights(model)

    def __call__(self, lanes: int = 1) -> Method:
        restore(self.model, self._weights)
        return self.lab.fresh(lanes, self.model, self.params)


class Noise:
    """The rounding noise of a scene, measured when it is needed."""

    def __init__(self, build: Build):
        self.build = build

    def __call__(self, scene: Scene) -> float:
        try:
            return rounding_noise(self.build, scene.text, scene.protocol)
        finally:
            self.build()


_WIDE = Scene(WIDE, 640, 81)
_LONG = Scene(WIDE, 9 * 256 - 11, 83)
_MANY = Scene(Protocol(chunk=8), 66 * 8, 85)
_CARRIED = Scene(Protocol(chunk=64, context=96, context_mode="cache"), 5 * 64 - 9, 87)
_REREAD = Scene(Protocol(chunk=64, context=96, context_mode="recompute"), 5 * 64 - 9, 89)
_VOCABULARY = 4000
_TRAINED = Scene(Protocol(chunk=64), 3 * 64 - 9, 91, _VOCABULARY)


def wide_chunks(lab: Lab) -> Found:
    """Chunks of 256."""
    return _on_the_labs_model(lab, _WIDE)


def long_document(lab: Lab) -> Found:
    """More than 2,048 tokens, past every buffer that a method is likely to have."""
    return _on_the_labs_model(lab, _LONG)


def many_steps(lab: Lab) -> Found:
    """Sixty-six steps of 8 tokens."""
    return _on_the_labs_model(lab, _MANY)


def wide_context(lab: Lab) -> Found:
    """Chunks of 64 behind a context, carried and read again."""
    carried, reread = (_on_the_labs_model(lab, scene) for scene in (_CARRIED, _REREAD))
    return carried if carried[0] == "fail" else reread


def built_in(lab: Lab) -> Found:
    """The built-in model: trained, with a vocabulary of thousands, and the parameters as given."""
    model = built_in_model()
    refusal = ""
    for params in (lab.subject.as_near_as_affordable, lab.params):
        build = Build(lab, model, params)
        try:
            return _TRAINED.judge(build, Noise(build))
        except CannotBuild as error:
            refusal = str(error)
    return "skip", None, "—", f"Cannot be judged: refuses {model.name}: {refusal}"


def _on_the_labs_model(lab: Lab, scene: Scene) -> Found:
    build = Build(lab, lab.model, lab.params)
    return scene.judge(build, Noise(build))


def _first(one: Any, other: Any, limit: float) -> int | None:
    """The first token at which two readings differ by more than `limit`."""
    for token in range(len(one)):
        if largest_difference([one[token]], [other[token]]) > limit:
            return token
    return None
