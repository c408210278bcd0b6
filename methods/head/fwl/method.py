"""`fwl`: Fast Weight Layers, trained (Clark et al. 2022, arXiv 2212.02475).

A block before the unembedding whose weights follow, while a document is read, the gradient of the
model's own loss at every earlier token. Because that gradient is always taken at the slow weights,
thousands of such steps have a closed form (`fwl_layer`), inside a chunk as well as from chunk to
chunk: no pass back through the body, no loop over tokens, and a state per lane of the size of the
fast tensors. The slow weights were trained through those steps (`tta-bench train fwl`), so the
model has learned to make good use of its own updates.

Departures from the authors' code: the inner loss has a fixed normaliser for every stream (theirs
depends on the batch), what was written may fade with learned half-lives, and on a pretrained model
the block is added to h (`SlowOptions.residual`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tta_bench import LanguageModel, register
from tta_bench.heads import Head, TrainedHead
from tta_bench_methods.head.fwl.head import FastWeightHead, FastWeightOptions


@register("fwl")
class FastWeightLayers(TrainedHead):
    """Fast weight layers with trained slow weights (Clark et al. 2022)."""

    graphs = True
    Slow = FastWeightOptions
    weights_folder = Path(__file__).parents[2] / "weights"

    @dataclass
    class Params:
        """What is loaded, and how far it adapts."""

        weights: str = field(
            default="trained",
            metadata={
                "help": "a file of tta-bench train, or those that come with the bench for this "
                "model: trained, control (same size, does not adapt); random: only for checks"
            },
        )
        step: float = field(
            default=1.0, metadata={"help": "factor on the learned step sizes; 0: slow weights only"}
        )

        def __post_init__(self) -> None:
            if self.step < 0:
                raise ValueError("step must be at least 0.")

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: Any) -> FastWeightHead:
        return FastWeightHead(model.hidden_size, slow)

    @classmethod
    def random_weights(cls, model: LanguageModel) -> FastWeightHead:
        """Large random weights, so that a probe sees what the block does."""
        head = FastWeightHead(model.hidden_size, FastWeightOptions(rates=2))
        head.layer.alpha.normal_()
        for value in head.layer.log_steps.values():
            value.fill_(3.0)
        return head

    def use(self, head: Head) -> None:
        assert isinstance(head, FastWeightHead)
        super().use(head)
        head.adapts = head.adapts and self.params.step > 0
        if head.adapts:
            for value in head.layer.log_steps.values():
                value += torch.tensor(self.params.step).log()
