"""What is known of other text than the stream, read offline in blocks of 512 tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tta_bench import LanguageModel, UsageError, Window, load_documents

STATISTICS_BLOCK = 512


def gradient_statistics(
    model: LanguageModel, names: list[str], dataset: str, blocks: int
) -> dict[str, Tensor]:
    """Sum over `blocks` blocks of the squared gradient of each block's mean loss (batch 1).

    Raises:
        UsageError: the dataset is too short.
    """
    squares = {name: torch.zeros_like(model.parameter(name).float()) for name in names}
    for block in _blocks(model, dataset, blocks):
        weights = {name: model.parameter(name).detach().clone().requires_grad_() for name in names}
        ids = block.to(model.device)[None]
        count = torch.tensor([STATISTICS_BLOCK], device=model.device)
        window = Window(ids[:, :-1], count, count, STATISTICS_BLOCK)
        with torch.enable_grad():
            logits = model.logits(window, weights).full().float()
            loss = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                squares[name] += gradient.float().square()
    return squares


def inverse_frequencies(model: LanguageModel, dataset: str, blocks: int) -> Tensor:
    """ln((1 + n) / (1 + n_y)) + 1 for every token y, [V]: n_y of n = `blocks` blocks have it.

    Raises:
        UsageError: the dataset is too short.
    """
    containing = torch.zeros(model.vocab_size)
    for block in _blocks(model, dataset, blocks):
        containing[block[:-1].unique()] += 1
    return (((1 + blocks) / (1 + containing)).log() + 1).to(model.device)


def _blocks(model: LanguageModel, dataset: str, wanted: int) -> Iterator[Tensor]:
    """The first blocks, cut one after another from the documents, each with the token after it."""
    assert model.tokenizer is not None
    waiting: list[int] = []
    done = 0
    for document in load_documents(dataset):
        waiting += model.tokenizer(document.text, add_special_tokens=False)["input_ids"]
        while len(waiting) > STATISTICS_BLOCK:
            yield torch.tensor(waiting[: STATISTICS_BLOCK + 1])
            del waiting[:STATISTICS_BLOCK]
            done += 1
            if done == wanted:
                return
    raise UsageError(
        f"stats={dataset} fills {done} blocks of {STATISTICS_BLOCK} tokens, fewer than "
        f"stats_blocks={wanted}; give more text or lower stats_blocks."
    )
