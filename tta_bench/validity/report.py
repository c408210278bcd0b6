"""What the probes found: one line each, and the verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found.

    Attributes:
        probe: its name, such as `causality`.
        status: pass, fail, or skip where it could not be judged.
        value: the measured figure, in the unit that `figure` prints; None if there is none.
        figure: the measured figure as the table shows it.
        sentence: what was tested, or what went wrong.
        trace: the traceback of what the method raised; empty if it raised nothing.
    """

    probe: str
    status: Status
    value: float | None
    figure: str
    sentence: str
    trace: str = ""


@dataclass(frozen=True)
class ValidityReport:
    """The probes of one method, in the order in which they ran.

    Attributes:
        method: the method's spec as given, such as `dynamic-eval:lr=0.001`.
        results: one entry for each probe.
        seconds: the wall time of all probes.
        unreached: the names of the probes that there was no time for.
        notes: how it was probed where that is not as given: other parameters, another model.
    """

    method: str
    results: tuple[ProbeResult, ...]
    seconds: float
    unreached: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def valid(self) -> bool | None:
        """False if a probe failed; None if the method could not be built here, so none ran, if
        what was probed may be the method switched off, or if there was no time for all probes."""
        if self.failed:
            return False
        status = {result.probe: result.status for result in self.results}
        if self.unreached or status.get("as given") == "skip":
            return None
        return True if any(result.status == "pass" for result in self.results) else None

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the probes that failed."""
        return tuple(result.probe for result in self.results if result.status == "fail")

    @property
    def summary(self) -> str:
        """One line: how many passed, what failed, and what there was no time for."""
        count = {
            status: sum(result.status == status for result in self.results)
            for status in ("pass", "fail", "skip")
        }
        text = f"{count['pass']} passed, {count['fail']} failed, {count['skip']} skipped"
        text += f": {', '.join(self.failed)}" if self.failed else ""
        late = len(self.unreached)
        return f"{text}; no time for {late} of {len(self.results)}" if late else text

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and for manifests."""
        return {
            "method": self.method,
            "valid": self.valid,
            "seconds": round(self.seconds, 3),
            "unreached": list(self.unreached),
            "notes": list(self.notes),
            "probes": [_finite(asdict(result)) for result in self.results],
        }


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity; the figure still says it. Tracebacks are for `--debug`."""
    del result["trace"]
    value = result["value"]
    return result if value is None or math.isfinite(value) else {**result, "value": None}
