"""What is trained: body, slow weights and unembedding over whole segments, with one loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_bench.heads import BodyModule, Head, Unembedding, unembedding_of
from tta_bench.heads.head import State, renewed, replace
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.scores import Scores, token_nll
from tta_bench.model.window import Window
from tta_bench.training.cuda_graph import TrainingGraph
from tta_bench.training.hidden import KeptHidden


class SegmentLoss(nn.Module):
    """Mean loss of a batch of segments. It carries the lanes' fast state from step to step.

    The state of a lane at the end of a segment is where its next one begins, detached: gradients
    flow through all updates inside a segment and stop at its edge.

    Args:
        model: the base model.
        head: the method's module, or None for the body alone. A module inside the body must be
            attached to the model.
        train_body: whether the body is trained too.
        windows: window length W of each group of lanes; rows of a batch belong to them in turn.
        chunk: tokens after which a head may begin another document.
        lanes: L, the lanes of all processes together.
        tokens_per_row: tokens that a row holds on average. Dividing by it, not by the batch's own
            count, makes the gradient of a step independent of how lanes are spread over batches.
        kept: where hidden states of a frozen body are kept.
        graphs: whether a step never waits for the device, as `Method.graphs` says.
    """

    def __init__(
        self,
        model: LanguageModel,
        head: Head | BodyModule | None,
        train_body: bool,
        windows: Sequence[int],
        chunk: int,
        lanes: int,
        tokens_per_row: float,
        kept: KeptHidden | None = None,
        graphs: bool = False,
    ) -> None:
        super().__init__()
        self.head = head
        self.windows, self.chunk, self.tokens_per_row = tuple(windows), chunk, tokens_per_row
        self.train_body, self.kept = train_body, kept
        self.graphs = graphs and kept is None  # what is kept is read from files at every step
        # A frozen body is no submodule: checkpoints and the optimiser should not see it.
        self.net = model.net if train_body else None
        self._model = (model,)
        self.state = self._fresh_state(lanes)
        self._of_outputs: Callable[..., Tensor] = _summed_loss
        self._graph: TrainingGraph | None = None
        self._pending: list[tuple[Tensor, Tensor]] = []

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._model[0].device

    def compile_parts(self) -> None:
        """Compiles each block of the body, the parts of the head that it names, and the loss.

        Blocks share one graph a shape, so that compiling takes seconds, not minutes; a graph of
        the whole is more than the compiler can handle. Blocks whose gradients are differentiated
        again stay as they are: the compiler knows no second derivatives.
        """
        if not (isinstance(self.head, BodyModule) and self.head.second_order):
            for layer in self._model[0].layers:
                layer.compile(dynamic=False)
        if isinstance(self.head, Head):
            self.head.compile_parts()
        self._of_outputs = torch.compile(self._of_outputs, dynamic=False)

    def capture(self, batch: Mapping[str, Tensor]) -> None:
        """Takes every step from now on as the replay of a CUDA graph; the state becomes fresh.

        Args:
            batch: arguments of `forward`, of the shapes that all batches have.

        Raises:
            RuntimeError: the step cannot be captured; steps are then taken as before.
        """
        trained = [value for value in self.parameters() if value.requires_grad]
        try:
            self._graph = TrainingGraph(self._step, batch, trained)
        finally:
            self.forget()

    def forget(self) -> None:
        """Makes the fast state of every lane fresh and drops the sums."""
        lanes = max((len(value) for value in self.state.values()), default=0)
        replace(self.state, self._fresh_state(lanes))
        self.take_sums()

    def take_sums(self) -> tuple[float, int]:
        """Nats and tokens of this process since the last call."""
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
        self,
        input_ids: Tensor,
        labels: Tensor,
        mask: Tensor,
        fresh: Tensor,
        lane: Tensor,
        slices: Tensor | None = None,
        item: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`loss`; arguments as `LaneSegments.collate` or `KeptHidden.collate` gives them.

        A token of a slice counts as much as one of the segment. The sums are of segments alone.
        """
        batch = {"input_ids": input_ids, "labels": labels, "mask": mask, "fresh": fresh}
        optional = {"lane": lane, "slices": slices, "item": item, "hidden": hidden}
        batch |= {name: value for name, value in optional.items() if value is not None}
        take = self._step if self._graph is None else self._graph
        loss, nats = take(batch)
        self._pending.append((nats, mask.sum()))
        return {"loss": loss}

    def _step(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of a batch and its summed nats, those of slices apart; it moves the state on."""
        input_ids, labels, mask = (batch[name] for name in ("input_ids", "labels", "mask"))
        fresh, lane = batch["fresh"], batch["lane"]
        model = self._model[0]
        unembedding = unembedding_of(model)
        state = {name: value[lane] for name, value in self.state.items()}
        after: State = {}
        again: Tensor | float = 0.0
        if isinstance(self.head, BodyModule):
            outputs, again, after = self._through_body(
                model, self.head, input_ids, labels, mask, fresh, state, batch.get("slices")
            )
        else:
            hidden = batch.get("hidden")
            if hidden is None:
                hidden = self._hidden(model, input_ids)
                if self.kept is not None and "item" in batch:
                    hidden = self.kept.keep(batch["item"].tolist(), hidden)
            outputs = hidden.float()
            if self.head is not None:
                outputs, after = self.head.segment(
                    outputs, labels, mask, unembedding, self.chunk, fresh, state
                )
        nats = self._nats(outputs, labels, mask, unembedding)
        with torch.no_grad():
            for name, value in after.items():
                held = self.state[name]
                held[lane] = value.detach().to(held.dtype)
        return (nats + again) / (len(input_ids) * self.tokens_per_row), nats.detach()

    def _nats(
        self, outputs: Tensor, labels: Tensor, mask: Tensor, unembedding: Unembedding
    ) -> Tensor:
        """The summed loss of outputs [B, n, d], or of a module's own losses [B, n]."""
        if outputs.dim() == 2:
            return outputs.sum()
        return self._of_outputs(outputs, labels, mask, unembedding)

    def _hidden(self, model: LanguageModel, input_ids: Tensor) -> Tensor:
        """[B, T, d]; each group of rows in windows of its own length."""
        groups = len(self.windows)
        with torch.set_grad_enabled(self.train_body and torch.is_grad_enabled()):
            pieces = []
            for number, window in enumerate(self.windows):
                rows = input_ids[number::groups]
                found = model.body(rows.reshape(-1, window))
                pieces.append(found.view(*rows.shape, -1))
        return _in_turn(pieces)

    def _through_body(
        self,
        model: LanguageModel,
        body: BodyModule,
        input_ids: Tensor,
        labels: Tensor,
        mask: Tensor,
        fresh: Tensor,
        state: State,
        slices: Tensor | None,
    ) -> tuple[Tensor, Tensor | float, State]:
        """Outputs [B, T, d], nats of the slices, and the state after, window by window: each reads
        what those before it in the segment have written. Of a module that gives distributions:
        losses [B, T].
        """
        unembedding = unembedding_of(model)
        again: Tensor | float = 0.0
        groups, outputs, states = len(self.windows), [], []
        for number, width in enumerate(self.windows):
            rows = slice(number, None, groups)
            held, pieces = {name: value[rows] for name, value in state.items()}, []
            for start in range(0, input_ids.shape[1], width):
                part = slice(start, start + width)
                begins = fresh[rows, start // self.chunk]
                held = renewed(held, body.fresh_state(len(begins)), begins)
                lengths = mask[rows, part].sum(1)
                window = Window(input_ids[rows, part], lengths, lengths, width)
                found, memo = body.read(model, window, held)
                pieces.append(_output(found, labels[rows, part], window.mask))
                held = body.write(memo, window, labels[rows, part], unembedding, held)
                if slices is not None:
                    first, lengths = slices[rows, start // self.chunk].unbind(1)
                    places = first[:, None] + torch.arange(width, device=first.device)
                    places = places.clamp_max(input_ids.shape[1] - 1)
                    told = labels[rows].gather(1, places)
                    window = Window(input_ids[rows].gather(1, places), lengths, lengths, width)
                    found, _ = body.read(model, window, held)  # and nothing is written
                    read = _output(found, told, window.mask)
                    again = again + self._nats(read, told, window.mask, unembedding)
            outputs.append(torch.cat(pieces, dim=1))
            states.append(held)
        after = {name: _in_turn([held[name] for held in states]) for name in state}
        return _in_turn(outputs), again, after

    def _fresh_state(self, lanes: int) -> State:
        """The fresh state of so many lanes in memory of its own; floating tensors in float32."""
        if self.head is None:
            return {}
        return {
            name: value.detach()
            .to(self.device, copy=True)
            .to(torch.float32 if value.is_floating_point() else value.dtype)
            for name, value in self.head.fresh_state(lanes).items()
        }


def _output(found: Tensor | Scores, labels: Tensor, mask: Tensor) -> Tensor:
    """What a module read, in float32: hidden states [B, C, d], or the losses [B, C] of `Scores`."""
    if isinstance(found, Tensor):
        return found.float()
    with torch.autocast(labels.device.type, enabled=False):
        return token_nll(found, lambda: labels, mask, gradients=True)


def _in_turn(pieces: Sequence[Tensor]) -> Tensor:
    """One batch of the groups' batches, whose rows take turns."""
    return pieces[0] if len(pieces) == 1 else torch.stack(list(pieces), dim=1).flatten(0, 1)


def _summed_loss(outputs: Tensor, labels: Tensor, mask: Tensor, unembedding: Any) -> Tensor:
    matrix = isinstance(unembedding, Tensor)
    logits = outputs @ unembedding.mT if matrix else unembedding(outputs)
    nll = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    return (nll * mask.flatten()).sum()
