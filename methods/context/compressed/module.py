"""What is trained: COMP tokens, and what they pass through, for the losses of later chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tta_bench import LanguageModel, Window
from tta_bench.heads import BodyModule, SlowOptions, State, Unembedding
from tta_bench_methods.context.compressed.reading import Layers, read_on
from tta_bench_methods.context.compressed.slots import Slots
from tta_bench_methods.context.compressed.writer import LowRank, corrected, projections


@dataclass
class CompressionOptions(SlowOptions):
    """How a chunk is compressed, and what is kept."""

    slots: int = field(default=8, metadata={"help": "COMP tokens of a chunk"})
    chunks: int = field(
        default=8, metadata={"help": "groups of slots that stay beside each other (concat)"}
    )
    memory: Literal["concat", "merge"] = field(
        default="concat", metadata={"help": "merge: the mean over all chunks in as many slots"}
    )
    rank: int = field(default=16, metadata={"help": "of the corrections for COMP tokens"})

    def __post_init__(self) -> None:
        for name in ("slots", "chunks", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1.")

    def kept(self, chunks: int | None = None) -> Slots:
        """What is kept of each chunk, of so many chunks; None: of as many as it is trained with."""
        return Slots(self.slots, self.chunks if chunks is None else chunks, self.memory == "merge")


class CompressedContext(BodyModule):
    """Reads a chunk behind its memory, then n COMP tokens behind both, whose keys are the memory.

    Training calls `read` and `write`, and gradients flow through the memory of a whole segment. A
    run reads the chunk in its own way and calls `written`.

    Without `fast` COMP tokens see each other alone: slots of the same number at the same places,
    from the same parameters, that say nothing of the text.

    Args:
        model: whose shape counts, and whose embeddings COMP tokens begin with.
        slow: how it is made.
    """

    def __init__(self, model: LanguageModel, slow: CompressionOptions):
        super().__init__()
        self.slots = slow.kept()
        self.reads_text = slow.fast
        found = projections(model)
        self.paths = tuple(found)
        # Of `LowRank`; the types of nn.Module hide what it has beside forward.
        self.corrections: Any = nn.ModuleList(
            LowRank(linear.in_features, linear.out_features, slow.rank) for linear in found.values()
        )
        self.tokens = nn.Parameter(mean_embeddings(model, slow.slots))
        config = model.config
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        keys = next(linear for path, linear in found.items() if path.endswith("k_proj"))
        self.layers, self.heads, self.width = len(model.layers), keys.out_features // width, width
        self._writer: tuple[Any, ...] = ()  # a tuple, so that it is no submodule

    def attach(self, model: LanguageModel) -> LanguageModel:
        corrections = dict(zip(self.paths, self.corrections, strict=True))
        self._writer = (corrected(model, corrections),)
        return model

    def fresh_state(self, lanes: int) -> State:
        """Keys and values [lanes, layers, H, S, D], the tokens read and the groups written."""
        shape = (lanes, self.layers, self.heads, self.slots.size, self.width)
        return {
            "keys": self.tokens.new_zeros(shape),
            "values": self.tokens.new_zeros(shape),
            "read": self.tokens.new_zeros(lanes, dtype=torch.int64),
            "groups": self.tokens.new_zeros(lanes, dtype=torch.int64),
        }

    def read(self, model: LanguageModel, window: Window, state: State) -> tuple[Tensor, Layers]:
        embedded = model.net.get_input_embeddings()(window.chunk_ids)
        positions = state["read"][:, None] + torch.arange(window.chunk_size, device=embedded.device)
        return read_on(
            model.net,
            embedded,
            torch.where(window.mask, positions, 0),
            self.memory(state, embedded.dtype),
            self.slots.filled(state["groups"]),
        )

    def write(
        self, memo: Layers, window: Window, labels: Tensor, unembedding: Unembedding, state: State
    ) -> State:
        return self.written(memo, window.mask, state)

    def memory(self, state: State, dtype: torch.dtype) -> Layers:
        """The keys and values of each layer, [B, H, S, D]."""
        keys, values = (state[part].to(dtype).unbind(1) for part in ("keys", "values"))
        return list(zip(keys, values, strict=True))

    def written(self, past: Layers, mask: Tensor, state: State, span: int = 0) -> State:
        """The state once the chunk is compressed.

        Args:
            past: keys and values [B, H, S + C, D] of each layer: memory, and the chunk behind it.
            mask: [B, C], the tokens of the chunk; a lane without any keeps its state.
            state: before the chunk.
            span: the chunk is compressed in pieces of so many tokens, one after another; 0: whole.
        """
        length = mask.shape[1]
        if not 0 < span < length:
            return self._with_group(past, mask, state)
        for start in range(0, length, span):
            places = slice(self.slots.size + start, self.slots.size + start + span)
            memory = self.memory(state, past[0][0].dtype)
            behind = [
                (
                    torch.cat([kept_keys, keys[:, :, places]], dim=2),
                    torch.cat([kept_values, values[:, :, places]], dim=2),
                )
                for (kept_keys, kept_values), (keys, values) in zip(memory, past, strict=True)
            ]
            state = self._with_group(behind, mask[:, start : start + span], state)
        return state

    def _with_group(self, past: Layers, mask: Tensor, state: State) -> State:
        """The state once COMP tokens have read the memory and the text behind it (`mask`)."""
        lanes, scored = len(mask), mask.sum(1)
        read = state["read"] + scored
        positions = read[:, None] + torch.arange(self.slots.group, device=mask.device)
        visible = torch.cat([self.slots.filled(state["groups"]), mask], dim=1)
        if not self.reads_text:
            visible = torch.zeros_like(visible)
        embedded = self.tokens.to(past[0][0].dtype).expand(lanes, -1, -1)
        _, layers = read_on(self._writer[0], embedded, positions, past, visible)
        groups = state["groups"] + (scored > 0)
        after: State = {"read": read, "groups": groups}
        for number, name in enumerate(("keys", "values")):
            fresh = torch.stack([layer[number][:, :, -self.slots.group :] for layer in layers], 1)
            old = state[name]
            taken = self.slots.taken_in(old, fresh.to(old.dtype), groups.clamp_min(1))
            after[name] = torch.where((scored > 0).view(-1, 1, 1, 1, 1), taken, old)
        return after

    def correction_flops(self) -> float:
        """FLOPs of the corrections over one group of COMP tokens."""
        size = sum(value.numel() for value in self.corrections.parameters())
        return 2.0 * self.slots.group * size


@torch.no_grad()
def mean_embeddings(model: LanguageModel, rows: int) -> Tensor:
    """[rows, d] float32: row -1-k is the mean of the embeddings of tokens k, k + rows, ..."""
    embed = model.net.get_input_embeddings()
    table = embed(torch.arange(model.readable_ids, device=model.device)).float()
    return torch.stack([table[k::rows].mean(0) for k in range(rows)]).flip(0)
