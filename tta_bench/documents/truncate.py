"""The text that the first tokens of a document cover, exactly: what ``max_tokens`` leaves of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tta_bench.errors import DocumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STEPS_BACK = 16  # tokens; more than any tokenizer makes of one character


def cut_to_characters(
    tokenizer: Any, text: str, token_ids: NDArray[np.int32], offsets: Any, limit: int
) -> tuple[int, int]:
    """How many of the first ``limit`` tokens to keep, and how many characters they cover.

    A limit that falls inside a character (tokens are often single bytes of one) moves back to the
    last token that ends where a character does. ``offsets`` are the tokens' (start, end) in
    characters, None where the tokenizer has none; then the text is decoded instead.
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
    # A token without characters (white space that the tokenizer trimmed off) shares none.
    starts = np.where(spans[:, 0] < spans[:, 1], spans[:, 0], len(text))
    reach = np.maximum.accumulate(spans[:, 1])  # characters that the tokens up to i touch
    rest = np.minimum.accumulate(starts[::-1])[::-1]  # the first that the tokens from i on touch
    whole = np.flatnonzero(reach[:limit] <= rest[1 : limit + 1])
    if not len(whole):
        return 0, 0
    kept = int(whole[-1]) + 1
    end, following = int(reach[kept - 1]), int(rest[kept])
    if end < following:
        # Some tokenizers trim white space off the offsets, so a gap may be the last token's own.
        decoded = _decode(tokenizer, token_ids[:kept])
        if end < len(decoded) <= following and text.startswith(decoded):
            end = len(decoded)
    return kept, end


def _by_decoding(
    tokenizer: Any, text: str, token_ids: NDArray[np.int32], limit: int
) -> tuple[int, int]:
    for kept in range(limit, max(limit - _STEPS_BACK, -1), -1):
        left, right = _decode(tokenizer, token_ids[:kept]), _decode(tokenizer, token_ids[kept:])
        # Inside a character neither half decodes to it. Many decoders drop a leading space.
        if text.startswith(left) and text[len(left) :] in (right, f" {right}"):
            return kept, len(left)
    raise DocumentError(
        f"The bytes of {limit} tokens cannot be counted, since {type(tokenizer).__name__} "
        "has no offsets and does not decode to the text it was given: leave out --max-tokens."
    )


def _decode(tokenizer: Any, token_ids: NDArray[np.int32]) -> str:
    text: str = tokenizer.decode(
        token_ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
