"""The method of every head that is a memory in the shared block.

What a memory does to a document is in its row: `added` is the root of |y - h|^2 / |h|^2 over the
tokens scored, `norm/NAME` the norm of each tensor of the memory's state at the document's end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tta_bench import LanguageModel, MethodError, UsageError, Window
from tta_bench.heads import State, TrainedHead
from tta_bench_methods.head.block.block import BlockOptions, FastBlock
from tta_bench_methods.head.block.memory import FastMemory

SUMS = ("sums.added", "sums.own")
"""Names in the state; those of memories have no dot."""


class FastMethod(TrainedHead):
    """Base class of these methods. A subclass defines `memory`, and `Slow` where it has options."""

    graphs = True
    Slow: ClassVar[type[BlockOptions]] = BlockOptions
    weights_folder = Path(__file__).parents[2] / "weights"

    @classmethod
    def memory(cls, hidden_size: int, slow: Any) -> FastMemory:
        """A fresh memory of `slow.heads` heads of `slow.width`, in a block of width d."""
        raise MethodError(f"{cls.__name__} does not define memory(hidden_size, slow).")

    @classmethod
    def slow_weights(cls, model: LanguageModel, slow: Any) -> FastBlock:
        """The block with its memory.

        Raises:
            UsageError: labels=embedding, and the model's logits are not E h alone.
        """
        if slow.labels == "embedding" and model.unembedding is None:
            raise UsageError(
                f"{cls.name}: labels=embedding needs an unembedding that is a matrix, and logits "
                f"of {model.name} are more than that; use labels=error."
            )
        return FastBlock(model.hidden_size, slow, cls.memory(model.hidden_size, slow))

    @classmethod
    def random_weights(cls, model: LanguageModel) -> FastBlock:
        """As in `TrainedMethod`, of a small block: probes read much, and learn as much from it."""
        block = cls.slow_weights(model, cls.Slow(heads=2, width=16))
        for value in block.parameters():
            size = 1.0 if value.dim() < 2 else value.shape[-1] ** -0.5
            value.add_(size * torch.randn_like(value))
        return block

    def init_state(self) -> dict[str, Tensor]:
        """The memory's, and for `figures` the sums of |y - h|^2 and |h|^2."""
        memory = super().init_state()
        self._of_memory = tuple(memory)
        nothing = torch.zeros((), dtype=self.dtype, device=self.model.device)
        return memory | {name: nothing for name in SUMS if memory}

    def start(self, hidden: Tensor, window: Window) -> tuple[Tensor, Any]:
        outputs, memo = self.head.start(hidden, window, self.unembedding, self._memory())
        parts = (outputs - hidden, hidden) if self.head.adapts else ()
        sums = [part.square().sum(-1).where(window.mask, 0).sum(1) for part in parts]
        return outputs, (memo, sums)

    def finish(self, memo: Any, window: Window, targets: Tensor) -> None:
        of_head, sums = memo
        self.head.finish(of_head, window, targets, self.unembedding, self._memory())
        for name, value in zip(SUMS, sums, strict=True):
            self.state[name].add_(value)

    def figures(self, lane: int) -> dict[str, float]:
        if not self.state:
            return {}
        added, own = (self.state[name][lane] for name in SUMS)
        norms = {
            f"norm/{name}": float(value[lane].norm())
            for name, value in self._memory().items()
            if value.is_floating_point()
        }
        return {"added": float((added / own).sqrt()), **norms}

    def _memory(self) -> State:
        """The state without the sums: what the head is given."""
        return {name: self.state[name] for name in self._of_memory}
