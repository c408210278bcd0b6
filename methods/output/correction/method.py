"""`output-correction`: a slow and a fast correction of the output (ours, after ADCSD).

    z_t  = log-probabilities of what stands below            m = mean of z over the text read before
    x_t  = z_t - m                                           (the trend, and what departs from it)
    q_t  = softmax(z_t + slow + fast * x_t)                  one weight of each per vocabulary entry

ADCSD (Guo et al. 2024, arXiv 2401.04148) corrects a frozen forecaster of traffic: its output is
divided into a trend (a moving average) and a seasonal part, each goes through a small network, and
both are added to the output with a weight for every sensor, from zero, all of it learned online.
Here the frozen output is a distribution, the sensors are the entries of the vocabulary, and time
is the position in the text. The trend moves so little that whatever a network makes of it is an
offset, and `slow` is that offset: entries that the text has more of than the model expects. `fast`
makes departures from the trend count more or less, entry by entry. `step.py` is how both are
learned, after every chunk, from the chunk alone; `slow`, `fast` and `m` are zero at a document's
start, and the first chunk, which has no trend yet, teaches `slow` alone.

Departures: no networks; the trend is that of the text, where theirs is within one forecast; Newton
steps in place of Adam's, since most entries are seen once or never, and a rate that serves them is
far too small for those that are frequent; the loss is that of the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tta_bench import Method, Scores, StepShape, Window, compiled, register
from tta_bench_methods.output.correction.parts import CorrectedScores, corrected, summed
from tta_bench_methods.output.correction.step import learned


@register("output-correction")
class OutputCorrection(Method):
    """Slow and fast corrections of each vocabulary entry, learned online (ours, after ADCSD)."""

    family = "output"
    graphs = True
    learns_from_losses = False

    @dataclass
    class Params:
        """How the corrections are learned."""

        step: float = field(default=1.0, metadata={"help": "factor on each step; 0: nothing"})
        slow_ridge: float = field(
            default=1.0, metadata={"help": "caution of offsets, in tokens expected of an entry"}
        )
        fast_ridge: float = field(
            default=1000.0, metadata={"help": "caution of what departures from the trend count"}
        )

        def __post_init__(self) -> None:
            if self.step < 0:
                raise ValueError("step must be at least 0.")
            if not (self.slow_ridge > 0 and self.fast_ridge > 0):
                raise ValueError("slow_ridge and fast_ridge must be above 0.")

    def prepare(self) -> None:
        self._correct, self._add_up, self._learn = corrected, summed, learned

    def compile(self) -> None:
        self._correct, self._add_up = compiled(corrected), compiled(summed)
        self._learn = compiled(learned)

    def init_state(self) -> dict[str, Tensor]:
        """Six numbers for every entry of the vocabulary, and how many tokens were read."""
        if self.params.step == 0:
            return {}
        like: dict[str, Any] = {
            "dtype": torch.promote_types(self.model.dtype, torch.float32),
            "device": self.model.device,
        }
        names = ("slow", "fast", "trend", "flat", "mixed", "steep")
        entries = {name: torch.zeros(self.model.vocab_size, **like) for name in names}
        return entries | {"tokens": torch.zeros((), **like)}

    def score(self, window: Window) -> Scores:
        below = self.below.score(window)
        if self.params.step == 0:
            return below
        self._scores = CorrectedScores(below, window, self.state, self._correct, self._add_up)
        return self._scores

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if self.params.step == 0:
            return
        sums = self._scores.sums(targets)
        del self._scores  # what a chunk was scored with must not lie beside that of the next
        ridges = self.params.slow_ridge, self.params.fast_ridge
        after = self._learn(self.state, sums, window.scored, self.params.step, ridges)
        for name, value in after.items():
            self.state[name].copy_(value)

    def flops(self, shape: StepShape) -> float | None:
        """Those below: every entry is corrected by itself, which is element-wise work."""
        return self.below.flops(shape)
