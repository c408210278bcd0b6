"""Off means off: with its step size at 0 a method is the frozen model."""

from __future__ import annotations

from torch import Tensor

from tta_bench.contract.flat import replaced
from tta_bench.contract.method import Method
from tta_bench.model.scores import Scores
from tta_bench.model.window import Window
from tta_bench.validity.lab import CannotBuild, Found, Lab, compared
from tta_bench.validity.models import document
from tta_bench.validity.reader import CHUNK, WIDE, Reader, largest_difference
from tta_bench.validity.subject import SWITCHES, switches


class Frozen(Method):
    """The model alone: what `none` predicts."""

    def score(self, window: Window) -> Scores:
        return self.model.logits(window)


def off(lab: Lab) -> Found:
    """Reads documents with the method switched off, and through the model alone."""
    plain = _read(Frozen(lab.model, None, 1), Frozen(lab.model, None, 1))
    if lab.subject.cls.family == "none":
        difference = largest_difference(plain, _read(lab.fresh(), lab.fresh()))
        return compared(
            difference,
            "Family none: it predicts what the frozen model predicts.",
            "Its family is none, but it does not predict what the frozen model predicts.",
        )
    found: list[tuple[float, str]] = []
    refused = ""
    for values in switches(lab.subject.cls, lab.params):
        named = ", ".join(f"{name}={value}" for name, value in values.items())
        try:
            params = replaced(lab.params, values)
            rows = _read(lab.fresh(params=params), lab.fresh(params=params))
        except (CannotBuild, ValueError, TypeError) as error:
            refused = f"{named} is refused ({error})"
            continue
        found.append((largest_difference(plain, rows), named))
    if not found:
        declared = lab.subject.cls.off
        if declared == {}:
            return "skip", None, "—", "It declares that no setting makes it the frozen model."
        sentence = refused or (
            f"No switch known: name it in the class, off = {{'lr': 0}} "
            f"(looked for {', '.join(SWITCHES[:6])}, ...)."
        )
        return "skip", None, "—", sentence
    difference, named = min(found)
    moved = largest_difference(plain, _read(lab.fresh(), lab.fresh()))
    return compared(
        difference,
        f"With {named} it predicts what none predicts; as given it moves up to {moved:.1g} nats.",
        f"With {named} it still differs from none.",
    )


def _read(one: Method, other: Method) -> list[Tensor]:
    """What two instances predict: of documents in small chunks, and of one in wide chunks."""
    return [
        *Reader(one).read([document(4 * CHUNK, 51), document(2 * CHUNK + 3, 52)]),
        *Reader(other, WIDE).read([document(600, 53)]),
    ]
