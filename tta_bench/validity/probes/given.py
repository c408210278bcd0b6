"""What is probed is what runs: `probe_params` may make a method cheaper, not another one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tta_bench.validity.lab import SAME, CannotBuild, Found, Lab
from tta_bench.validity.models import document
from tta_bench.validity.probes.switch import Frozen
from tta_bench.validity.reader import CHUNK, WIDE, Reader, largest_difference


def as_given(lab: Lab) -> Found:
    """Looks at what `probe_params` changed, and whether the method still does anything."""
    changes = lab.changes
    if not changes:
        return "pass", 0.0, "as given", "Probed with the hyper-parameters that it runs with."
    figure = ", ".join(map(str, changes))
    for change in changes:
        if change.switch:
            sentence = f"probe_params changes a switch ({change}): it may only save time."
            return "fail", None, figure, sentence
        numbers = all(type(value) in (int, float) for value in (change.given, change.probed))
        if numbers and not change.smaller:
            sentence = f"probe_params may make numbers smaller and not 0, but sets {change}."
            return "fail", None, figure, sentence
    others = [change for change in changes if not change.smaller]
    if others and _built(lab, lab.subject.given):
        sentence = f"probe_params sets {others[0]}, though the method can be built as given."
        return "fail", None, figure, sentence
    if lab.subject.cls.family != "none" and not _moves(lab, lab.params):
        if not _built(lab, lab.subject.given):
            sentence = "Cannot be judged: with probe_params it predicts what none predicts."
            return "skip", None, figure, sentence
        if _moves(lab, lab.subject.given):
            sentence = f"probe_params switches it off ({figure}): as given it predicts otherwise."
            return "fail", None, figure, sentence
    return "pass", float(len(changes)), figure, "probe_params makes it cheaper, and not another."


def _built(lab: Lab, params: Any) -> bool:
    try:
        lab.fresh(params=params)
    except CannotBuild:
        return False
    return True


def _moves(lab: Lab, params: Any) -> bool:
    """Whether a method with these hyper-parameters predicts other than the frozen model."""
    own = _read(lab, params)
    lab.fresh()  # on the original weights
    frozen = [
        *Reader(Frozen(lab.model, None, 1)).read([document(6 * CHUNK, 93)]),
        *Reader(Frozen(lab.model, None, 1), WIDE).read([document(3 * 256, 94)]),
    ]
    return largest_difference(own, frozen) > SAME


def _read(lab: Lab, params: Any) -> list[Tensor]:
    return [
        *Reader(lab.fresh(params=params)).read([document(6 * CHUNK, 93)]),
        *Reader(lab.fresh(params=params), WIDE).read([document(3 * 256, 94)]),
    ]
