"""`generative-adapter`: forward passes write low-rank weights of o_proj (Chen et al. 2024).

    n = gamma h / RMS(h)             M <- M + sum over a finished chunk of (A2 n) (A3 n)^T
    M = U diag(s) V^T, S = U_q V_q^T           y = W x + (alpha / r) B S^T A1 x

(arXiv 2411.05877, section 3.) In every block h is the block's input, x and y are what the output
projection of its attention is given and gives. A chunk reads what the chunks before it have
written, so that its own hidden states, which it writes next, carry the corrections of the blocks
below: layers and chunks depend on one another in order. M is the state; S is computed anew from it
for each chunk.

Departures from the authors' code: never more directions than M has (theirs fills up with arbitrary
ones where a text has fewer tokens than `directions`, and drops the whole correction while it
trains); the draw of the randomised decomposition is fixed, theirs is new at every call; the
gradient through S is exact where singular values are equal (theirs is dropped there). It is trained
on completion and, as `train.reconstruction` of its recipes says, on reconstruction: after chunk j a
random slice of chunks 0 to j is read with what they have written. Theirs writes anew in each
segment; here a document that goes on from the segment before it keeps M.
Options are those of small models: the authors have rank 1024, 128 directions and alpha 64 for
models of width 4096, and chunks of 1024 tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from tta_bench import LanguageModel, Needs, StepShape, UsageError, register
from tta_bench.heads import BodyModule, BodyPatches, SlowOptions, TrainedBody, module_path
from tta_bench_methods.parameter.generative.adapter import Adapter, AdapterOptions

_OUTPUT = re.compile(r"att[a-z]*\.(o_proj|out_proj|c_proj|dense|wo)$")


class GenerativeAdapters(BodyPatches):
    """An adapter on the output projection of every block's attention.

    Args:
        model: whose widths count.
        slow: how the adapters are built.

    Raises:
        UsageError: a block has no output projection that is known.
    """

    def __init__(self, model: LanguageModel, slow: AdapterOptions):
        width = model.config.hidden_size
        super().__init__(
            {
                module_path(model, found): Adapter(width, _size(found) // width, width, slow)
                for found in output_projections(model)
            }
        )

    def attach(self, model: LanguageModel) -> LanguageModel:
        own = super().attach(model)
        for layer, adapter in zip(own.layers, self.patches, strict=True):
            layer.forward = partial(_noted, adapter, layer.forward)
        return own

    def flops(self, shape: StepShape) -> float:
        return sum(adapter.flops(shape.inputs) for adapter in self.patches)

    def invisible_flops(self) -> float:
        """The part of `flops` that PyTorch's counter cannot see."""
        return sum(adapter.invisible_flops() for adapter in self.patches)


def output_projections(model: LanguageModel) -> list[nn.Module]:
    """The output projection of each block's attention, first to last.

    Raises:
        UsageError: a block has none that is known.
    """
    found = []
    for layer in model.layers:
        inside = [module for name, module in layer.named_modules() if _OUTPUT.search(name)]
        if len(inside) != 1:
            raise UsageError(
                "generative-adapter corrects the output projection of attention (o_proj), which "
                f"was not found in every block of {model.name}; choose another method."
            )
        found += inside
    return found


def _size(module: nn.Module) -> int:
    return module.get_parameter("weight").numel()


def _noted(adapter: Adapter, forward: Callable[..., Any], hidden: Tensor, *args: Any, **more: Any):
    """A block, whose input its adapter will write."""
    adapter.block_input = hidden
    return forward(hidden, *args, **more)


@register("generative-adapter")
class GenerativeAdapter(TrainedBody):
    """Low-rank weights of o_proj, which chunks write by forward passes (Generative Adapter)."""

    graphs = True
    Slow: ClassVar[type[SlowOptions]] = AdapterOptions
    weights_folder = Path(__file__).parents[2] / "weights"
    module: GenerativeAdapters

    @classmethod
    def needs(cls, params: Any, model: LanguageModel, step: StepShape) -> Needs:
        output_projections(model)
        return super().needs(params, model, step)

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: Any) -> GenerativeAdapters:
        return GenerativeAdapters(model, slow)

    def use(self, module: BodyModule) -> None:
        super().use(module)
        # The largest singular value comes from a library that waits for the device.
        spectral = any(patch.normalise == "spectral" for patch in self.module.patches)
        self.graphs = not spectral  # type: ignore[misc]

    def invisible_flops(self, shape: StepShape) -> float:
        return super().invisible_flops(shape) + self.module.invisible_flops()
