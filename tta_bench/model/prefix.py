"""The prefix: the token that stands before every document."""

from __future__ import annotations

from typing import Any

from tta_bench.errors import UsageError

_MOST_DIGITS = 9  # of a token id; Python refuses to parse integers of some thousand digits


def prefix_id(kind: str, tokenizer: Any, readable_ids: int) -> int | None:
    """Id of the prefix token; None for no prefix.

    Args:
        kind: `auto` (BOS if the tokenizer has one, else EOS, else none), `bos`, `eos`, `none`, or a
            token id.
        tokenizer: the model's tokenizer.
        readable_ids: number of ids that the model reads and predicts; an id must be below it.

    Raises:
        UsageError: the tokenizer has no such token, or the model does not know its id.
    """
    if kind == "auto":
        auto = "eos" if tokenizer.bos_token_id is None else "bos"
        return _readable(auto, tokenizer, readable_ids)
    if kind == "none":
        return None
    if kind in ("bos", "eos"):
        chosen = _readable(kind, tokenizer, readable_ids)
        if chosen is None:
            raise UsageError(f"the tokenizer has no {kind} token; use --prefix none or an id.")
        return chosen
    if not kind.isdecimal() or len(kind) > _MOST_DIGITS or int(kind) >= readable_ids:
        raise UsageError(
            f"--prefix must be auto, bos, eos, none or a token id below {readable_ids}, not "
            f"'{kind}'."
        )
    return int(kind)


def _readable(kind: str, tokenizer: Any, readable_ids: int) -> int | None:
    """Id of the tokenizer's token of that kind, if it has one."""
    chosen: int | None = getattr(tokenizer, f"{kind}_token_id")
    if chosen is not None and not 0 <= chosen < readable_ids:
        raise UsageError(
            f"the tokenizer's {kind} token has the id {chosen}, and the model knows those below "
            f"{readable_ids}: use --prefix none or an id, or the tokenizer that belongs to it."
        )
    return chosen
