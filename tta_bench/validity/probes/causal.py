"""What a method predicts for a token must not depend on that token or on a later one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from tta_bench.validity.lab import SAME, Found, Lab, compared
from tta_bench.validity.models import FIRST_SPECIAL, document, with_other_future
from tta_bench.validity.reader import (
    CACHE,
    CHUNK,
    PLAIN,
    RECOMPUTE,
    ObservedStep,
    Reader,
    largest_difference,
)

if TYPE_CHECKING:
    from tta_bench.contract.method import Method
    from tta_bench.model.scores import Scored
    from tta_bench.model.window import Window

_LENGTH = 5 * CHUNK
_PLACES = {
    "chunk start": 2 * CHUNK,
    "middle": 2 * CHUNK + CHUNK // 2,
    "chunk end": 3 * CHUNK - 1,
    "one past the end": 3 * CHUNK,
}


def future(lab: Lab) -> Found:
    """Replaces the future, in every context mode."""
    worst, where = 0.0, ""
    for protocol in (PLAIN, RECOMPUTE, CACHE):
        for seed, text in enumerate((document(_LENGTH, 11), document(_LENGTH, 12))):
            (base,) = lab.read([text], protocol=protocol)
            for name, place in _PLACES.items():
                other = with_other_future(text, place, seed)
                (found,) = lab.read([other], protocol=protocol)
                # Row i predicts token i from those before it: row `place` is still untouched.
                difference = largest_difference([base[: place + 1]], [found[: place + 1]])
                if difference > worst:
                    worst, where = difference, f"{name}, context mode {protocol.context_mode}"
    return compared(
        worst,
        "Other future tokens leave every earlier distribution as it was.",
        f"Predictions depend on tokens that come later (future replaced from: {where}).",
    )


class _OtherTargets(ObservedStep):
    """Gives the last step of a document other targets; its inputs stay what they were."""

    def __init__(self, method: Method, last: int, shift: int, columns: slice):
        super().__init__(method)
        self.last, self.shift, self.columns = last, shift, columns
        self.steps = 0

    def __call__(self, window: Window, read_targets: Callable[[], Tensor]) -> Scored:
        self.steps += 1

        def read_others() -> Tensor:
            targets = read_targets()
            if self.steps == self.last:
                changed = targets[:, self.columns]
                targets[:, self.columns] = (changed + self.shift) % FIRST_SPECIAL
            return targets

        return super().__call__(window, read_others)


_FINAL, _ALL = slice(-1, None), slice(None)


def targets(lab: Lab) -> Found:
    """Scores the same inputs while the engine holds other targets."""
    text = document(3 * CHUNK, 13)

    def read(shift: int, columns: slice) -> list[Tensor]:
        method = lab.fresh()
        return Reader(method, step=_OtherTargets(method, 3, shift, columns)).read([text])

    found = [read(0, _FINAL), read(101, _FINAL), read(101, _ALL)]
    worst = max(largest_difference(found[0], other) for other in found[1:])
    return compared(
        worst,
        "The same inputs are scored alike whatever their targets: they reach adapt alone.",
        "score reaches the targets: with others, the same inputs get other predictions.",
        SAME,
    )
