"""`planted:DATASET`: sentences hidden in texts and asked for again, and each text without them.

A sentence says something that no model can know: `The keeper of Dorumi is Vatelo.` Much later its
beginning comes once more, and the answer behind it. Of every text there are two documents: in the
second one, the control, another sentence of the same form and length stands where the first has
the one that is asked for. All else is the same token at the same place, so that what a reader
loses less on the answers of the first, it owes to having read the sentence.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tta_bench.convert import Converter, split_commas
from tta_bench.documents.document import Asked, TokenizedDocument
from tta_bench.errors import DocumentError, UsageError
from tta_bench.oracle.name import PLANTED, control_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tta_bench.documents.encode import Encoder

REACH = 64
"""Most tokens that a sentence is put off until a line or a sentence of the text ends."""
_FORM = re.compile(rf"{PLANTED}((?:[a-z]+=[^:]*):)?(.*)", re.DOTALL)
_VERSION = 1  # of the draws; a new version makes old caches unused
_DRAWS = 10_000  # of a sentence of a given length
_THINGS = ("keeper", "river", "bell", "harbour", "daughter", "password", "oldest tree", "king")
_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


@dataclass(frozen=True)
class Planting:
    """What is planted in each text.

    Attributes:
        least: fewest tokens from a planted answer to the same answer; a power of two.
        most: most of them; every power of two in between is a lag, too, as far as a text is long.
        each: sentences of each lag.
        seed: of sentences and places.

    Raises:
        ValueError: a value is out of range.
    """

    least: int = 1024
    most: int = 65536
    each: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("least", "most"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"'{name}' must be a power of two, but is {value}.")
        if not REACH < self.least <= self.most:
            raise ValueError(
                f"'least' must be above {REACH} and at most 'most', but is {self.least}."
            )
        if self.each < 1 or self.seed < 0:
            raise ValueError("'each' must be at least 1, and 'seed' at least 0.")

    @property
    def lags(self) -> list[int]:
        """Rising powers of two."""
        return [1 << n for n in range(self.least.bit_length() - 1, self.most.bit_length())]


def parse_planted(spec: str) -> tuple[Planting, str] | None:
    """What `planted:key=value,...:DATASET` plants, and where; None for another dataset.

    Raises:
        DocumentError: no dataset is named, or an option is unknown or out of range.
    """
    found = _FORM.fullmatch(spec)
    if found is None:
        return None
    options, inner = found.groups()
    if not inner:
        raise DocumentError(f"{spec} names no dataset; write {PLANTED}DATASET.")
    entries = (entry.partition("=") for entry in split_commas((options or "").rstrip(":")))
    values = {key.strip(): value.strip() for key, _, value in entries}
    convert = Converter(f"'{PLANTED}'", noun="option", text=True)
    try:
        return Planting(**convert.fields(Planting, values)), inner
    except (UsageError, ValueError) as error:
        raise DocumentError(f"{spec}: {error}") from error


@dataclass(frozen=True)
class Sentence:
    """A sentence as tokens: `\\nThe keeper of Dorumi is`, ` Vatelo`, `.\\n`."""

    question: list[int]
    answer: list[int]
    end: list[int]
    n_bytes: int

    @property
    def ids(self) -> list[int]:
        """All of its tokens."""
        return [*self.question, *self.answer, *self.end]


class Planter:
    """Plants sentences in the texts of a dataset, for one tokenizer."""

    def __init__(self, planting: Planting, encoder: Encoder):
        self.planting = planting
        self.encoder = encoder
        self._ends: dict[int, bool] = {}

    @staticmethod
    def identity(planting: Planting) -> list[Any]:
        """What the documents depend on beside tokenizer and texts, as JSON."""
        return [PLANTED, _VERSION, [getattr(planting, field.name) for field in fields(planting)]]

    def pair(
        self, cut: Callable[[int | None], TokenizedDocument], most: int | None
    ) -> Iterator[TokenizedDocument]:
        """The document with the sentences that it is asked for, and its control.

        Args:
            cut: gives the text's first tokens, at most so many.
            most: tokens of a document, sentences included; None for the whole text.

        Raises:
            DocumentError: there is no room for a single lag.
        """
        import numpy as np

        whole = cut(None)
        words = [self.planting.seed, *bytes.fromhex(whole.sha256)]
        random = np.random.RandomState(np.random.PCG64(np.random.SeedSequence(words)))
        names: set[str] = set()
        asked = [
            [self._sentence(random, names) for _ in range(self.planting.each)]
            for _ in self.planting.lags
        ]
        kept = self._kept(asked, len(whole.token_ids), most)
        if not kept:
            raise DocumentError(
                f"{whole.key} has {len(whole.token_ids):,} tokens, which leaves no room for "
                f"{self.planting.each} sentences {self.planting.least:,} tokens apart: raise "
                f"--max-tokens or --min-tokens, or write {PLANTED}least=N,each=N:DATASET."
            )
        inserted = _inserted(asked[: len(kept)])
        text = whole if most is None else cut(most - inserted)
        room = len(text.token_ids) - REACH - inserted
        plan: list[tuple[int, int, Sentence, Sentence]] = []
        for lag, sentences in zip(kept, asked, strict=False):
            for sentence in sentences:
                other = self._sentence(random, names, len(sentence.ids))
                plan.append((int(random.random_sample() * (room - lag)), lag, sentence, other))
        breaks = self._breaks(text.token_ids)
        for planted in (True, False):
            yield _document(text, breaks, plan, planted)

    def _kept(self, asked: list[list[Sentence]], tokens: int, most: int | None) -> list[int]:
        """The lags that fit: a quarter of the longest is left to draw its places from."""
        for count in range(len(asked), 0, -1):
            inserted = _inserted(asked[:count])
            kept = tokens if most is None else min(tokens, most - inserted)
            longest = self.planting.lags[count - 1]
            if kept - REACH - inserted >= longest + longest // 4:
                return self.planting.lags[:count]
        return []

    def _sentence(
        self, random: np.random.RandomState, names: set[str], length: int | None = None
    ) -> Sentence:
        """A sentence about names that are not among those; of so many tokens, if that is given.

        Raises:
            DocumentError: none is found.
        """

        def name() -> str:
            while True:
                made = "".join(_SYLLABLES[random.randint(len(_SYLLABLES))] for _ in range(3))
                if made not in names:
                    names.add(made)
                    return made.capitalize()

        for _ in range(_DRAWS):
            thing = _THINGS[random.randint(len(_THINGS))]
            parts = f"\nThe {thing} of {name()} is", f" {name()}", ".\n"
            ids = [list(self.encoder.encode(part)["input_ids"]) for part in parts]
            if length is None or sum(map(len, ids)) == length:
                return Sentence(ids[0], ids[1], ids[2], len("".join(parts).encode()))
        raise DocumentError(f"no sentence of {length} tokens was found for this tokenizer.")

    def _breaks(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """The places, rising, in front of which a line or a sentence of the text ends."""
        import numpy as np

        for new in set(np.unique(ids).tolist()) - self._ends.keys():
            text = self.encoder.tokenizer.decode([new]).rstrip(" ")
            self._ends[new] = text.endswith(("\n", ".", "!", "?"))
        return 1 + np.flatnonzero([self._ends[one] for one in ids.tolist()])


def _inserted(asked: list[list[Sentence]]) -> int:
    """Tokens that planting and asking adds."""
    return 2 * sum(len(sentence.ids) for sentences in asked for sentence in sentences)


def _document(
    text: TokenizedDocument,
    breaks: NDArray[np.int64],
    plan: list[tuple[int, int, Sentence, Sentence]],
    planted: bool,
) -> TokenizedDocument:
    """The text with sentences in it, or with others in their place.

    Args:
        text: the text.
        breaks: places at which it is interrupted rather than elsewhere.
        plan: for each sentence the place before which it does not stand, its lag, the sentence,
            and the other one.
        planted: which of both stands there.
    """
    import numpy as np

    ids = text.token_ids
    pieces: list[NDArray[np.int32]] = []
    answers: list[tuple[int, int, int]] = []
    read = size = n_bytes = 0
    # (place, number, whether it is the question, where the answer stood): questions are known
    # once their sentence has its place.
    waiting = [(place, number, False, 0) for number, (place, *_) in enumerate(plan)]
    heapq.heapify(waiting)
    while waiting:
        place, number, question, answer = heapq.heappop(waiting)
        stop = min(read + max(place - size, 0), len(ids))
        after = int(np.searchsorted(breaks, stop))
        if after < len(breaks) and breaks[after] - stop <= REACH:
            stop = int(breaks[after])
        lag, asked, other = plan[number][1:]
        sentence = asked if planted or question else other
        pieces += [ids[read:stop], np.array(sentence.ids, np.int32)]
        begin = size + stop - read + len(asked.question)
        size += stop - read + len(sentence.ids)
        read = stop
        n_bytes += sentence.n_bytes
        if question:
            answers.append((begin, begin + len(asked.answer), begin - answer))
        else:
            heapq.heappush(waiting, (begin + lag - len(asked.question), number, True, begin))
    pieces.append(ids[read:])
    found = np.concatenate(pieces)
    return replace(
        text,
        key=text.key if planted else control_of(text.key),
        token_ids=found,
        n_bytes=text.n_bytes + n_bytes,
        n_words=0,
        asked=Asked(planted, tuple(answers)),
    )
