"""Nothing a method says of a token may depend on that token or on a later one."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from tta_bench.engine.streams import Step
from tta_bench.validity.lab import SAME, Found, Lab, compared
from tta_bench.validity.models import FIRST_SPECIAL, document, with_other_future
from tta_bench.validity.reader import CACHE, CHUNK, PLAIN, RECOMPUTE, Reader, largest_difference

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


class _OtherTargets(Reader):
    """Gives the last step of a document other targets; its inputs stay what they were."""

    def __init__(self, *args: object, last: int, shift: int, only_final: bool):
        super().__init__(*args)  # type: ignore[arg-type]
        self.last, self.shift, self.only_final = last, shift, only_final
        self.steps = 0

    def step(self, step: Step) -> Tensor:
        self.steps += 1
        if self.steps == self.last:
            targets = step.targets.clone()
            columns = slice(-1, None) if self.only_final else slice(None)
            targets[:, columns] = (targets[:, columns] + self.shift) % FIRST_SPECIAL
            step = replace(step, targets=targets)
        return super().step(step)


def targets(lab: Lab) -> Found:
    """Scores the same inputs while the engine holds other targets."""
    text = document(3 * CHUNK, 13)
    found = [
        _OtherTargets(lab.fresh(), last=3, shift=shift, only_final=only_final).read([text])
        for shift, only_final in ((0, True), (101, True), (101, False))
    ]
    worst = max(largest_difference(found[0], other) for other in found[1:])
    return compared(
        worst,
        "The same inputs are scored alike whatever their targets: they reach adapt alone.",
        "score reaches the targets: with others, the same inputs get other predictions.",
        SAME,
    )
