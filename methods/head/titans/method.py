"""`titans`: a small network as memory, with momentum and forgetting (Behrouz et al. 2025).

    S_t = m_t S_{t-1} - theta_t grad l_t    M_t = f_t M_{t-1} + S_t    l_t = |mem(k_t) - v_t|^2 / 2

(arXiv 2501.00663, section 3.1, the memory alone.) W_0 + M_t are the weights of a network for each
head, `network.py`, with learned W_0, and m, f and theta depend on the input, for each head and
token. The gradients of a mini-batch are taken at the weights of its start; between, M_t is a sum
over the positions so far, and is read without being written out (`scan.py`, `network.py`).

Departures from the paper: as in titans-pytorch, an implementation by others, the network has LN and
a residual connection behind it, with a gain that is fast. What is forgotten fades to W_0 and not to
0: behind LN weights that shrink forget nothing, and training through their steps explodes. Steps
are bounded, since plain ones diverge on repetitive texts: theta_t is rate sigmoid(.) (1 - m_t) / n
in mini-batches of n, so that momentum changes when a gradient acts and not how much, and a gradient
g counts as g / sqrt(1 + |g|^2 / w), w the width of a head. With labels position t reads M_{t-1}.

Other than in titans-pytorch every position reads what was written up to it (there the last one of a
chunk alone reads its chunk), momentum and forgetting are of each token (there of each chunk), and
gradients are taken at the newest whole mini-batch (there, by default, at the initial weights).
"""

from __future__ import annotations

from typing import Any

from tta_bench import register
from tta_bench_methods.head.block.method import FastMethod
from tta_bench_methods.head.titans.memory import TitansMemory, TitansOptions


@register("titans")
class Titans(FastMethod):
    """A small network before the unembedding, taught with momentum and forgetting (Titans)."""

    Slow = TitansOptions

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> TitansMemory:
        return TitansMemory(hidden_size, slow)
