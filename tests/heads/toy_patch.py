"""A plugin: a low-rank fast weight beside the down projection of the last block."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tta_bench import register
from tta_bench.heads import BodyPatches, Patch, SlowOptions, TrainedBody, module_path


@dataclass
class PatchOptions(SlowOptions):
    rank: int = 8


class OuterProducts(Patch):
    """y = W x + gate M^T A x; a chunk adds the mean of (A x) (W x)^T to M, which fades."""

    def __init__(self, inner, outer, slow):
        super().__init__()
        self.adapts = slow.fast
        self.down = nn.Linear(inner, slow.rank, bias=False)
        self.begin = nn.Parameter(0.1 * torch.randn(slow.rank, outer))
        self.gate, self.keep = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(2.0))

    def fresh_state(self, lanes):
        return {"M": self.begin.expand(lanes, -1, -1)} if self.adapts else {}

    def forward(self, inputs, output, mask, state):
        keys = F.normalize(self.down(inputs.to(self.gate.dtype)), dim=-1)
        if not self.adapts:
            return output + (self.gate * (keys @ self.begin)).to(output.dtype), {}
        corrected = output + (self.gate * (keys @ state["M"])).to(output.dtype)
        share = mask / mask.sum(1, keepdim=True).clamp_min(1)
        written = (keys * share[..., None]).mT @ output.to(keys.dtype)
        after = self.keep.sigmoid() * state["M"] + written
        return corrected, {"M": torch.where(mask.any(1)[:, None, None], after, state["M"])}


class ToyPatches(BodyPatches):
    def flops(self, shape):
        (patch,) = self.patches
        products = patch.down.weight.numel() + (1 + patch.adapts) * patch.begin.numel()
        return 2.0 * shape.inputs * products


@register("toy-patch")
class ToyPatch(TrainedBody):
    """A fast correction inside the body, for tests."""

    family = "parameter"
    Slow = PatchOptions

    @classmethod
    def slow_weights(cls, model, slow):
        maps = [module for module in model.layers[-1].modules() if is_map(module)]
        inner = maps[-1].weight.numel() // model.hidden_size
        patch = OuterProducts(inner, model.hidden_size, slow)
        return ToyPatches({module_path(model, maps[-1]): patch})


def is_map(module):
    """Whether it is linear; the last one of a block is its down projection in every family."""
    return getattr(getattr(module, "weight", None), "ndim", 0) == 2
