"""How well a language model predicts the held-out files of each domain."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BATCH = 32


def evaluate_heldout(model: Any, tokenizer: Any, path: Path, device: str) -> dict[str, dict]:
    """Nats per token and bits per byte of each domain and of all domains together.

    Each file is read on its own after one BOS token, in windows of W tokens (the model's context)
    that overlap by half: every token is scored once, with W/2 to W - 1 tokens before it, or fewer
    at the start of the file. Logits are normalised in float32.

    Args:
        model: a causal model of transformers.
        tokenizer: its tokenizer, of the library `tokenizers`.
        path: the file `heldout.jsonl` of a prepared folder.
        device: device to run on.

    Returns:
        For each domain and for `all`: `documents`, `tokens`, `bytes`, `nats_per_token` and
        `bits_per_byte`.
    """
    window = int(model.config.max_position_embeddings)
    model.eval().to(device)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    totals: dict[str, dict] = {}
    # (domain, ids of a window, how many of its last tokens are scored)
    pending: list[tuple[str, Tensor, int]] = []
    for row in rows:
        ids = tokenizer.encode(row["text"]).ids
        for domain in (row["domain"], "all"):
            total = totals.setdefault(
                domain, {"documents": 0, "tokens": 0, "bytes": 0, "nats": 0.0}
            )
            total["documents"] += 1
            total["tokens"] += len(ids)
            total["bytes"] += row["bytes"]
        stream = torch.tensor([model.config.bos_token_id, *ids])
        pending += [(row["domain"], *piece) for piece in _plan(stream, window)]
    pending.sort(key=lambda piece: len(piece[1]))  # similar lengths need little padding
    for start in range(0, len(pending), BATCH):
        batch = pending[start : start + BATCH]
        for (domain, _, _), nats in zip(batch, _score(model, batch, device), strict=True):
            totals[domain]["nats"] += nats
            totals["all"]["nats"] += nats
    for total in totals.values():
        nats = total.pop("nats")
        total["nats_per_token"] = nats / total["tokens"]
        total["bits_per_byte"] = nats / math.log(2) / total["bytes"]
    return totals


def _plan(stream: Tensor, window: int) -> list[tuple[Tensor, int]]:
    """Windows over a stream that starts with the prefix, and the tokens to score in each."""
    pieces = [(stream[:window], min(window, len(stream)) - 1)]
    done = min(window, len(stream))  # tokens that are scored, or are the prefix
    while done < len(stream):
        end = min(done + window // 2, len(stream))
        pieces.append((stream[end - window : end], end - done))
        done = end
    return pieces


@torch.no_grad()
def _score(model: Any, batch: list[tuple[str, Tensor, int]], device: str) -> list[float]:
    ids = torch.nn.utils.rnn.pad_sequence([piece[1] for piece in batch], batch_first=True)
    ids = ids.to(device)  # padding on the right is invisible under a causal mask
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    nll = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    nll = nll.view(len(batch), -1).double()
    sums = []
    for lane, (_, piece, count) in enumerate(batch):
        end = len(piece) - 1
        sums.append(float(nll[lane, end - count : end].sum()))
    return sums
