"""The rows of one run as they come in: stored, counted and shown, whoever has measured them."""

from __future__ import annotations

from collections import Counter
from math import isfinite
from typing import TYPE_CHECKING, Any

from tta_bench.documents.limits import limits_as_flags
from tta_bench.engine.loop import DocumentResult
from tta_bench.evaluation.shards import own_documents
from tta_bench.evaluation.steps import step_shapes
from tta_bench.oracle.name import is_oracle
from tta_bench.store import FAILED, Row, RunWriter
from tta_bench.store.run import ended_as

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.documents import TokenizedDocument
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.setting import Setting
    from tta_bench.evaluation.verdict import Verdict
    from tta_bench.model.step_shape import StepShape

SINKS_NOTE = (
    "documents are longer than chunk and context: the cache drops the first tokens' keys, and many "
    "models predict badly without them (attention sinks); compare with --context-mode recompute."
)
CACHE_NOTE = "a carried cache grows with the stream, so the model itself runs uncompiled."


class Record:
    """One run being written: it opens, takes rows, and closes with a summary.

    Args:
        setting: documents and protocol; of the model its name and what is said of it.
        choice: the method.
        writer: the run's files, with the rows of former sessions that stand.
        observer: is told how far it has come.

    Attributes:
        shapes: how often a step of each shape was taken over the documents that are done.
    """

    def __init__(
        self, setting: Setting, choice: MethodChoice, writer: RunWriter, observer: Observer
    ):
        self.setting, self.choice, self.writer = setting, choice, writer
        self.observer = observer
        self._own = own_documents(setting)
        self.shapes: Counter[StepShape] = Counter()
        self._over: set[int] = set(writer.kept)
        self._outcomes: Counter[str] = Counter()
        self._reason: str | None = None
        self._said: set[str] = set()
        self._ended = 0
        for row in writer.kept.values():
            self._count(row.status, row.reason, setting.documents[row.index])
        self._notes = self._begin()

    @property
    def pending(self) -> list[int]:
        """Documents that have no row yet, in the order of the dataset."""
        return [index for index in self._own if index not in self._over]

    def _begin(self) -> list[str]:
        """Announces the run; returns the notes that belong to its summary."""
        setting, documents, kept = self.setting, self.setting.documents, self.writer.kept
        spec, observer = self.choice.spec, self.observer
        for note in self.writer.notes:
            observer.note(f"{spec}: {note}")
        if kept:
            observer.remark(f"{spec}: {len(kept)} of {len(self._own)} documents are kept")
        tokens = int(documents.lengths[self.pending].sum())
        observer.start_method(spec, len(self.pending), tokens)
        notes = [*documents.notes, *([SINKS_NOTE] if setting.evicts_sinks else [])]
        if setting.spec.compile == "on" and setting.protocol.context_mode == "cache":
            notes.append(CACHE_NOTE)
        notes += setting.model.acceptance.remarks
        for note in notes:
            observer.note(f"{spec}: {note}")
        return notes

    def store(self, result: DocumentResult) -> None:
        """Stores the row of a document that has ended; a document that has one keeps it."""
        if result.index in self._over:
            return
        self.writer.append(self._row(result), result.nll, result.top1)
        self._over.add(result.index)
        self._count(result.status, result.reason, result.document)
        self._ended += 1
        if result.status not in ("done", "skipped"):
            self.note(f"{self.choice.spec}, {result.document.key}: {result.reason}")
        self.observer.update(0, 0.0, self._ended)

    def show(self, tokens: int, nll: float) -> None:
        """Tokens were scored; below 0 where some will be read again."""
        self.observer.update(tokens, nll, self._ended)

    def note(self, sentence: str) -> None:
        """Tells the user, if it is new."""
        if sentence not in self._said:
            self.observer.note(sentence)
            self._said.add(sentence)

    def add_note(self, sentence: str) -> None:
        """Tells what a reader of the table must know, too."""
        self._notes.append(sentence)
        self.note(f"{self.choice.spec}: {sentence}")

    def broken(self, status: str, reason: str, lanes: int) -> dict[str, Any]:
        """Stores rows for the documents that a method would have read, had it not failed before.

        Returns:
            The summary.
        """
        documents, first = self.setting.documents, self.pending
        if lanes > 1:
            first.sort(key=lambda index: -documents.lengths[index])
        for index in first[:lanes]:
            self.writer.append(self._row(DocumentResult(index, documents[index], status, reason)))
            self._over.add(index)
        self.note(f"{self.choice.spec}: {reason}")
        return {"status": status, "reason": reason}

    def status(self) -> dict[str, Any]:
        """How the run has ended, by its rows, for the summary."""
        return ended_as(self._outcomes, self._reason)

    def close(self, summary: dict[str, Any], verdict: Verdict) -> None:
        """Writes the summary with the verdict, and tells both."""
        for sentence in verdict.sentences:
            self.observer.note(f"{self.choice.spec}: {sentence}")
        for sentence in verdict.probed:
            self.observer.remark(f"{self.choice.spec}: {sentence}")
        # A stream of symbols has no whole that limits could cut a part from.
        drawn = is_oracle(self.setting.spec.dataset)
        cuts = None if drawn else limits_as_flags(vars(self.setting.spec.limits))
        facts = {"notes": self._notes, "isolated": self.setting.spec.isolate}
        facts |= {"partial": bool(cuts), "partial_reason": cuts}
        self.writer.finish(summary | verdict.to_dict() | facts)
        self.observer.end_method(summary["status"])

    def _row(self, result: DocumentResult) -> Row:
        document, nll = result.document, result.nll
        tokens = 0 if nll is None else len(nll)
        # Where a protocol leaves tokens out, no one can say which bytes the others cover.
        left_out = len(document.token_ids) - tokens
        whole = left_out == 0
        known = result.status == "done" and left_out <= 1  # else answers have no known place
        return Row(
            key=document.key,
            index=result.index,
            status=result.status,
            tokens=tokens,
            bytes=document.n_bytes if whole else 0,
            words=document.n_words if whole else 0,
            seconds=result.seconds,
            sha256=document.sha256,
            reason=result.reason,
            figures={name: _finite(value) for name, value in result.figures.items()} or None,
            asked=document.asked.behind(left_out) if known and document.asked else None,
            probe_nll=_finite(result.probe_nll),
        )

    def _count(self, status: str, reason: str | None, document: TokenizedDocument) -> None:
        self._outcomes[status] += 1
        if status == "done":
            self.shapes.update(step_shapes(self.setting, len(document.token_ids)))
        elif status in FAILED:
            self._reason = reason


def _finite(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else value
