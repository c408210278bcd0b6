"""What is trained: body, head and unembedding over whole segments, as one module with one loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.model.language_model import LanguageModel

Head = Any
"""The module of `Method.slow_weights`: nn.Module's own types hide what it has beside forward."""


class SegmentLoss(nn.Module):
    """Mean loss of a batch of segments; carries the lanes' fast state from step to step.

    The state of a lane at the end of a segment is where its next one begins, detached: gradients
    flow through all updates inside a segment and stop at its edge.

    Args:
        model: the base.
        head: the method's module, or None for the body alone.
        train_body: whether the body is trained, too.
        windows: W of each group of lanes; rows of a batch belong to them in turn.
        chunk: tokens after which the head may start another document.
        lanes: L, of all processes.
        tokens_per_row: what a row holds on average. Dividing by it, not by the batch's own count,
            makes the gradient of a step independent of how lanes are spread over batches.
    """

    def __init__(
        self,
        model: LanguageModel,
        head: Head | None,
        train_body: bool,
        windows: Sequence[int],
        chunk: int,
        lanes: int,
        tokens_per_row: float,
    ) -> None:
        super().__init__()
        self.head: Head | None = head
        self.windows, self.chunk, self.tokens_per_row = tuple(windows), chunk, tokens_per_row
        self.train_body = train_body
        # A frozen body is no submodule: checkpoints and the optimiser should not see it.
        self.net = model.net if train_body else None
        self._model = (model,)
        self.state: dict[str, Tensor] = {}
        if head is not None:
            device = model.device
            self.state = {
                name: value.to(device, torch.float32)
                for name, value in head.empty_state(lanes).items()
            }
        self._of_outputs: Callable[..., Tensor] = _summed_loss
        self._pending: list[tuple[Tensor, Tensor]] = []

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._model[0].device

    def compile_parts(self) -> None:
        """Compiles each block of the body, the parts of the head that it names, and the loss.

        Blocks share one graph a shape, so that compiling takes seconds, not minutes; a graph of
        the whole is more than the compiler can handle.
        """
        for layer in self._model[0].layers:
            layer.compile(dynamic=False)
        if self.head is not None and hasattr(self.head, "compile_parts"):
            self.head.compile_parts()
        self._of_outputs = torch.compile(self._of_outputs, dynamic=False)

    def forget(self) -> None:
        """Empties the fast state of every lane and the sums."""
        for value in self.state.values():
            value.zero_()
        self.take_sums()

    def take_sums(self) -> tuple[float, int]:
        """Nats and tokens since the last call, of this process."""
        nats = float(sum(float(n) for n, _ in self._pending))
        tokens = sum(int(t) for _, t in self._pending)
        self._pending = []
        return nats, tokens

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Tied parameters once, since safetensors refuses memory that is shared."""
        whole = super().state_dict(*args, **kwargs)
        named = {name for name, _ in self.named_parameters()}
        return {name: value for name, value in whole.items() if name in named}

    def forward(
        self, input_ids: Tensor, labels: Tensor, mask: Tensor, fresh: Tensor, lane: Tensor
    ) -> dict[str, Tensor]:
        """`loss`; arguments as `LaneSegments.collate` gives them."""
        model = self._model[0]
        hidden = self._hidden(model, input_ids)
        unembedding = model.unembed if model.unembedding is None else model.unembedding
        state = {name: value[lane] for name, value in self.state.items()}
        outputs, after = hidden.float(), {}
        if self.head is not None:
            outputs, after = self.head(outputs, labels, mask, unembedding, self.chunk, fresh, state)
        nats = self._of_outputs(outputs, labels, mask, unembedding)
        with torch.no_grad():
            for name, value in after.items():
                self.state[name][lane] = value.detach().float()
        self._pending.append((nats.detach(), mask.sum()))
        return {"loss": nats / (len(input_ids) * self.tokens_per_row)}

    def _hidden(self, model: LanguageModel, input_ids: Tensor) -> Tensor:
        """[B, T, d]; each group of rows in windows of its own length."""
        groups = len(self.windows)
        with torch.set_grad_enabled(self.train_body and torch.is_grad_enabled()):
            pieces = []
            for number, window in enumerate(self.windows):
                rows = input_ids[number::groups]
                found = model.body(rows.reshape(-1, window))
                pieces.append(found.view(*rows.shape, -1))
        if groups == 1:
            return pieces[0]
        return torch.stack(pieces, dim=1).flatten(0, 1)


def _summed_loss(outputs: Tensor, labels: Tensor, mask: Tensor, unembedding: Any) -> Tensor:
    matrix = isinstance(unembedding, Tensor)
    logits = outputs @ unembedding.mT if matrix else unembedding(outputs)
    nll = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    return (nll * mask.flatten()).sum()
