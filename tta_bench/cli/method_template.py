"""`my-method`: a unigram cache, to start from (Kuhn and De Mori 1990, IEEE PAMI 12(6)).

The document so far is a bag of tokens. With l = weight, every prediction becomes

    p(y) = (1 - l) p_below(y) + l count(y) / (sum of counts)

where p_below is the model's own prediction, and while the bag is empty p = p_below. Replace what
you do not need; the parts that a method may leave out say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tta_bench import Method, Scores, StepShape, Window, register


@register("my-method")
class MyMethod(Method):
    """Unigram cache: mixes in the tokens of the document so far (Kuhn and De Mori 1990)."""

    # Where the method acts: "output" (after the softmax), "head" (between body and unembedding),
    # "parameter" (the model's own weights) or "context" (how left context is provided).
    family = "output"

    # May be left out. Each field becomes a parameter: --method my-method:weight=0.1
    @dataclass
    class Params:
        """Hyper-parameters."""

        weight: float = field(default=0.05, metadata={"help": "share l of the cache, below 1"})

        def __post_init__(self) -> None:
            if not 0 <= self.weight < 1:
                raise ValueError("weight must be at least 0 and below 1.")

    def init_state(self) -> dict[str, Tensor]:
        """The fresh state of one lane; it is kept as `self.state[name]`, [lanes, ...].

        May be left out. What is declared here is reset at each document by the base class, which
        also reports its size. State kept elsewhere needs a `reset(lane)` of your own.
        """
        return {"counts": torch.zeros(self.model.vocab_size, device=self.model.device)}

    def score(self, window: Window) -> Scores | Tensor:
        """Predicts the chunk from what is known before it: logits [lanes, chunk, vocabulary].

        `self.below` is what the method stands on, alone the bare model. `self.model.hidden(window)`
        and `self.model.unembed(hidden)` are the two halves of the model. The result is plain
        logits, or a `Scores` that makes them a few columns at a time. Nothing may be learned here.
        """
        below = self.below.score(window)
        if self.params.weight == 0:  # off means off: exactly what stands below
            return below
        return _Mixture(below, self.state["counts"], self.params.weight)

    def adapt(self, window: Window, targets: Tensor, nll: Tensor) -> None:
        """Learns from the chunk that was just scored. May be left out.

        `targets` and `nll` are [lanes, chunk]; `window.mask` is False where a lane has nothing.
        With `gradients = True` in the class, `nll` can be differentiated.
        """
        ones = window.mask.to(self.state["counts"].dtype)
        self.state["counts"].scatter_add_(1, targets, ones)

    def flops(self, shape: StepShape) -> float | None:
        """FLOPs of one lane's step: those below; the mixing is element-wise and not counted.

        May be left out: then the figure that PyTorch's counter sees stands in.
        """
        return self.below.flops(shape)


class _Mixture(Scores):
    """Mixed log-probabilities, made a few columns of the chunk at a time to save memory."""

    normalised = True  # rows() gives log-probabilities; the engine checks that they sum to one

    def __init__(self, below: Scores, counts: Tensor, weight: float):
        super().__init__(*below.shape)
        self.below = below
        self.hidden = below.hidden  # for a method that stands on this one
        total = counts.sum(dim=1, keepdim=True)  # [lanes, 1]
        share = torch.where(total > 0, weight, 0.0)
        self.log_model_share = torch.log1p(-share)[:, None]  # [lanes, 1, 1]
        self.log_cache = torch.log(share * counts / total.clamp(min=1))[:, None]  # [lanes, 1, V]

    def rows(self, start: int, stop: int) -> Tensor:
        model = torch.log_softmax(self.below.rows(start, stop).float(), dim=-1)
        return torch.logaddexp(model + self.log_model_share, self.log_cache)
