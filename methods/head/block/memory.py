"""What a memory is: the only part in which the trained heads differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_bench import MethodError
from tta_bench.heads import State


class FastMemory(nn.Module):
    """Base class of the memories: values by keys, learned while a document is read.

    Its parameters are slow weights (the state at a document's start, rates, forgetting). The state
    is given and returned; tensors are [B, ...]. Every lane is computed by itself, any cut of a
    stream into pieces gives the same reads, and no shape depends on values.
    """

    def fresh(self, lanes: int) -> State:
        """The state of lanes that have read nothing; it may be made of parameters."""
        raise MethodError(f"{type(self).__name__} does not define fresh(lanes).")

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, mask: Tensor, state: State, strict: bool
    ) -> tuple[Tensor, State]:
        """Reads and writes T positions.

        Args:
            q: [B, T, H, w], queries of unit length.
            k: [B, T, H, w], keys of unit length.
            v: [B, T, H, w], values.
            x: [B, T, d], the input of the block, for rates and gates that depend on it.
            mask: [B, T] bool; in each lane True comes first. True positions are written. The first
                False one is read and writes nothing; reads after it are ignored.
            state: what each lane has written before; it must stay as it is.
            strict: values carry labels, so that position t reads what was written at s < t. False:
                it reads what was written at s <= t.

        Returns:
            Reads [B, T, H, w], and the state after the last True position of each lane, with the
            names, shapes and dtypes of the one given.
        """
        raise MethodError(f"{type(self).__name__} does not define forward.")

    def frozen(self, q: Tensor, state: State) -> Tensor:
        """Reads [B, T, H, w] of queries [B, T, H, w] with updates off."""
        raise MethodError(f"{type(self).__name__} does not define frozen.")

    def flops(self, positions: int) -> float:
        """FLOPs of `forward` over so many positions of one lane, all heads."""
        raise MethodError(f"{type(self).__name__} does not define flops(positions).")

    def frozen_flops(self, positions: int) -> float:
        """FLOPs of `frozen` over so many positions of one lane, all heads."""
        raise MethodError(f"{type(self).__name__} does not define frozen_flops(positions).")

    def invisible_flops(self, positions: int) -> float:
        """The part of `flops` that PyTorch's counter cannot see (solves)."""
        return 0.0

    def compile_parts(self) -> None:
        """Compiles what has to gain from `torch.compile`; by default `forward` as a whole."""
        self.forward = torch.compile(self.forward, dynamic=False)  # type: ignore[method-assign]
