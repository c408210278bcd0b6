"""`lattice`: slots that are updated only orthogonally to themselves (Karami & Mirrokni 2025).

    p_i = s_i / |s_i|      r_t = sum_i q_ti p_i      s_i <- s_i - a_ti (I - p_i p_i^T) e_t

(arXiv 2504.05646.) The step is the gradient of an objective behind the normalisation, by default of
|sum_i k_i p_i - v|^2 / 2 (`slots.py`). There is no code of the authors: the formulas follow from
the stated objectives, and gates and chunks are ours. Steps of a mini-batch are taken at the slots
of its start; at its end slots are brought back to unit length, without which |s_i| never falls and
steps come to nothing. The step size is a sigmoid of the input, for each head and token; with
`forget=learned` slots also shrink before a step, which turns them further. With labels position t
reads the slots of t - 1.
"""

from __future__ import annotations

from typing import Any

from tta_bench import register
from tta_bench_methods.head.block.method import FastMethod
from tta_bench_methods.head.lattice.memory import LatticeMemory, LatticeOptions


@register("lattice")
class Lattice(FastMethod):
    """Slots that are updated orthogonally to themselves (Karami & Mirrokni 2025, derived here)."""

    Slow = LatticeOptions

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> LatticeMemory:
        return LatticeMemory(hidden_size, slow)
