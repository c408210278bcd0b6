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

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from tta_bench import LanguageModel, SlowWeights, UsageError, register
from tta_bench_methods.head.fwl.head import FastWeightHead, FastWeightStream, SlowOptions

SHIPPED = Path(__file__).parents[2] / "weights"
NAMES = ("trained", "control", "random")


@register("fwl")
class FastWeightLayers(FastWeightStream):
    """Fast weight layers with trained slow weights (Clark et al. 2022)."""

    Slow = SlowOptions

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

    off: ClassVar[dict[str, object]] = {}
    """No setting makes a trained block vanish: with step=0 its slow weights remain."""

    @classmethod
    def probe_params(cls, params: Params) -> Params:
        return replace(params, weights="random")  # trained ones fit no random model

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: SlowOptions) -> nn.Module:
        return FastWeightHead(model.hidden_size, slow)

    @classmethod
    def artifacts(cls, params: Params, model: LanguageModel) -> dict[str, str]:
        file = _file(params.weights, model)
        return {} if file is None else {"weights": SlowWeights.digest(file)}

    def prepare(self) -> None:
        file = _file(self.params.weights, self.model)
        if file is None:
            head = _random_head(self.model)
        else:
            found = SlowWeights.load(file, "fwl", self.model)
            head = FastWeightHead(self.model.hidden_size, SlowOptions(**found.options))
            head.load_state_dict(found.tensors)
            self.offline_flops = found.training_flops
            self.offline_seconds = found.training_seconds
            if found.body:
                self.model = self.model.with_weights(found.body)
        self.use(head)
        self.adapts = self.adapts and self.params.step > 0
        if self.adapts:
            for value in self.layer.log_steps.values():
                value += torch.tensor(self.params.step).log()


def _file(weights: str, model: LanguageModel) -> Path | None:
    """The file that `weights` names; None for random ones.

    Raises:
        UsageError: there is none.
    """
    if weights == "random":
        return None
    if weights not in NAMES:
        if not Path(weights).is_file():
            raise UsageError(
                f"fwl: there is no file {weights}; give one of tta-bench train fwl, or trained or "
                "control for those that come with the bench."
            )
        return Path(weights)
    for file in sorted(SHIPPED.glob("*.safetensors")):
        about = SlowWeights.describe(file)
        if about.fits(model) and SlowOptions(**about.options).fast == (weights == "trained"):
            return file
    raise UsageError(
        f"fwl: no {weights} weights for {model.name} come with the bench; make some with tta-bench "
        f"train fwl --base {model.name} and name the file, or take fwl-untrained."
    )


def _random_head(model: LanguageModel) -> FastWeightHead:
    """Large random weights, the same at every call, so that a probe sees what the block does."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        head = FastWeightHead(model.hidden_size, SlowOptions(rates=2))
        head.layer.alpha.normal_()
        for value in head.layer.log_steps.values():
            value.fill_(3.0)
    return head
