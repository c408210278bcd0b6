"""`linear-attention`: the sum of all pairs, as in linear attention with a matrix of state a head.

    S_t = exp(g_t) S_{t-1} + k_t v_t^T,    r_t = S^T q_t

(Katharopoulos et al. 2020, arXiv 2006.16236, without feature map and normaliser: keys have unit
length and reads are brought to one size by the block.) It learns nothing from what it already
knows. With the state of another head it is that head's control: much of what fast weights give,
linear attention gives as well (arXiv 2602.21204). Forgetting, g_t < 0 for each head from x_t, is
that of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060); `forget=off` sums for ever, so that the state
grows with the document, and only its direction matters to what is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tta_bench import register
from tta_bench_methods.head.block.block import BlockOptions
from tta_bench_methods.head.block.method import FastMethod
from tta_bench_methods.head.linear.matrix import MatrixMemory


@dataclass
class LinearAttentionOptions(BlockOptions):
    """How it is made; what `tta-bench train linear-attention:key=value` sets."""

    forget: Literal["learned", "off"] = field(
        default="learned", metadata={"help": "what is left of a write after a token; off: all"}
    )


@register("linear-attention")
class LinearAttention(FastMethod):
    """Linear attention before the unembedding, the control of heads with equal state."""

    Slow = LinearAttentionOptions

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> MatrixMemory:
        return MatrixMemory(hidden_size, slow, corrects=False, forgets=slow.forget == "learned")
