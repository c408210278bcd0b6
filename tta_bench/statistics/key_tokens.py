"""Key tokens of LongPPL (Fang et al. 2024, arXiv 2410.23771): those that a long context predicts.

A frozen evaluator reads a text twice, whole and in short windows. A token is key if the short
context raises its loss by more than `alpha` nats and its loss in the whole text is below `-beta`.
The definition is that of the authors' code (PKU-ML/LongPPL, commit 1decd2a7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.errors import UsageError
from tta_bench.store.key_tokens import LONGPPL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NAME = re.compile(rf"{LONGPPL}(?:-(0|[1-9][0-9]{{0,8}}))?")
_OVERLAP = 4  # the authors' short context of 4096 tokens moves on by a quarter of itself


@dataclass(frozen=True)
class KeyRule:
    """What makes a token key.

    Attributes:
        trunc_len: least tokens of a short context; the first so many tokens are never key.
        sliding_window: tokens that one short window scores.
        alpha: nats by which the loss in a short context must exceed that in the whole text.
        beta: log-probability in the whole text that a key token must exceed.
    """

    trunc_len: int = 4096
    sliding_window: int = 1024
    alpha: float = 2.0
    beta: float = -2.0

    @property
    def name(self) -> str:
        """The metric's name; numbers of other short contexts are not comparable."""
        return LONGPPL if self == KeyRule() else f"{LONGPPL}-{self.trunc_len}"

    def windows(self, length: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of each short window over a text of so many tokens.

        The tokens from `start + trunc_len` to `stop` are scored in it, each in exactly one.
        """
        for start in range(0, length - self.trunc_len, self.sliding_window):
            yield start, min(start + self.trunc_len + self.sliding_window, length)

    def key(self, full: NDArray[np.float32], short: NDArray[np.float32]) -> NDArray[np.bool_]:
        """[n] Which tokens of a text are key.

        Args:
            full: [n-1] losses in the whole text, of the tokens from the second on.
            short: [n - trunc_len] losses in the short windows, of the tokens from `trunc_len` on;
                empty for a text that is not longer.
        """
        import numpy as np

        mask = np.zeros(len(full) + 1, dtype=bool)
        if len(short):
            whole = full[self.trunc_len - 1 :]
            mask[self.trunc_len :] = (short - whole > self.alpha) & (whole < -self.beta)
        return mask


def rule_named(name: str) -> KeyRule | None:
    """The rule of `longppl`, or of `longppl-512` and the like; None if the name is another's.

    `longppl-N` has a short context of N tokens that moves on by a quarter of it.

    Raises:
        UsageError: no rule has this N.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found[1] is None:
        return KeyRule()
    length = int(found[1])
    if length < _OVERLAP or length % _OVERLAP:
        raise UsageError(f"'{name}' must end in a multiple of {_OVERLAP}, such as {LONGPPL}-512.")
    rule = KeyRule(length, length // _OVERLAP)
    if rule == KeyRule():
        raise UsageError(f"'{name}' is called {LONGPPL}.")
    return rule


def merged_intervals(intervals: NDArray[np.integer]) -> NDArray[np.integer]:
    """[m, 2] Intervals of characters of which each that begins where the last one ends is joined.

    Args:
        intervals: [k, 2] start and end of each key token in the text, in the order of the text.
    """
    import numpy as np

    if not len(intervals):
        return intervals
    apart = intervals[1:, 0] != intervals[:-1, 1]
    first = np.flatnonzero(np.concatenate([[True], apart]))
    last = np.flatnonzero(np.concatenate([apart, [True]]))
    return np.stack([intervals[first, 0], intervals[last, 1]], axis=1)


def inside(offsets: NDArray[np.integer], intervals: NDArray[np.integer]) -> NDArray[np.bool_]:
    """[n] Which tokens lie in one of the intervals as a whole.

    Tokens that share a character have the same place in the text: if one is key, all are.

    Args:
        offsets: [n, 2] start and end of each token in the text.
        intervals: [m, 2] as `merged_intervals` gives them.
    """
    import numpy as np

    if not len(intervals):
        return np.zeros(len(offsets), dtype=bool)
    last = np.searchsorted(intervals[:, 0], offsets[:, 0], side="right") - 1
    return (last >= 0) & (offsets[:, 1] <= intervals[np.maximum(last, 0), 1])


def is_key(scored: int, length: int, key: Sequence[int]) -> NDArray[np.bool_]:
    """[scored] Which of a document's losses are those of key tokens.

    Args:
        scored: number of losses: of all tokens, or of all but the first.
        length: number of tokens in the document.
        key: places of its key tokens.

    Raises:
        ValueError: other tokens are unscored, so that losses have no known place.
    """
    import numpy as np

    if not 0 <= length - scored <= 1:
        raise ValueError(f"{length - scored} of {length} tokens are unscored.")
    mask = np.zeros(length, dtype=bool)
    mask[np.array(key, dtype=int)] = True
    return mask[length - scored :]
