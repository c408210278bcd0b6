"""`ngram`: a variable-order model of the document so far, mixed into what stands below.

At position t, order k looks at the earlier places of the document that end in the same k tokens:
n_k(t) of them, among the last `window`, and c_k(t, y) of these were followed by y. With p_0 the
distribution below and k from 1 to `order`,

    q_k(y) = c_k(t, y) / n_k(t)
    p_k(y) = a_k(t) q_k(y) + (1 - a_k(t)) p_{k-1}(y)    and p_k = p_{k-1} where n_k(t) = 0

is interpolation as by Jelinek & Mercer (1980) and, by what a depends on, Witten & Bell (1991), from
the longest context down. p = p_K is a full distribution, and exactly p_0 after a token that is new.
A follower is the input at or before t, so that what is counted is strictly before the label.

The shares a_k are learned from the document alone. There is one for each order and situation: how
often its context was seen (1, 2, 3-4, more) and whether always with the same follower. Each is one
of eight values from 0.01 to 0.95, likely at first as (1 - a)^caution, and Bayes' rule weighs them
after every label (`trust.py`). a_k(t) is their mean given all labels before t: the same whatever
the chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tta_bench import Method, Scores, StepShape, Window, compiled, register
from tta_bench_methods.output.ngram.matches import ROOMS
from tta_bench_methods.output.ngram.mixture import NgramMixture, look_up, mixed
from tta_bench_methods.output.ngram.trust import GRID, Learner, fresh_evidence

MOST_TOKENS = 64


@register("ngram")
class Ngram(Method):
    """Variable-order n-gram model of the document, with shares learned as it is read."""

    family = "output"
    graphs = True
    learns_from_losses = False
    off: ClassVar[Mapping[str, object]] = {"order": 0}

    @dataclass
    class Params:
        """Hyper-parameters of the n-gram model."""

        order: int = field(default=5, metadata={"help": "most tokens of context compared"})
        window: int = field(default=4096, metadata={"help": "places remembered"})
        caution: float = field(
            default=4.0, metadata={"help": "how unlikely large shares are before any evidence"}
        )

        def __post_init__(self) -> None:
            if not 0 <= self.order <= MOST_TOKENS:
                raise ValueError(f"order must be at least 0 and at most {MOST_TOKENS}.")
            if self.window < 1:
                raise ValueError("window must be at least 1.")
            if self.caution < 0:
                raise ValueError("caution must be at least 0.")

    def prepare(self) -> None:
        self._look_up, self._learn, self._mix = look_up, Learner(), mixed
        self._grid = torch.tensor(GRID, device=self.model.device)

    def compile(self) -> None:
        self._look_up = compiled(look_up)
        self._learn.compile()
        self._mix = compiled(mixed)

    def init_state(self) -> dict[str, Tensor]:
        """The last inputs, the newest last, -1 where there are none, and the odds of the shares."""
        if self.params.order == 0:
            return {}
        # The oldest place remembered needs the tokens before it, too.
        kept = self.params.window + self.params.order - 1
        evidence = fresh_evidence(self.params.order, ROOMS, self.params.caution)
        return {
            "tokens": torch.full((kept,), -1, dtype=torch.int64, device=self.model.device),
            "evidence": evidence.to(self.model.device),
        }

    def score(self, window: Window) -> Scores:
        below = self.below.score(window)
        if self.params.order == 0:
            return below
        sequence = torch.cat([self._remembered(), window.chunk_ids], dim=1)
        own, vocab = self.params, self.model.vocab_size
        seen = self._look_up(sequence, window.chunk_size, own.window, own.order, vocab)
        self._scores = NgramMixture(
            below, seen, window, self.state["evidence"], self._grid, self._learn, self._mix
        )
        return self._scores

    def _remembered(self) -> Tensor:
        """The last inputs, without places that no lane has filled where asking costs no wait."""
        tokens = self.state["tokens"]
        if not on_host(tokens):
            return tokens
        return tokens[:, tokens.shape[1] - int((tokens >= 0).sum(1).max()) :]

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        if self.params.order == 0:
            return
        self.state["evidence"].copy_(self._scores.evidence_after(targets))
        del self._scores  # what a chunk has matched must not lie beside that of the next
        held = torch.cat([self.state["tokens"], window.chunk_ids], dim=1)
        # The newest inputs of a lane begin where its own chunk's length says.
        places = torch.arange(self.state["tokens"].shape[1], device=held.device)
        self.state["tokens"].copy_(held.gather(1, places + window.scored[:, None]))

    def flops(self, shape: StepShape) -> float | None:
        """Those below: tokens are compared and counted, which multiplies nothing."""
        return self.below.flops(shape)


def on_host(tensor: Tensor) -> bool:
    """Whether Python can read its values without waiting for a device."""
    return tensor.device.type == "cpu"
