"""Truncation to a number of tokens, and exactly the text that the remaining tokens cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unicodedata import combining

from tta_bench.documents.encode import decode
from tta_bench.errors import DocumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STEPS_BACK = 16  # tokens; no tokenizer splits one character into as many


def truncate_at_character(
    tokenizer: Any, text: str, token_ids: NDArray[np.int32], offsets: Any, limit: int
) -> tuple[int, int]:
    """Truncates a document to at most `limit` tokens, at the end of a character.

    Tokens are often single bytes of a character: a limit inside a character moves back to the last
    token that ends with one.

    Args:
        tokenizer: a tokenizer of transformers.
        text: the text of the document.
        token_ids: [n] tokens of the whole text.
        offsets: the (start, end) of each token in characters; None if the tokenizer has no offsets,
            in which case tokens are decoded and compared with the text.
        limit: the number of tokens to keep.

    Returns:
        The number of tokens kept, and of characters that they cover.

    Raises:
        DocumentError: the tokenizer has no offsets and does not decode to the text.
    """
    if len(token_ids) <= limit:
        return len(token_ids), len(text)
    if offsets is None:
        return _by_decoding(tokenizer, text, token_ids, limit)
    return _by_offsets(tokenizer, text, token_ids, offsets, limit)


def _by_offsets(
    tokenizer: Any, text: str, token_ids: NDArray[np.int32], offsets: Any, limit: int
) -> tuple[int, int]:
    import numpy as np

    spans = np.asarray(offsets, dtype=np.int64)
    # A token without characters (trimmed white space) overlaps with no other.
    starts = np.where(spans[:, 0] < spans[:, 1], spans[:, 0], len(text))
    reach = np.maximum.accumulate(spans[:, 1])  # end of the characters in tokens 0 .. i
    rest = np.minimum.accumulate(starts[::-1])[::-1]  # first character in tokens i .. n
    whole = np.flatnonzero(reach[:limit] <= rest[1 : limit + 1])
    if _normalises(tokenizer):
        # A mark that begins a token may be composed with what a letter before it came apart into.
        apart = [not any(map(combining, text[at : at + 1])) for at in rest[whole + 1].tolist()]
        whole = whole[np.array(apart, dtype=bool)]
    if not len(whole):
        return 0, 0
    kept = int(whole[-1]) + 1
    end, following = int(reach[kept - 1]), int(rest[kept])
    # Offsets leave out a mark that a normaliser has composed with the character before it.
    while end < following and combining(text[end]):
        end += 1
    if end < following:
        # Some tokenizers trim white space from offsets, so a gap may belong to the last token.
        decoded = decode(tokenizer, token_ids[:kept].tolist())
        if end < len(decoded) <= following and text.startswith(decoded):
            end = len(decoded)
    return kept, end


def _normalises(tokenizer: Any) -> bool:
    """Whether tokens may stand for other characters than those of the text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and backend.normalizer is not None


def _by_decoding(
    tokenizer: Any, text: str, token_ids: NDArray[np.int32], limit: int
) -> tuple[int, int]:
    for kept in range(limit, max(limit - _STEPS_BACK, -1), -1):
        left, right = (
            decode(tokenizer, token_ids[:kept].tolist()),
            decode(tokenizer, token_ids[kept:].tolist()),
        )
        # Inside a character, neither side decodes to it. Many decoders drop a leading space.
        if text.startswith(left) and text[len(left) :] in (right, f" {right}"):
            return kept, len(left)
    raise DocumentError(
        f"The bytes of {limit} tokens cannot be counted, because {type(tokenizer).__name__} "
        "has no offsets and does not decode to its input: leave out --max-tokens."
    )
