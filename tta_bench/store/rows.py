"""The row of a document: its fields, and the checks when it is read from a file."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from tta_bench.documents.document import Asked

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
        figures: what the method says of the document by name, see `Method.figures`; None where
            that is no finite number, or nothing is said.
        top1: number of predictions whose target was the most probable token; None unless `done`,
            and in runs that kept losses alone.
        asked: the answers that the document asks for, in places among its scored tokens; None
            unless sentences were planted and the document is `done`.
        probe_nll: sum of the losses of the run's probe as it is predicted after this document,
            nats; None where there is no probe, or that is no finite number.
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
    figures: dict[str, float | None] | None = None
    top1: int | None = None
    asked: Asked | None = None
    probe_nll: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as an object for rows.jsonl, without what may lack where it is not known."""
        found = dict(vars(self))  # `asdict` would copy every value, at ten times the cost
        if self.asked is not None:
            found["asked"] = asdict(self.asked)
        return {name: v for name, v in found.items() if v is not None or name not in _LEFT_OUT}

    @property
    def nll_per_token(self) -> float | None:
        """Mean negative log-likelihood, nats; None unless the document is done."""
        return None if self.nll is None or not self.tokens else self.nll / self.tokens

    @property
    def counts(self) -> tuple[int, ...]:
        """All whole numbers in the row."""
        return self.index, self.tokens, self.bytes, self.words, self.session, self.top1 or 0

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
                if name in _MAY_LACK:
                    continue
                raise ValueError(f"it lacks '{name}'")
            if not isinstance(known[name], kinds) or isinstance(known[name], bool):
                raise ValueError(f"its '{name}' is not {wanted}")
        if known.get("asked") is not None:
            known["asked"] = _asked(known["asked"])
        row = cls(**known)
        if row.status not in STATUSES:
            raise ValueError(f"its status '{row.status}' is unknown")
        if not all(0 <= n < 2**53 for n in row.counts):
            raise ValueError("it holds an impossible count")
        numbers = (row.seconds, row.nll or 0, row.probe_nll or 0)
        if not all(abs(number) < LARGEST for number in numbers):
            raise ValueError("it holds a number that is not finite")
        if not all(_is_figure(value) for value in (row.figures or {}).values()):
            raise ValueError("it holds a figure that is no number")
        if row.status == "done" and row.nll is None:
            raise ValueError("it is done but has no 'nll'")
        if row.status == "done" and row.tokens == 0:
            raise ValueError("it is done but has no tokens")
        if (row.top1 or 0) > row.tokens:
            raise ValueError("it was right about more tokens than it has")
        if row.asked and any(stop > row.tokens for _, stop, _ in row.asked.answers):
            raise ValueError("it asks for tokens that it does not have")
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
    "figures": ((dict, type(None)), "an object or null"),
    "top1": ((int, type(None)), "a whole number or null"),
    "asked": ((dict, type(None)), "an object or null"),
    "probe_nll": ((int, float, type(None)), "a number or null"),
}
_SINCE_SCHEMA_2 = ("nll_sha256", "session")
_LEFT_OUT = ("figures", "top1", "asked", "probe_nll")
_MAY_LACK = (*_SINCE_SCHEMA_2, *_LEFT_OUT)


def _asked(values: dict[str, Any]) -> Asked:
    """What a document asks for, from its object in rows.jsonl.

    Raises:
        ValueError: it is not that.
    """
    planted, answers = values.get("planted"), values.get("answers")
    if not isinstance(planted, bool) or not isinstance(answers, list):
        raise ValueError("its 'asked' does not say what was planted and what is asked")
    for answer in answers:
        whole = isinstance(answer, list) and [type(number) for number in answer] == [int] * 3
        if not whole or not 0 < answer[2] <= answer[0] < answer[1] < 2**53:
            raise ValueError("its 'asked' holds an impossible answer")
    return Asked(planted, tuple(map(tuple, answers)))


def _is_figure(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value is None
    return math.isfinite(value)
