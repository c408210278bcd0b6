"""`ttt-linear` and `ttt-mlp`: test-time training layers (Sun et al. 2024, arXiv 2407.04620).

While a document is read, a small inner model f (a linear layer, or an MLP) is trained to give
values by keys, and what it gives for the query is read. Gradients of a mini-batch of 16 positions
are taken at its start and are summed in closed form, so that no position has weights of its own
(`linear.py`, `mlp.py`); f, LN and the initial weights are trained through these steps.

Departures from the authors' layer (ttt-lm-pytorch), whose numbers the mathematics reproduces:

- The layer stands between body and unembedding behind a gate, in the block that all heads share;
  the gate is that of the one-minute-video paper (Dalal et al. 2025, arXiv 2504.05298), made causal
  by leaving out its reverse pass and reading within a mini-batch only what lies before.
- With labels the value at s carries the label of s, and t reads what s < t wrote. Without
  (`labels=no`) it is the authors' layer in this: values from inputs alone, read at s <= t.
- Keys and queries are brought to RMS 1, so that no step is larger than its rate allows. They are
  not rotated (RoPE): what a position is told of its place in a mini-batch is tau.
- tau_i, from 1 / i, is learned as a logarithm. Theirs is max(0, 1 / i + c_i), which a training step
  can stop for good: at 0 it has no gradient, and where the last one is 0 the weights stand still.
- `forget=learned` lets the weights fade to the initial ones. Without it they grow slowly for ever,
  since LN makes each gradient orthogonal to what it moves, and learn ever more slowly.
- No convolutions, no gate on the read, no warm-up of the inner rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tta_bench import register
from tta_bench_methods.head.block.method import FastMethod
from tta_bench_methods.head.ttt.linear import Linear
from tta_bench_methods.head.ttt.memory import TestTimeTraining, TestTimeTrainingOptions
from tta_bench_methods.head.ttt.mlp import MLP


@register("ttt-linear")
class TestTimeTrainingLinear(FastMethod):
    """A linear map that is trained on what is read, in mini-batches (Sun et al. 2024)."""

    Slow = TestTimeTrainingOptions

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> TestTimeTraining:
        return TestTimeTraining(hidden_size, slow, Linear())


@dataclass
class MLPOptions(TestTimeTrainingOptions):
    """How it is made; what `tta-bench train ttt-mlp:key=value` sets."""

    rate: float = field(default=0.1, metadata={"help": "inner learning rate, at most"})


@register("ttt-mlp")
class TestTimeTrainingMLP(FastMethod):
    """A small MLP that is trained on what is read, in mini-batches (Sun et al. 2024)."""

    Slow = MLPOptions

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> TestTimeTraining:
        return TestTimeTraining(hidden_size, slow, MLP())
