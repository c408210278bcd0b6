"""Where a method gains and loses most: excerpts of documents, each token with its gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tta_bench.report.gains import Gains

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tta_bench.report.documents import Reopened

EXCERPT_TOKENS = 1200
DOCUMENTS = 2
"""Number of documents shown of the greatest gains, and of the least, if there are enough."""
LEAST_SCALE = 0.1
SCALE_QUANTILE = 0.98


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a document as a method and the baseline predicted it.

    Attributes:
        spec: the method with its parameters.
        document: key of the document.
        rank: `gains most`, `gains least`, `loses most` or `loses least`.
        gain: mean gain in the whole document, nats per token.
        first: number of the excerpt's first token in the document, from 1.
        of: number of tokens in the whole document.
        pieces: the text of each token.
        before: the baseline's loss of each token, nats; None where it is not scored.
        gains: the baseline's loss minus the method's, nats; None where it is not scored.
    """

    spec: str
    document: str
    rank: str
    gain: float
    first: int
    of: int
    pieces: tuple[str, ...]
    before: tuple[float | None, ...]
    gains: tuple[float | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """The excerpt as the page reads it; losses in thousandths of a nat."""
        return {
            "spec": self.spec,
            "document": self.document,
            "rank": self.rank,
            "gain": round(self.gain, 4),
            "first": self.first,
            "of": self.of,
            "pieces": list(self.pieces),
            "before": [_thousandths(value) for value in self.before],
            "gains": [_thousandths(value) for value in self.gains],
        }


def excerpts_of(gains: Sequence[Gains], reopened: Reopened) -> list[Excerpt]:
    """The excerpts of every method, those of its greatest gain first.

    An excerpt is the stretch of EXCERPT_TOKENS in which the method gains most (or loses most).

    Args:
        gains: gains of runs whose scored tokens are the last of each document.
        reopened: where the text of the tokens comes from.
    """
    chosen = [(item, place, best) for item in gains for place, best in extremes(item)]
    wanted = {item.rows[place].index for item, place, _ in chosen}
    pieces = dict(reopened.pieces(wanted))
    return [_excerpt(item, place, best, pieces) for item, place, best in chosen]


def extremes(gains: Gains) -> list[tuple[int, bool]]:
    """Places in `gains.rows`, the greatest gain first, each with whether it is one of the best."""
    means = [float(value.mean(dtype="float64")) for value in gains.values]
    falling = sorted(range(len(means)), key=lambda place: -means[place])
    if len(falling) < 2:
        return [(place, True) for place in falling]
    each = min(DOCUMENTS, len(falling) // 2)
    best = [(place, True) for place in falling[:each]]
    return best + [(place, False) for place in falling[-each:]]


def scale_of(excerpts: Sequence[Excerpt]) -> float:
    """The gain in nats at which the colour is strongest; nearly every token has less."""
    import numpy as np

    sizes = [abs(gain) for excerpt in excerpts for gain in excerpt.gains if gain is not None]
    return max(LEAST_SCALE, float(np.quantile(sizes, SCALE_QUANTILE))) if sizes else LEAST_SCALE


def _rank(mean: float, best: bool) -> str:
    if mean < 0:
        return "loses least" if best else "loses most"
    return "gains most" if best else "gains least"


def _excerpt(gains: Gains, place: int, best: bool, pieces: dict[int, list[str]]) -> Excerpt:
    row, values, before = gains.rows[place], gains.values[place], gains.before[place]
    whole = pieces[row.index]
    unscored = len(whole) - len(values)
    mean = float(values.mean(dtype="float64"))
    start = _stretch(values if best else -values)
    stop = start + EXCERPT_TOKENS
    head = unscored if start == 0 else 0  # the excerpt begins with what is not scored
    return Excerpt(
        spec=gains.run.spec,
        document=row.key,
        rank=_rank(mean, best),
        gain=mean,
        first=start + unscored - head + 1,
        of=len(whole),
        pieces=tuple(whole[start + unscored - head : stop + unscored]),
        before=(None,) * head + tuple(map(float, before[start:stop])),
        gains=(None,) * head + tuple(map(float, values[start:stop])),
    )


def _stretch(values: NDArray[np.float32]) -> int:
    """Where the EXCERPT_TOKENS begin whose sum is the largest."""
    import numpy as np

    if len(values) <= EXCERPT_TOKENS:
        return 0
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return int(np.argmax(sums[EXCERPT_TOKENS:] - sums[:-EXCERPT_TOKENS]))


def _thousandths(value: float | None) -> int | None:
    return None if value is None else round(1000 * value)
