"""The portions of a run put together: one folder, as one command would have left it.

It reads what is stored and no model. Every portion is a session, or several, of the whole run, so
that rows say who read them and costs are added up by the rule of sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from tta_bench.errors import BenchError, UsageError
from tta_bench.files import complete_folder
from tta_bench.format import listed, plural
from tta_bench.store.files import explained, sealed, to_json, write_atomically
from tta_bench.store.groups import run_folder
from tta_bench.store.key import setting
from tta_bench.store.manifest import SCHEMA_VERSION, section
from tta_bench.store.merged_summary import merged_facts
from tta_bench.store.portion import SHARD, Portion, documents_of, portion_of
from tta_bench.store.resume import NOT_ENDED, damaged_vector, is_whole
from tta_bench.store.rows import Row
from tta_bench.store.run import Run, nll_file
from tta_bench.store.sessions import SESSIONS, join_sessions, read_events, to_lines, total_costs

SHOWN = 8
"""How many missing shards a sentence names."""


def merge(portions: Sequence[Run], group: Path) -> Path:
    """Writes the whole run of its portions, unless it is there already; returns its folder.

    Args:
        portions: of one run, in any order.
        group: the folder of the group that the run will lie in.

    Raises:
        UsageError: they are not all portions of one run, some are missing or not finished, or the
            group holds the run and it is not whole.
        BenchError: a file is damaged or cannot be written.
    """
    parts = _in_order(portions)
    _require_one_run(parts)
    _require_whole(parts)
    manifest = merged_manifest(parts)
    path = run_folder(group, manifest)
    if path.exists():
        if is_whole(path, manifest, "missing"):
            return path
        raise UsageError(
            f"{path} holds this run and is not finished; give another --name, or remove it."
        )
    # What another command may have put there meanwhile is kept.
    with explained(path), complete_folder(path, lambda _: True) as draft:
        _write(parts, manifest, draft)
    return path


def merged_manifest(parts: Sequence[Run]) -> dict[str, Any]:
    """The manifest of the first, as that of all documents."""
    manifest = {name: value for name, value in parts[0].manifest.items() if name != SHARD}
    workers = [section(part.manifest, "workers") for part in parts]
    manifest["workers"] = {**workers[0], "number": sum(one["number"] for one in workers)}
    return manifest | {"merged": {"shards": len(parts)}}


def _in_order(runs: Sequence[Run]) -> list[Run]:
    """The portions by their numbers.

    Raises:
        UsageError: one of them is no portion, or is there twice.
    """
    numbered: dict[int, Run] = {}
    for run in runs:
        portion = portion_of(run.manifest)
        if portion is None:
            raise UsageError(f"{run.path} is a whole run and no shard of one; leave it out.")
        if portion.number in numbered:
            raise UsageError(
                f"shard {portion} of {run.spec} is there twice, as {numbered[portion.number].path} "
                f"and {run.path}; leave one of them out."
            )
        numbered[portion.number] = run
    return [numbered[number] for number in sorted(numbered)]


def _require_one_run(parts: Sequence[Run]) -> None:
    """Raises UsageError unless all are of one run, and cut alike."""
    first = parts[0]
    for part in parts[1:]:
        here, there = _name(part), _name(first)
        if part.manifest["key"] != first.manifest["key"]:
            raise UsageError(
                f"{here} ({part.path}) is not of the same run as {there}: it was made with "
                f"{listed(_differences(part.manifest, first.manifest))}; run it again with the "
                "same."
            )
        if _cut(part) != _cut(first):
            raise UsageError(
                f"{here} ({part.path}) was not cut like {there}: give every shard the same N, "
                "--lanes and kind of device, and run it again."
            )


def _require_whole(parts: Sequence[Run]) -> None:
    """Raises UsageError unless every document is there, once."""
    sizes = section(parts[0].manifest, SHARD)["documents"]
    there = {portion.number for part in parts if (portion := portion_of(part.manifest))}
    missing = [
        str(Portion(number, len(sizes)))
        for number, size in enumerate(sizes, 1)
        if size and number not in there
    ]
    if missing:
        more = ["..."] if len(missing) > SHOWN else []
        raise UsageError(
            f"{parts[0].spec} lacks {plural(len(missing), 'shard')} of {len(sizes)}: "
            f"{', '.join(missing[:SHOWN] + more)}; run eval with that --shard, or name its group, "
            "too."
        )
    found: dict[int, Run] = {}
    for part in parts:
        for row in part.rows:
            if row.index in found:
                raise UsageError(
                    f"{_name(part)} ({part.path}) and {_name(found[row.index])} both have a row "
                    f"for the document {row.key}; remove the one that is not of this cut."
                )
            found[row.index] = part
        owned = documents_of(part.manifest)
        if len(part.rows) != owned or part.status in NOT_ENDED:
            why = f" ({part.summary.get('reason') or part.status})" if part.summary else ""
            raise UsageError(
                f"{_name(part)} ({part.path}) is not finished: it has {len(part.rows)} of "
                f"{plural(owned, 'document')}{why}; run its command again."
            )


def _write(parts: Sequence[Run], manifest: Mapping[str, Any], folder: Path) -> None:
    """Fills an empty folder with the run."""
    rows: list[Row] = []
    events: list[dict[str, Any]] = []
    sessions = 0
    for part in parts:
        own, _ = read_events(part.path / SESSIONS)
        events += [event | {"session": event["session"] + sessions} for event in own]
        for row in part.rows:
            _copy_losses(part, row, folder)
            rows.append(replace(row, session=row.session + sessions))
        sessions += 1 + max(event["session"] for event in own)
    rows.sort(key=attrgetter("index"))
    joined = join_sessions(events, rows)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "ended": max(part.summary["ended"] for part in parts),
        "documents": Counter(row.status for row in rows),
        **total_costs(joined),
        **merged_facts(parts),
        "sessions": len(joined),
    }
    lines = b"".join(to_json(sealed(row.to_dict())) for row in rows)
    write_atomically(folder / SESSIONS, to_lines(events))
    write_atomically(folder / "rows.jsonl", lines)
    write_atomically(folder / "summary.json", to_json(sealed(summary), indent=2))
    # Last: what a kill leaves behind is no run without it.
    write_atomically(folder / "manifest.json", to_json(sealed(manifest), indent=2))


def _copy_losses(part: Run, row: Row, folder: Path) -> None:
    """Copies a document's losses, byte for byte; those that were not kept stay away.

    Raises:
        BenchError: they were changed since they were written.
    """
    if row.nll_file is None:
        return
    if damaged := damaged_vector(part.path, row):
        raise BenchError(f"{damaged} is damaged; run the command of {_name(part)} again.")
    name = nll_file(row.index)
    if (part.path / name).exists():
        (folder / "nll").mkdir(exist_ok=True)
        write_atomically(folder / name, (part.path / name).read_bytes())


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What moves the numbers of two runs and is not the same, in words."""
    mine, its = dict(_parts_of_key(one)), dict(_parts_of_key(other))
    return [f"another {name}" for name in mine if mine[name] != its[name]]


def _parts_of_key(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    words = {"dataset": "dataset", "model": "model", "dtype": "dtype", "protocol": "protocol"}
    words |= {"engine_version": "version of the engine"}
    whole = setting(manifest)
    yield from ((word, whole[name]) for name, word in words.items())
    yield "digits asked for by the environment", whole.get("precision_overrides")
    method = manifest["method"]
    yield "method", (method.get("name"), method.get("params"))
    yield "source of the method", method.get("source_sha256")
    yield "file that the method loads", method.get("artifacts")
    yield "seed", manifest.get("seeds")


def _cut(part: Run) -> tuple[Any, ...]:
    stamp = section(part.manifest, SHARD)
    return stamp["documents"], stamp["cut"]


def _name(part: Run) -> str:
    return f"shard {portion_of(part.manifest)} of {part.spec}"
