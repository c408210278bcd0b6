"""The summary of a run by those of its portions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tta_bench.format import listed
from tta_bench.store.manifest import section
from tta_bench.store.portion import portion_of
from tta_bench.store.rows import FAILED
from tta_bench.store.run import Run, ended_as
from tta_bench.store.verdict import (
    audit_of,
    findings_of,
    rules_broken_of,
    valid_of,
    valid_reason_of,
)

_WORST = ("fail", "skip", "pass")
_STEPS = ("step_seconds_median", "step_seconds_p90", "step_tokens_median")


def merged_facts(parts: Sequence[Run]) -> dict[str, Any]:
    """All of the whole run's summary but counts of rows, and times and peaks, which are sessions'.

    Facts of the method alone, and the times of a step, are of the portion that scored most tokens;
    FLOPs are the mean over all tokens.
    """
    most = max(parts, key=_tokens)
    facts = {
        name: value
        for name, value in most.summary.items()
        if name not in ("schema_version", "ended", "documents", *_SUMMED)
    }
    facts |= _status(parts) | _verdict(parts) | {name: most.summary.get(name) for name in _STEPS}
    facts["flops_per_token"] = _flops_per_token(parts)
    facts["notes"] = [*dict.fromkeys(note for part in parts for note in part.notes)]
    facts["notes"] += _unlike(parts)
    facts["workers"] = [
        {"shard": _number(part), **share}
        for part in parts
        for share in part.summary.get("workers") or []
    ]
    facts["lanes"] = min(_known(parts, "lanes"), default=None)
    facts["warm_up_seconds"] = max(_known(parts, "warm_up_seconds"), default=None)
    return facts


_SUMMED = (
    *("seconds", "timed_tokens", "tokens_per_second", "sessions"),
    *("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes"),
)
"""What the sessions tell."""


def _known(parts: Sequence[Run], name: str) -> list[float]:
    return [part.summary[name] for part in parts if part.summary.get(name) is not None]


def _tokens(part: Run) -> int:
    return sum(part.done.tokens)


def _status(parts: Sequence[Run]) -> dict[str, Any]:
    """How the whole run has ended: by its rows, or because a portion's method broke a rule."""
    rows = [row for part in parts for row in part.rows]
    failed = [row.reason for row in rows if row.status in FAILED]
    ended = ended_as(Counter(row.status for row in rows), failed[-1] if failed else None)
    broken = next(
        (part for part in parts if part.status in ("oom", "error") and _tokens(part)), None
    )
    if ended["status"] == "complete" and broken is not None:
        return {"status": broken.status, "reason": broken.summary.get("reason")}
    return {**ended}


def _flops_per_token(parts: Sequence[Run]) -> float | None:
    """The mean over all scored tokens; None unless each portion that scored any knows its own."""
    scored = [(part.summary.get("flops_per_token"), _tokens(part)) for part in parts]
    known = [(flops, tokens) for flops, tokens in scored if tokens and flops is not None]
    tokens = sum(count for _, count in scored)
    if not tokens or sum(count for _, count in known) != tokens:
        return None
    return float(sum(flops * count for flops, count in known) / tokens)


def _verdict(parts: Sequence[Run]) -> dict[str, Any]:
    """Valid if every portion is, not valid if one is not, else unknown."""
    each = [valid_of(part) for part in parts]
    valid = False if False in each else None if None in each else True
    doubted = next((part for part in parts if valid_of(part) is valid), parts[0])
    why = valid_reason_of(doubted)
    audits = [audit_of(part) for part in parts]
    return {
        "valid": valid,
        "rules_broken": [*dict.fromkeys(rule for part in parts for rule in rules_broken_of(part))],
        "valid_reason": None if valid else f"shard {_number(doubted)}/{_count(doubted)}: {why}",
        "audit": None if None in audits else _audit(parts),
    }


def _audit(parts: Sequence[Run]) -> dict[str, Any]:
    """The worst that any portion found in each check, and the time of all audits."""
    worst: dict[str, tuple[int, dict[str, Any]]] = {}
    for part in parts:
        for finding in findings_of(part):
            check = str(finding["check"])
            rank = _WORST.index(finding["status"])
            if check not in worst or rank < worst[check][0]:
                where = f"shard {_number(part)}/{_count(part)}"
                worst[check] = rank, {**finding, "sentence": f"{where}: {finding['sentence']}"}
    audits = [audit for part in parts if (audit := audit_of(part))]
    verdicts = [audit["valid"] for audit in audits]
    seconds = sum(audit["seconds"] for audit in audits)
    timed = sum(part.summary.get("seconds") or 0.0 for part in parts)
    return {
        "valid": False if False in verdicts else None if None in verdicts else True,
        "seconds": round(seconds, 3),
        "share": round(seconds / timed, 4) if timed else None,
        "findings": [finding for _, finding in worst.values()],
    }


def _unlike(parts: Sequence[Run]) -> list[str]:
    """A note where portions were read by other software or another kind of processor."""
    kinds = {
        "versions": [_versions(part.manifest) for part in parts],
        "threads": [section(part.manifest, "platform").get("threads") for part in parts],
        "vector instructions": [
            section(part.manifest, "platform").get("cpu_capability") for part in parts
        ],
    }
    unlike = [name for name, found in kinds.items() if any(one != found[0] for one in found)]
    if not unlike:
        return []
    return [
        f"its shards were read with unlike {listed(unlike)}: losses may differ in their last bits "
        "from those of one command."
    ]


def _versions(manifest: Mapping[str, Any]) -> Any:
    software = section(manifest, "software")
    return software.get("tta_bench"), software.get("packages"), software.get("python")


def _number(part: Run) -> int:
    portion = portion_of(part.manifest)
    assert portion is not None
    return portion.number


def _count(part: Run) -> int:
    portion = portion_of(part.manifest)
    assert portion is not None
    return portion.of
