"""`delta` and `gated-delta`: a key's write is what the state lacks, not the value as it is.

    S' = exp(g_t) S_{t-1};    S_t = S' + k_t (b_t (v_t - S'^T k_t))^T,    r_t = S^T q_t

is one step of gradient descent on |S^T k_t - v_t|^2 / 2 with the rate b_t = sigmoid(w x_t + c) of
each head (Schlag et al. 2021, arXiv 2102.11174; in chunks Yang et al. 2024, arXiv 2406.06484). Keys
have unit length and rates stay below 1, so that no step overshoots. `delta` forgets nothing, g = 0;
in `gated-delta` g_t < 0 for each head comes from x_t (Yang et al. 2025, arXiv 2412.06464). The
closed form over a chunk is that of `rule.py`.

Departures from the papers' layers: no short convolutions and no activations before keys, queries
and values, one gate of the block in place of one for each output, and the initial state is learned.
"""

from __future__ import annotations

from typing import Any

from tta_bench import register
from tta_bench_methods.head.block.method import FastMethod
from tta_bench_methods.head.linear.matrix import MatrixMemory


@register("delta")
class Delta(FastMethod):
    """The delta rule before the unembedding, trained through its own steps."""

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> MatrixMemory:
        return MatrixMemory(hidden_size, slow, corrects=True, forgets=False)


@register("gated-delta")
class GatedDelta(FastMethod):
    """The delta rule with forgetting before the unembedding, trained through its own steps."""

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> MatrixMemory:
        return MatrixMemory(hidden_size, slow, corrects=True, forgets=True)
