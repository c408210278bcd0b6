"""The row of a document: its fields, and the checks when it is read from a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

FAILED = ("oom", "diverged", "error")
STATUSES = ("done", "skipped", *FAILED)
LARGEST = 1e100
"""Larger than any sum of float32 losses; sums and squares of smaller numbers stay finite."""


@dataclass(frozen=True)
class Row:
    """The result of a run on one document.

    Attributes:
        key: key of the document.
        index: index of the document in the dataset.
        status: one of `STATUSES`; losses count only if it is `done`.
        tokens: number of predictions scored.
        bytes: UTF-8 bytes of the text that the tokens cover; 0 if unknown.
        words: words of that text; 0 if unknown.
        nll: sum of the negative log-likelihoods in nats (float64); None unless `done`.
        seconds: time spent on the document; the time of a step is divided among the busy lanes.
        sha256: SHA-256 of the document's whole text.
        reason: why the document is not done.
        nll_file: file of the tokens' losses, relative to the run's folder.
        nll_sha256: SHA-256 of that file; None in runs of schema 1.
        session: number of the session that read the document, from 0.
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
        """The row as an object for rows.jsonl."""
        return asdict(self)

    @property
    def nll_per_token(self) -> float | None:
        """Mean negative log-likelihood, nats; None unless the document is done."""
        return None if self.nll is None or not self.tokens else self.nll / self.tokens

    @property
    def counts(self) -> tuple[int, ...]:
        """All whole numbers in the row."""
        return self.index, self.tokens, self.bytes, self.words, self.session

    @classmethod
    def from_dict(cls, values: Any) -> Row:
        """The row of an object from rows.jsonl.

        Raises:
            ValueError: the object is not a row; the message says why.
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
