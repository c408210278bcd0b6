"""Which runs may be ranked, set in bold or given a tier, and why the others may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.format import plural
from tta_bench.store.rows import FAILED
from tta_bench.store.verdict import audit_of, before_audits, valid_of, valid_reason_of

if TYPE_CHECKING:
    from tta_bench.store import Run

VERDICTS = ("NOT VALID", "validity unknown", "not audited", "not judged")
_WORDS = {"oom": "out of memory", "diverged": "diverged", "error": "failed"}


@dataclass(frozen=True)
class Objection:
    """A reason why a run is not ranked.

    Attributes:
        mark: a few words for its row.
        reason: a clause that says more.
        beside: whether the mark stands beside the method's name; the rest of the row, or a note
            about the whole table, says it otherwise.
    """

    mark: str
    reason: str
    beside: bool = True


@dataclass(frozen=True)
class Standing:
    """Whether a run may be ranked: it may if there is no objection."""

    objections: tuple[Objection, ...]

    @property
    def ranked(self) -> bool:
        """Whether the run may be ranked, bold or in a tier."""
        return not self.objections

    @property
    def marks(self) -> list[str]:
        """What stands beside the method's name."""
        return [objection.mark for objection in self.objections if objection.beside]

    @property
    def text(self) -> str | None:
        """Every objection with its reason; None if the run may be ranked."""
        return "; ".join(f"{o.mark}: {o.reason}" for o in self.objections) or None


def standing_of(run: Run, missing: int = 0) -> Standing:
    """Whether a run may be ranked among the others of its setting.

    Args:
        run: the run.
        missing: documents that other runs of the setting have done and it has not.
    """
    objections = [*_verdict(run), *_ending(run), *_documents(run)]
    done = _done(run)
    if not done:
        objections.append(Objection("no document", "it has done no document", beside=False))
    elif missing:
        reason = missing_reason(len(done), missing)
        objections.append(Objection(missing_mark(len(done), missing), reason, beside=False))
    if run.manifest["model"].get("random_weights"):
        reason = "the model was never trained"
        objections.append(Objection("random weights", reason, beside=False))
    return Standing(tuple(objections))


def missing_mark(done: int, missing: int) -> str:
    """`5 of 6 documents`, in place of numbers that would be over other documents."""
    return f"{done:,} of {plural(done + missing, 'document')}"


def missing_reason(done: int, missing: int) -> str:
    """Why a run that lacks documents has no perplexity and no difference."""
    return f"it has done {done:,} of the {plural(done + missing, 'document')} that other rows have"


def missing_documents(runs: Sequence[Run]) -> list[int]:
    """How many documents each run has not done that another of these runs has done.

    Numbers over other documents cannot be compared: a method that diverges on the hardest
    document would look better for it.
    """
    done = [_done(run) for run in runs]
    every = frozenset().union(*done)
    return [len(every) - len(mine) for mine in done]


def marked(label: str, marks: Sequence[str]) -> str:
    """A method's name with the marks of its row."""
    return f"{label} ({', '.join(marks)})" if marks else label


def _done(run: Run) -> frozenset[str]:
    return run.done.key_set


def _verdict(run: Run) -> list[Objection]:
    valid, reason = valid_of(run), valid_reason_of(run)
    if valid or reason is None:
        return []
    if valid is False:
        return [Objection("NOT VALID", reason)]
    if "valid" not in run.summary:
        # A run that broke off is judged once it has ended, and its ending is an objection itself.
        return [Objection("not judged", reason)] if run.status == "complete" else []
    if audit_of(run) is None and not before_audits(run):
        return [Objection("not audited", reason)]
    return [Objection("validity unknown", reason)]


def _ending(run: Run) -> list[Objection]:
    if run.status == "complete":
        return []
    why = run.summary.get("reason")
    # A failed run shows its status in place of numbers, and so does one without a document.
    beside = not run.failed and bool(_done(run))
    return [Objection(run.status, str(why) if why else "it did not end", beside)]


def _documents(run: Run) -> list[Objection]:
    expected = run.manifest["dataset"].get("documents")
    total = max(expected if isinstance(expected, int) else 0, len(run.rows))
    found = []
    for status in FAILED:
        rows = [row for row in run.not_done if row.status == status]
        if rows:
            mark = f"{len(rows):,} of {total:,} {_WORDS[status]}"
            reason = rows[0].reason or "no reason given"
            found.append(Objection(mark, reason, beside=not run.failed))
    return found
