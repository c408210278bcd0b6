"""The prefix: the token that stands before every document."""

from __future__ import annotations

from typing import Any

from tta_bench.errors import UsageError

_MOST_DIGITS = 9  # of a token id; Python refuses to parse integers of some thousand digits


def prefix_id(kind: str, tokenizer: Any, vocab_size: int) -> int | None:
    """Id of the prefix token; None for no prefix.

    Args:
        kind: `auto` (BOS if the tokenizer has one, else EOS, else none), `bos`, `eos`, `none`, or a
            token id.
        tokenizer: the model's tokenizer.
        vocab_size: number of rows of the embedding; an id must be below it.

    Raises:
        UsageError: the tokenizer has no such token, or the id is not in the vocabulary.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if kind == "auto":
        return bos if bos is not None else eos
    if kind == "none":
        return None
    if kind in ("bos", "eos"):
        chosen = bos if kind == "bos" else eos
        if chosen is None:
            raise UsageError(f"the tokenizer has no {kind} token; use --prefix none or an id.")
        return chosen
    if not kind.isdecimal() or len(kind) > _MOST_DIGITS or int(kind) >= vocab_size:
        raise UsageError(
            f"--prefix must be auto, bos, eos, none or a token id below {vocab_size}, not '{kind}'."
        )
    return int(kind)
