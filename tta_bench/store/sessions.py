"""Sessions: a run starts in one and may be resumed in others, whose costs are added up.

sessions.jsonl has one line for the start of a session and one for its end; a session that was
killed has no line for its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tta_bench.errors import BenchError
from tta_bench.store.environment import utc_now
from tta_bench.store.files import read_lines, sealed, to_json, unsealed
from tta_bench.store.rows import LARGEST, Row

SESSIONS = "sessions.jsonl"
STARTED, ENDED = "started", "ended"
KILLED = "killed"
_HARDWARE = ("lanes", "deterministic", "device", "platform", "software")
_PEAKS = ("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes")
_STEPS = ("step_seconds_median", "step_seconds_p90", "step_tokens_median")
_NUMBERS = ("seconds", "tokens", *_PEAKS, *_STEPS)


def session_start(
    number: int, manifest: Mapping[str, Any], time: str | None = None
) -> dict[str, Any]:
    """The line for the start of a session: when, on what, and with how many lanes."""
    hardware = {name: manifest.get(name) for name in _HARDWARE}
    if manifest.get("workers"):
        hardware["workers"] = manifest["workers"]
    return {"session": number, "event": STARTED, "time": time or utc_now(), **hardware}


def session_end(
    number: int, summary: Mapping[str, Any], rows: Iterable[Row], time: str | None = None
) -> dict[str, Any]:
    """The line for the end of a session: how it ended and what it cost.

    Seconds and tokens that the summary does not know are summed over the session's rows. The number
    of lanes is given if it is known, since it may have been reduced during the session.
    """
    mine = [row for row in rows if row.session == number]
    seconds, tokens = summary.get("seconds"), summary.get("timed_tokens")
    return {
        "session": number,
        "event": ENDED,
        "time": time or utc_now(),
        "status": summary.get("status"),
        "reason": summary.get("reason"),
        "seconds": sum(row.seconds for row in mine) if seconds is None else seconds,
        "tokens": sum(row.tokens for row in mine) if tokens is None else tokens,
        **{name: summary.get(name) for name in (*_PEAKS, *_STEPS)},
        **({"lanes": summary["lanes"]} if summary.get("lanes") else {}),
    }


def to_lines(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Events as lines of sessions.jsonl."""
    return b"".join(to_json(sealed(event)) for event in events)


def read_events(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The events in sessions.jsonl and warnings; a last line that was cut short is left out.

    Raises:
        BenchError: a line is damaged.
    """
    lines, last = read_lines(path)
    events = []
    for number, line in enumerate([*lines, *([last] if last else [])], start=1):
        try:
            events.append(_event(line))
        except (ValueError, RecursionError) as error:
            if number > len(lines):
                return events, [f"the last line of {path} was cut short and is left out"]
            raise BenchError(f"{path} is damaged in line {number}: {error}.") from error
    return events, []


def _event(line: bytes) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    event, checked = unsealed(value)
    if not checked:
        raise ValueError("it has no checksum")
    number, kind = event.get("session"), event.get("event")
    if not isinstance(number, int) or number < 0 or kind not in (STARTED, ENDED):
        raise ValueError("it is neither the start nor the end of a session")
    for name in _NUMBERS:
        figure = event.get(name)
        if figure is not None and not (isinstance(figure, (int, float)) and abs(figure) < LARGEST):
            raise ValueError(f"its '{name}' is not a number")
    return event


def join_sessions(events: Iterable[Mapping[str, Any]], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One object per session: its start joined with its end, or with what its rows tell of it."""
    sessions: dict[int, dict[str, Any]] = {}
    for event in events:
        fields = {name: value for name, value in event.items() if name not in ("event", "time")}
        session = sessions.setdefault(event["session"], {})
        session.update(fields | {event["event"]: event["time"]})
    for number, session in sessions.items():
        if ENDED not in session:
            missing = session_end(number, {"status": KILLED}, rows)
            session.update({k: v for k, v in missing.items() if k not in ("event", "time")})
    return [sessions[number] for number in sorted(sessions)]


def total_costs(sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The cost of all sessions together: the sum of their times and the maximum of their peaks.

    The median and the 90th percentile of a step are those of the last session that took steps.
    """
    seconds = sum(session.get("seconds") or 0.0 for session in sessions)
    tokens = sum(session.get("tokens") or 0 for session in sessions)
    peaks = {
        name: max((s[name] for s in sessions if s.get(name) is not None), default=None)
        for name in _PEAKS
    }
    steps = {
        name: next((s[name] for s in reversed(sessions) if s.get(name) is not None), None)
        for name in _STEPS
    }
    return {
        "seconds": seconds,
        "timed_tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds > 0 else None,
        **peaks,
        **steps,
    }
