"""What COMP tokens pass through: the model with low-rank corrections of its attention."""

from __future__ import annotations

import copy
import math
import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tta_bench import LanguageModel, UsageError
from tta_bench.heads import module_path

ALPHA = 16.0
"""The correction is ALPHA / rank times B A x, as in the authors' recipes."""

_PROJECTION = re.compile(r"att[a-z]*\.(q_proj|k_proj|v_proj|o_proj|out_proj|dense)$")


class LowRank(nn.Module):
    """y + (alpha / r) B A x beside a linear map; B begins as zeros.

    Args:
        inner: of x.
        outer: of y.
        rank: r.
    """

    def __init__(self, inner: int, outer: int, rank: int):
        super().__init__()
        self.scale = ALPHA / rank
        self.down = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, inner), math.sqrt(5)))
        self.up = nn.Parameter(torch.zeros(outer, rank))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """The corrected output [..., outer], in its dtype."""
        added = inputs.to(self.down.dtype) @ self.down.mT @ self.up.mT
        return output + (self.scale * added).to(output.dtype)


def corrected(model: LanguageModel, corrections: dict[str, LowRank]) -> Any:
    """The model's net on modules of its own, which share its tensors, with these corrections.

    Args:
        model: stays as it is.
        corrections: by the names of linear modules in the net.
    """
    shared = {id(value): value for value in (*model.net.parameters(), *model.net.buffers())}
    net = copy.deepcopy(model.net, shared)
    for path, correction in corrections.items():
        linear = net.get_submodule(path)
        linear.forward = partial(_beside, correction, linear.forward)
    return net


def _beside(correction: LowRank, forward: Any, inputs: Tensor) -> Tensor:
    return correction(inputs, forward(inputs))


def projections(model: LanguageModel) -> dict[str, nn.Linear]:
    """The projections of attention that COMP tokens' keys and values depend on, by name.

    Those are queries, keys, values and outputs of each block; of the last block keys and values
    alone, since what attention gives there leads to predictions, and COMP tokens make none.

    Raises:
        UsageError: it has others, or its keys do not stand where they are put.
    """
    found: dict[str, nn.Linear] = {}
    for number, layer in enumerate(model.layers):
        inside = [m for name, m in layer.named_modules() if _PROJECTION.search(name)]
        named = {module_path(model, module): module for module in inside}
        names = {path.rpartition(".")[2] for path in named}
        if len(named) != 4 or not names > {"q_proj", "k_proj", "v_proj"}:
            raise _refusal(model, f"block {number} has not the projections q, k, v and o")
        last = number == len(model.layers) - 1
        found |= {p: m for p, m in named.items() if not last or p.endswith(("k_proj", "v_proj"))}
    if not model.rotary:
        raise _refusal(model, "it has no rotary positions")
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or model.reads_alone:
        raise _refusal(model, "its attention is more than causal")
    return found


def _refusal(model: LanguageModel, why: str) -> UsageError:
    return UsageError(
        f"compressed-memory puts keys of its own before a chunk, which {model.name} cannot read "
        f"({why}); use a model such as Llama or Qwen, or window:context=N."
    )
