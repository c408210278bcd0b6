"""No text may be in both parts: what is tuned on and what is reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tta_bench.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tta_bench.documents import TokenizedDataset

PASSAGE = 32
"""Tokens of a passage. Two texts that were not copied share hardly one of this length."""
SHARED = 0.25
"""Part of the shorter document's passages that the other must not hold. Licences and headings at
the start of files are less; the same article in two editions is more."""
_MOST = 2**20
"""Tokens of which every passage is compared; of more, a part of the passages chosen by hash."""
_NAMED = 3
_BASE = np.uint64(0x9E3779B97F4A7C15)


def require_no_overlap(
    tuning: Sequence[TokenizedDataset], reported: Sequence[TokenizedDataset]
) -> None:
    """Refuses documents that are equal, or share much of their text, between the two parts.

    Texts are compared as far as they are read: by the hash of the whole, and by passages of
    PASSAGE tokens, which must come from the same tokenizer.

    Raises:
        UsageError: a document of one part is in the other; the sentence names both.
    """
    require_other_texts(_hashes(tuning), _hashes(reported))
    total = sum(dataset.total_tokens for dataset in (*tuning, *reported))
    every = np.uint64(max(1, total // _MOST))
    mine, theirs = _passages(tuning, every), _passages(reported, every)
    pairs = _near(mine, theirs)
    if pairs:
        named = [f"{mine[a][0]} and {theirs[b][0]}" for a, b, _ in pairs]
        raise UsageError(
            f"{_counted(named)} on the tuning and the reported side share {pairs[0][2]:.0%} of "
            "the passages of the shorter one, or more; tune on other text."
        )


def require_other_texts(
    tuning: Iterable[tuple[str, str]], reported: Iterable[tuple[str, str]]
) -> None:
    """Refuses texts that are in both parts.

    Args:
        tuning: name and SHA-256 of each text that is tuned on.
        reported: those of the texts that are reported.

    Raises:
        UsageError: a text is in both; the sentence names it.
    """
    names = {digest: name for name, digest in tuning}
    same = [f"{names[digest]} and {name}" for name, digest in reported if digest in names]
    if same:
        raise UsageError(
            f"{_counted(same)} are the same text on the tuning and the reported side; tune on "
            "other text."
        )


def _counted(pairs: Sequence[str]) -> str:
    more = f", and {len(pairs) - _NAMED:,} more pairs" if len(pairs) > _NAMED else ""
    return "; ".join(pairs[:_NAMED]) + more


def _hashes(datasets: Sequence[TokenizedDataset]) -> list[tuple[str, str]]:
    return [
        (f"{document.key} of {dataset.spec}", document.sha256)
        for dataset in datasets
        for document in dataset
    ]


def _passages(
    datasets: Sequence[TokenizedDataset], every: np.uint64
) -> list[tuple[str, NDArray[np.uint64]]]:
    """The name of each document and the hashes of its passages, sorted, each once."""
    found = []
    for dataset in datasets:
        for document in dataset:
            hashes = passage_hashes(document.token_ids)
            chosen = np.unique(hashes[hashes % every == 0])
            found.append((f"{document.key} of {dataset.spec}", chosen))
    return found


def passage_hashes(ids: NDArray[np.int32]) -> NDArray[np.uint64]:
    """[n - PASSAGE + 1] A hash of every passage of the token ids [n]; none of a shorter text."""
    if len(ids) < PASSAGE:
        return np.zeros(0, np.uint64)
    values, length = ids.astype(np.uint64) + np.uint64(1), 1
    power = _BASE
    with np.errstate(over="ignore"):
        while length < PASSAGE:  # a passage is two of half its length
            values = values[:-length] * power + values[length:]
            power, length = power * power, 2 * length
        # The low bits of a polynomial are those of the last tokens: mix the high ones in.
        values = (values ^ (values >> np.uint64(29))) * _BASE
        return values ^ (values >> np.uint64(32))


def _near(
    tuning: Sequence[tuple[str, NDArray[np.uint64]]],
    reported: Sequence[tuple[str, NDArray[np.uint64]]],
) -> list[tuple[int, int, float]]:
    """Pairs that share too much, with the part that is shared; the closest first."""
    sizes = np.array([len(hashes) for _, hashes in reported], np.int64)
    if not sizes.sum():
        return []
    every = np.concatenate([hashes for _, hashes in reported])
    owners = np.repeat(np.arange(len(reported)), sizes)
    order = np.argsort(every, kind="stable")
    every, owners = every[order], owners[order]
    pairs = []
    for mine, (_, hashes) in enumerate(tuning):
        if len(hashes):
            starts = np.searchsorted(every, hashes, "left")
            counts = np.searchsorted(every, hashes, "right") - starts
            # The places start, start + 1, ... of each hash, one after another.
            inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            found = owners[np.repeat(starts, counts) + inside]
            shared = np.bincount(found, minlength=len(reported))
            parts = shared / np.maximum(1, np.minimum(sizes, len(hashes)))
            near = np.flatnonzero(parts >= SHARED)
            pairs += [(mine, int(other), float(parts[other])) for other in near]
    return sorted(pairs, key=lambda pair: -pair[2])
