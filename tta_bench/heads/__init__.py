"""Trained heads and trained corrections of the body: what a method with slow weights is made of.

A new trained head is one file:

    @dataclass
    class Options(SlowOptions): ...             how it is built: `tta-bench train delta:width=64`

    class DeltaHead(Head):                      the mathematics
        def fresh_state(self, lanes): ...       tensors [lanes, ...] of lanes that have read nothing
        def forward(self, hidden, labels, mask, unembedding, state): ...    one chunk
        def flops(self, positions, unembedding): ...

    @register("delta")
    class Delta(TrainedHead):
        Slow = Options
        @classmethod
        def slow_weights(cls, model, slow): return DeltaHead(model.hidden_size, slow)

`TrainedHead` chooses and loads weights, streams documents through the head, resets lanes and counts
FLOPs; `tta-bench train` trains the module through its own updates. `loss_gradient` is the gradient
of the model's loss at a head's output, for heads that learn from labels. A head whose weights are
set by hand is a `HeadMethod`. What acts inside the body (attention, MLP) is a `BodyModule`, mostly
`BodyPatches` of named submodules, and its method a `TrainedBody`.
"""

from tta_bench.heads.body import BodyModule, BodyPatches, Patch, TrainedBody, module_path
from tta_bench.heads.head import Head, State, renewed
from tta_bench.heads.inner_loss import Unembedding, loss_gradient, unembedding_of
from tta_bench.heads.slow_weights import SlowWeights
from tta_bench.heads.stream import HeadMethod
from tta_bench.heads.trained import SlowOptions, TrainedHead, TrainedMethod

__all__ = [
    "BodyModule",
    "BodyPatches",
    "Head",
    "HeadMethod",
    "Patch",
    "SlowOptions",
    "SlowWeights",
    "State",
    "TrainedBody",
    "TrainedHead",
    "TrainedMethod",
    "Unembedding",
    "loss_gradient",
    "module_path",
    "renewed",
    "unembedding_of",
]
