"""`in-place-ttt`: down projections written by forward passes alone (arXiv 2604.06169).

In chosen blocks the matrix that leads out of the MLP is a memory of what was read. After each
chunk it moves by the outer products of its inputs with values made of the MLP's own input; there
is no loss and no backward pass. `writes` has the formula. What makes values is trained through the
writes, by `tta-bench train in-place-ttt`, and begins at zero: an untrained one adds nothing.

How much a document adds is in its row: `added/PROJECTION` is the root of |a|^2 / |W z|^2 over the
tokens scored, a what is added to W z.

Departures from the authors' code: D lies beside W and not in it, so that nothing is rounded away
and W stays what all lanes share, biases included. What is read of it is the mean over the chunks
so far and not their sum (`over=sum`), which grows with the document until it drowns W z. Chunks
have 256 tokens (theirs 4,096), for documents of thousands, and `rate` is 0.003 (theirs 3): Adam
moves the taps and P by its learning rate, and recipes here take one 400 times theirs.
`targets=embedding` are those of the paper, the input of the MLP those of the code. The body is
frozen unless the recipe says otherwise; the authors train it, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from tta_bench import LanguageModel, UsageError, register
from tta_bench.heads import BodyModule, TrainedBody
from tta_bench_methods.parameter.dynamic_eval.subsets import leads_out_of_mlp
from tta_bench_methods.parameter.in_place_ttt.patch import (
    InPlaceLayers,
    InPlaceOptions,
    InPlacePatch,
)


@register("in-place-ttt")
class InPlaceTTT(TrainedBody):
    """In-Place TTT: down projections written by forward passes alone (Feng et al. 2026)."""

    graphs = True
    Slow = InPlaceOptions
    weights_folder = Path(__file__).parents[2] / "weights"
    off: ClassVar[dict[str, object]] = {"step": 0.0}
    module: InPlaceLayers

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
        step: float = field(default=1.0, metadata={"help": "factor on what is added; 0: nothing"})

        def __post_init__(self) -> None:
            if self.step < 0:
                raise ValueError("step must be at least 0.")

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: Any) -> InPlaceLayers:
        patches = {}
        for block in range(0, len(model.layers), slow.every):
            path = _down_projection(model, block)
            weight = model.parameter(f"{path}.weight")
            inner = weight.numel() // model.hidden_size
            patches[path] = InPlacePatch(inner, model.hidden_size, slow)
        return InPlaceLayers(patches, slow)

    @classmethod
    def random_weights(cls, model: LanguageModel) -> InPlaceLayers:
        """As in `TrainedMethod`, with small chunks and large steps: probes read little."""
        layers = cls.slow_weights(model, cls.Slow(chunk=8, rate=0.03))
        for patch in layers.patches:
            patch.kernel.normal_(std=patch.width**-0.5)
            patch.projection.add_(torch.randn_like(patch.projection), alpha=patch.width**-0.5)
        return layers

    def use(self, module: BodyModule) -> None:
        assert isinstance(module, InPlaceLayers)
        super().use(module)
        for patch in module.patches:
            patch.rate *= self.params.step

    def figures(self, lane: int) -> dict[str, float]:
        found = {}
        for number, path in enumerate(self.module.paths):
            if f"{number}.added" in self.state:
                added, own = (self.state[f"{number}.{name}"][lane] for name in ("added", "own"))
                found[f"added/{path}"] = float((added / own).sqrt())
        return found


def _down_projection(model: LanguageModel, block: int) -> str:
    """The name of the one module of a block that leads out of its MLP.

    Raises:
        UsageError: there is none, or several, or the MLP is no module of its own.
    """
    layer = model.layers[block]
    inside = {id(value) for value in layer.parameters()}
    names = [
        name.removesuffix(".weight")
        for name, value in model.net.named_parameters()
        if id(value) in inside and leads_out_of_mlp(name)
    ]
    if len(names) == 1 and model.net.get_submodule(names[0].rpartition(".")[0]) is not layer:
        return names[0]
    raise UsageError(
        f"in-place-ttt writes the matrix that leads out of an MLP, and block {block} of "
        f"{model.name} has {len(names) or 'none'} of them that it knows within an MLP; use a model "
        "whose blocks have one, such as Llama or Qwen."
    )
