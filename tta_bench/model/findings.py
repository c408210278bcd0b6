"""What was found when a model was tried, and what that forbids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tta_bench.errors import ModelError

Outcome = Literal["ok", "failed", "not tried"]

USE, CACHE, PADDING = "use", "cache", "padding"
"""What a finding may forbid: any number; keys that are carried from chunk to chunk; reading a lane
beside others, padded, or compiled."""


@dataclass(frozen=True)
class Finding:
    """One property that the protocol relies on, as it was found.

    Attributes:
        name: the property, in a few words.
        outcome: `ok`, `failed`, or `not tried`.
        detail: what was seen, a clause that goes on from the model's name.
        forbids: what must not be done with such a model, of USE, CACHE and PADDING.
        advice: what to do instead, a clause of its own; empty where nothing is forbidden.
        remark: a sentence that belongs to every run of the model; empty for none.
    """

    name: str
    outcome: Outcome
    detail: str
    forbids: tuple[str, ...] = ()
    advice: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Acceptance:
    """All findings on one model; a model that was not tried has none and forbids nothing.

    Attributes:
        findings: one for each property, in the order in which they were tried.
    """

    findings: tuple[Finding, ...] = ()

    def forbids(self, what: str) -> Finding | None:
        """The first finding that forbids this; None if it may be done."""
        return next((finding for finding in self.findings if what in finding.forbids), None)

    def require(self, what: str, model: str) -> None:
        """Makes sure that something may be done with a model.

        Args:
            what: USE, CACHE or PADDING.
            model: the model as the user named it.

        Raises:
            ModelError: it may not; the sentence says why, and what to do.
        """
        finding = self.forbids(what)
        if finding is not None:
            raise ModelError(f"{model} {finding.detail}; {finding.advice}.")

    @property
    def usable(self) -> bool:
        """Whether numbers may be made with the model."""
        return self.forbids(USE) is None

    @property
    def remarks(self) -> list[str]:
        """Sentences that belong to every run of the model."""
        return [finding.remark for finding in self.findings if finding.remark]

    def to_dict(self) -> dict[str, Any]:
        """The findings by name, in the types of JSON, for the manifest of a run."""
        return {
            finding.name: {"outcome": finding.outcome, "detail": finding.detail}
            for finding in self.findings
        }
