"""Counted FLOPs: `torch.utils.flop_counter` with our own formulas for attention.

The conventions are those in the manifest: 2 FLOPs per multiply-add; attention counted as the full
rectangle whatever the mask is; its backward pass counted as twice the forward pass, although
kernels recompute part of it.

Work outside PyTorch's dispatcher (NumPy, other threads, raw CUDA) cannot be seen here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

_NOTABLE = 0.01
"""Share of the count above which outer products, which are not counted, are reported."""


class Counted(NamedTuple):
    """The result of counting."""

    flops: float
    blind_ops: tuple[str, ...]
    """Names of operations that do matrix-like work but have no formula, so that they count 0."""


_elsewhere: list[list[Counted]] = []
"""What other processes have done, for each count that is going on."""


def counting() -> bool:
    """Whether FLOPs are being counted now."""
    return bool(_elsewhere)


def add_counted(work: Counted) -> None:
    """Adds to the count that is going on what another process has done for it."""
    _elsewhere[-1].append(work)


def count_flops(fn: Callable[[], object]) -> Counted:
    """Runs `fn` once and counts its FLOPs; too slow for a section that is timed.

    Compiled functions run uncompiled, since the counter cannot look into them.
    """
    formulas = _formulas()
    spy = _Spy(formulas)
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    # The counter is the inner mode: it decomposes operations first, and the spy sees the rest.
    added: list[Counted] = []
    _elsewhere.append(added)
    try:
        with torch.compiler.set_stance("force_eager"), _triton_launches(spy.blind), spy, counter:
            fn()
    finally:
        _elsewhere.pop()
    flops = float(counter.get_total_flops()) + sum(work.flops for work in added)
    spy.blind.update(name for work in added for name in work.blind_ops)
    if 2 * spy.outer_products > _NOTABLE * flops:
        spy.blind.add("outer product")
    return Counted(flops, tuple(sorted(spy.blind)))


# --- formulas -------------------------------------------------------------------------------


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """[B, h, L, d] shapes; keys may have fewer heads (grouped-query attention)."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *a: Any, **k: Any) -> int:
    return 2 * _attention(query, key, value)


def _grouped_mm(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    """Experts: each row is multiplied by one matrix of the group; two 3-D operands are a `bmm`."""
    groups = left[0] if len(left) == len(right) == 3 else 1
    return 2 * groups * left[-2] * left[-1] * right[-1]


def _int_mm(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def _without_recompute(stock: Any) -> Any:
    """PyTorch's formula without the one of its five products that the kernel recomputes."""

    @wraps(stock)  # keeps the attribute that says that it takes tensors, not shapes
    def formula(*args: Any, **kwargs: Any) -> int:
        return stock(*args, **kwargs) * 4 // 5

    return formula


_FORMULAS: dict[str, Callable[..., int]] = {
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_attention_math_for_mps": _attention,
    "_scaled_dot_product_flash_attention_backward": _attention_backward,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "_scaled_dot_product_efficient_attention_backward": _attention_backward,
    "_scaled_dot_product_cudnn_attention_backward": _attention_backward,
    "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
    "_grouped_mm": _grouped_mm,
    "_int_mm": _int_mm,
}


def _product_of_8_bits(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    """[..., in] times the transpose of [out, in]."""
    return 2 * prod(left) * right[0]


def _product_of_4_bits(left: Any, packed: Any, shape: Any, *args: Any, **kwargs: Any) -> int:
    """[..., in] times the transpose of [out, in], which is packed and told by its shape."""
    return 2 * prod(left) * shape[0]


_BITSANDBYTES: dict[str, Callable[..., int]] = {
    "gemv_4bit": _product_of_4_bits,
    "gemm_4bit": _product_of_4_bits,
    "int8_scaled_mm": _product_of_8_bits,
    "int8_linear_matmul": _product_of_8_bits,
}
_NESTED_BACKWARD = ("_flash_attention_backward", "_efficient_attention_backward")


def _formulas() -> dict[Any, Any]:
    """The formulas of the operations that this version of PyTorch has."""
    aten = torch.ops.aten
    mapping = {getattr(aten, name): f for name, f in _FORMULAS.items() if hasattr(aten, name)}
    if "bitsandbytes" in sys.modules:  # else nothing is made of its operations
        own = torch.ops.bitsandbytes
        mapping |= {getattr(own, k): f for k, f in _BITSANDBYTES.items() if hasattr(own, k)}
    for name in _NESTED_BACKWARD:
        packet = getattr(aten, name, None)
        if packet in flop_registry:
            mapping[packet] = _without_recompute(flop_registry[packet])
    return mapping


# --- the spy --------------------------------------------------------------------------------

_BLIND = {
    "mv", "addmv", "addmv_", "dot", "vdot", "addr", "addr_", "addbmm", "addbmm_", "inverse",
    "triangular_solve", "geqrf", "orgqr", "ormqr", "svd", "qr", "_trilinear", "_addmm_activation",
    "_pdist_forward", "_pdist_backward", "_euclidean_dist", "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd", "mkldnn_rnn_layer", "mkldnn_rnn_layer_backward",
    "_cudnn_rnn", "_cudnn_rnn_backward", "_sparse_addmm", "_sparse_mm", "_scaled_mm_v2",
    "_scaled_grouped_mm", "_scaled_grouped_mm_v2", "_weight_int8pack_mm", "_weight_int4pack_mm",
    "_weight_int4pack_mm_for_cpu", "_dyn_quant_matmul_4bit", "_wrapped_linear_prepack",
}  # fmt: skip
_BLIND_PREFIXES = ("linalg_", "_linalg_", "cholesky", "_cholesky", "_cdist", "lu_", "_lu_", "_fft_")
_HARMLESS = {
    "linalg_vector_norm", "linalg_cross", "linalg_diagonal", "_linalg_check_errors", "lu_unpack",
}  # fmt: skip
_ROUNDING = re.compile(r"bitsandbytes\.(int8_\w+_)?(de)?quant")
"""Operations that bring weights or inputs from one precision to another, element by element."""
_OWN_NAMESPACES = {"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional"}


class _Spy(TorchDispatchMode):
    """Records operations that have no formula and do more than element-wise work."""

    supports_higher_order_operators = True

    def __init__(self, formulas: Mapping[Any, Any]) -> None:
        super().__init__()
        self.formulas = formulas
        self.blind: set[str] = set()
        self.outer_products = 0  # elements computed by products of two broadcast operands

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", func)
        if packet in flop_registry or packet in self.formulas:
            return out
        namespace, name = getattr(func, "namespace", ""), getattr(packet, "__name__", str(packet))
        if namespace not in _OWN_NAMESPACES:
            if not _ROUNDING.match(f"{namespace}.{name}"):
                self.blind.add(f"{namespace}.{name}" if namespace else name)
        elif name in _BLIND or (name.startswith(_BLIND_PREFIXES) and name not in _HARMLESS):
            self.blind.add(name.strip("_"))
        elif name == "mul" and _is_outer_product(out, args):
            # Rotary tables are outer products too; `count_flops` reports only a large share.
            self.outer_products += out.numel()
        return out


def _is_outer_product(out: Any, factors: Any) -> bool:
    """Whether a product broadcasts both factors, as torch.outer, kron and u[:, None] * v do."""
    if not all(isinstance(factor, Tensor) for factor in factors):
        return False
    return out.numel() > max(factor.numel() for factor in factors)


@contextmanager
def _triton_launches(names: set[str]) -> Iterator[None]:
    """Adds the names of Triton kernels launched inside the block, which bypass the dispatcher."""
    if find_spec("triton") is None:
        yield
        return
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    @wraps(run)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        names.add(f"triton.{getattr(self, '__name__', 'kernel')}")
        return run(self, *args, **kwargs)

    JITFunction.run = noted
    try:
        yield
    finally:
        JITFunction.run = run
