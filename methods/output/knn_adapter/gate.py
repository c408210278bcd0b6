"""The small net that says how much the neighbours count, and how sharply they are told apart.

The weights are those of the mixture of experts of He, Neubig & Berg-Kirkpatrick (2021, arXiv
2109.04212), whose code is public; the temperature stands beside them on the same net.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Log weights of model and neighbours, and the logarithm of a temperature.

    Each feature passes through a net of its own to context // features dimensions; beside the
    context these are read by layers with ReLU.

    Args:
        context: d, the width of the context.
        features: the width of each feature, by name.
        width: of the layers.
        layers: how many there are.
    """

    def __init__(self, context: int, features: Mapping[str, int], width: int, layers: int):
        super().__init__()
        each = context // len(features)
        self.features = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(own, each), nn.LeakyReLU(), nn.Linear(each, each))
                for name, own in features.items()
            }
        )
        widths = [context + each * len(features), *[width] * layers]
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.weights, self.log_temperature = nn.Linear(width, 2), nn.Linear(width, 1)

    def forward(self, context: Tensor, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log weights [..., 2], of the model and of the neighbours, and [..., 1]."""
        read = torch.cat(
            [context, *(net(features[name]) for name, net in self.features.items())], dim=-1
        )
        for layer in self.layers:
            read = layer(read).relu()
        return self.weights(read).log_softmax(-1), self.log_temperature(read)
