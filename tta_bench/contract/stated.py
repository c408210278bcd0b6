"""What methods say that they need of a model, asked once for the same parameters."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tta_bench.contract.method import Method

if TYPE_CHECKING:
    from tta_bench.contract.needs import Needs
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.step_shape import StepShape

_STATED: WeakKeyDictionary[LanguageModel, dict[tuple[type[Method], str, StepShape], Needs]]
_STATED = WeakKeyDictionary()
"""The answers for each model that is in memory: a method may have to read with it to know."""


def needs_of(cls: type[Method], params: Any, model: LanguageModel, step: StepShape) -> Needs:
    """What `cls.needs` gives. A method that loads files is asked each time, since they may change.

    Raises:
        Exception: whatever it raises; that is not remembered.
    """
    if cls.artifacts.__func__ is not Method.artifacts.__func__:  # type: ignore[attr-defined]
        return cls.needs(params, model, step)
    known = _STATED.setdefault(model, {})
    asked = cls, repr(asdict(params)), step
    if asked not in known:
        known[asked] = cls.needs(params, model, step)
    return known[asked]
