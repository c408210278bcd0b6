"""The row of a document: its fields, and their check when they come back from a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

FAILED = ("oom", "diverged", "error")
STATUSES = ("done", "skipped", *FAILED)
LARGEST = 1e100
"""No sum of float32 losses reaches it, and sums and squares of what is below it stay finite."""


@dataclass(frozen=True)
class Row:
    """What a run has to say of one document.

    Attributes:
        key: the document's stable name.
        index: its place in the dataset.
        status: one of STATUSES; only `done` counts in a figure of quality.
        tokens: predictions scored.
        bytes: UTF-8 bytes of the text that the tokens cover; 0 if that cannot be known.
        words: words of that text, likewise.
        nll: summed negative log-likelihood in nats (float64); None unless done.
        seconds: time spent on it, shared evenly among the lanes that were busy.
        sha256: of the document's whole text.
        reason: why it is not done.
        nll_file: name of its vector of losses in the run's folder.
        nll_sha256: of that file; None in runs of schema 1.
        session: number of the session that read it, from 0.
    """

    key: str
    index: int
    status: str
    tokens: int
    bytes: int
    words: int
    nll: float | None = None
    seconds: float = 0.0
    sha256: str = ""
    reason: str | None = None
    nll_file: str | None = None
    nll_sha256: str | None = None
    session: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For a line of rows.jsonl."""
        return asdict(self)

    @property
    def counts(self) -> tuple[int, ...]:
        """Every whole number in it."""
        return self.index, self.tokens, self.bytes, self.words, self.session

    @classmethod
    def from_dict(cls, values: Any) -> Row:
        """The row of a line.

        Raises:
            ValueError: it is none; says why.
        """
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
        names = {field.name for field in fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        for name, (kinds, wanted) in _TYPES.items():
            if name not in known:
                if name in _SINCE_SCHEMA_2:
                    continue
                raise ValueError(f"it lacks '{name}'")
            if not isinstance(known[name], kinds) or isinstance(known[name], bool):
                raise ValueError(f"its '{name}' is not {wanted}")
        row = cls(**known)
        if row.status not in STATUSES:
            raise ValueError(f"its status '{row.status}' is unknown")
        if not all(0 <= n < 2**53 for n in row.counts):
            raise ValueError("it holds an impossible count")
        if not abs(row.seconds) < LARGEST or not abs(row.nll or 0) < LARGEST:
            raise ValueError("it holds a number that is not finite")
        if row.status == "done" and row.nll is None:
            raise ValueError("it is done but has no 'nll'")
        if row.status == "done" and row.tokens == 0:
            raise ValueError("it is done but has no tokens")
        return row


_COUNT, _TEXT, _NUMBER = ((int,), "a whole number"), ((str,), "text"), ((int, float), "a number")
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "key": _TEXT,
    "index": _COUNT,
    "status": _TEXT,
    "tokens": _COUNT,
    "bytes": _COUNT,
    "words": _COUNT,
    "nll": ((int, float, type(None)), "a number or null"),
    "seconds": _NUMBER,
    "sha256": _TEXT,
    "reason": ((str, type(None)), "text or null"),
    "nll_file": ((str, type(None)), "text or null"),
    "nll_sha256": ((str, type(None)), "text or null"),
    "session": _COUNT,
}
_SINCE_SCHEMA_2 = ("nll_sha256", "session")
