"""`Head`: the module of a trained head, a block between the body and the unembedding.

The author of a head writes its mathematics once, as `forward` over one chunk. Training and
evaluation are made from it: `segment` walks a segment chunk by chunk, `start` and `finish` read a
chunk before and after its last label is known. A head that has a faster form of one of these may
define it; it must give the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.errors import MethodError
from tta_bench.heads.inner_loss import Unembedding
from tta_bench.model.window import Window

State = dict[str, Tensor]
"""The fast state of B lanes: tensors [B, ...] by name."""


class Head(nn.Module):
    """Base class of every trained head. A subclass defines `fresh_state` and `forward`.

    Its parameters are the slow weights. What it learns while it reads is the state, which it is
    given and returns; it keeps none itself. Every lane is computed by itself.
    """

    adapts: bool = True
    """False: a control that learns nothing while it reads. Its state is empty."""

    learns_from_labels: bool = True
    """False: what is written depends on inputs alone, and may be read at s <= t."""

    def fresh_state(self, lanes: int) -> State:
        """The state of lanes that have read nothing.

        It may be made of parameters (learned initial fast weights): training goes through it.
        """
        raise MethodError(f"{type(self).__name__} does not define fresh_state(lanes).")

    def forward(
        self, hidden: Tensor, labels: Tensor, mask: Tensor, unembedding: Unembedding, state: State
    ) -> tuple[Tensor, State]:
        """Reads a chunk: outputs for the unembedding, and the state after it.

        `outputs[:, t]` may depend on hidden states up to t and on labels before t, strictly: the
        label of t is what is predicted there. Any cut of a stream into chunks must give the same
        outputs; T may be 1.

        Args:
            hidden: [B, T, d], what the body gives of T positions of B lanes.
            labels: [B, T] int64, the token after each position.
            mask: [B, T] bool; in each lane True comes first. True positions are written into the
                state. The first False one is read like the others, and writes nothing; outputs
                after it are ignored.
            unembedding: E [V, d], or a function [..., d] -> [..., V] where logits are more than
                E y; see `loss_gradient`.
            state: what each lane has written before; it must stay as it is.

        Returns:
            Outputs [B, T, d], and the state after the last True position of each lane, with the
            names, shapes and dtypes of the one given.
        """
        raise MethodError(f"{type(self).__name__} does not define forward.")

    def flops(self, positions: int, unembedding: float) -> float | None:
        """FLOPs of `forward` over so many positions of one lane; None: not known.

        Args:
            positions: T.
            unembedding: FLOPs of the logits of one position, for heads that use the inner loss.
        """
        return None

    def invisible_flops(self, positions: int) -> float:
        """The part of `streaming_flops` that PyTorch's counter cannot see (solvers, kernels)."""
        return 0.0

    def compile_parts(self) -> None:
        """Compiles what has to gain from `torch.compile`; by default nothing."""

    def segment(
        self,
        hidden: Tensor,
        labels: Tensor,
        mask: Tensor,
        unembedding: Unembedding,
        chunk: int,
        fresh: Tensor,
        state: State,
    ) -> tuple[Tensor, State]:
        """Reads a whole training segment, of one or several documents; gradients flow through all.

        Args:
            hidden: [B, T, d], as `labels` and `mask` in `forward`, except that each chunk has a
                mask of its own.
            labels: [B, T].
            mask: [B, T].
            unembedding: as in `forward`.
            chunk: positions read at once, a divisor of T.
            fresh: [B, T / chunk] bool, True where a chunk begins another document.
            state: what each lane brings from the segment before.
        """
        pieces = []
        for number, start in enumerate(range(0, hidden.shape[1], chunk)):
            part = slice(start, start + chunk)
            state = renewed(state, self.fresh_state(len(hidden)), fresh[:, number])
            outputs, state = self._read(
                hidden[:, part], labels[:, part], mask[:, part], unembedding, state
            )
            pieces.append(outputs)
        return torch.cat(pieces, dim=1), state

    def start(
        self, hidden: Tensor, window: Window, unembedding: Unembedding, state: State
    ) -> tuple[Tensor, Any]:
        """Reads a chunk in evaluation, before its last label is known.

        Args:
            hidden: [B, C, d], at the scored positions.
            window: what is read. The label of column i is `window.chunk_ids[:, i + 1]`.
            unembedding: as in `forward`.
            state: what each lane has written before; it must stay as it is.

        Returns:
            Outputs [B, C, d], and whatever `finish` needs.
        """
        labels = F.pad(window.chunk_ids[:, 1:], (0, 1))
        if not self.learns_from_labels:
            return self._read(hidden, labels, window.mask, unembedding, state)
        # The last label of each lane is still unknown: that position reads, and writes in `finish`.
        known = F.pad(window.mask[:, 1:], (0, 1))
        outputs, after = self._read(hidden, labels, known, unembedding, state)
        return outputs, (hidden, after)

    def finish(
        self, memo: Any, window: Window, labels: Tensor, unembedding: Unembedding, state: State
    ) -> None:
        """Writes what the chunk leaves behind into `state`, in place.

        Args:
            memo: what `start` returned for this chunk.
            window: what was read.
            labels: [B, C], all of them; 0 at padding.
            unembedding: as in `forward`.
            state: as `start` was given it.
        """
        if not self.learns_from_labels:
            replace(state, memo)
            return
        hidden, after = memo
        last = (window.scored[:, None] - 1).clamp_min(0)  # [B, 1]
        final = hidden.gather(1, last[..., None].expand(-1, -1, hidden.shape[2]))
        there = window.scored[:, None] > 0
        _, after = self._read(final, labels.gather(1, last), there, unembedding, after)
        replace(state, after)

    def streaming_flops(self, positions: int, unembedding: float) -> float | None:
        """FLOPs of `start` and `finish` over a chunk of one lane; None: not known."""
        chunk = self.flops(positions, unembedding)
        if chunk is None or not (self.adapts and self.learns_from_labels):
            return chunk
        last = self.flops(1, unembedding)
        return None if last is None else chunk + last

    def _read(
        self, hidden: Tensor, labels: Tensor, mask: Tensor, unembedding: Unembedding, state: State
    ) -> tuple[Tensor, State]:
        """`forward`, checked for what it returns."""
        return outputs_and_state(self, self(hidden, labels, mask, unembedding, state))


def outputs_and_state(module: nn.Module, returned: Any) -> tuple[Tensor, State]:
    """What a module's `forward` returned, if it is outputs and a state.

    Raises:
        MethodError: it is anything else.
    """
    pair = isinstance(returned, tuple) and len(returned) == 2
    if not (pair and isinstance(returned[0], Tensor) and isinstance(returned[1], dict)):
        kinds = [type(part).__name__ for part in returned] if isinstance(returned, tuple) else []
        what = f"({', '.join(kinds)})" if kinds else type(returned).__name__
        raise MethodError(
            f"{type(module).__name__}.forward must return (outputs, state), a tensor and a dict "
            f"of tensors, not {what}."
        )
    return returned


def renewed(state: State, fresh: State, where: Tensor) -> State:
    """The state, with that of `fresh` in the lanes of which `where` [B] is True."""
    return {
        name: torch.where(where.view(-1, *[1] * (value.dim() - 1)), fresh[name], value)
        for name, value in state.items()
    }


def replace(state: State, after: State) -> None:
    """Puts `after` into the tensors of `state`, which stay where they are."""
    for name, value in state.items():
        value.copy_(after[name])
