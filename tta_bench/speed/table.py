"""The table of a measurement of speed, made from stored rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tta_bench.format import BREAK, DASH, binary, count, fixed, plural, si
from tta_bench.tables.column import Column, Values
from tta_bench.tables.labels import labels_of
from tta_bench.tables.table import Table

_FORWARDS = (
    ("none_over_forward_compiled", "transformers forward, compiled"),
    ("none_over_forward_eager", "transformers forward, eager"),
)
_LOOPS = (
    ("dynamic_eval_adam_over_eager_loop", "adam"),
    ("dynamic_eval_sgd_over_eager_loop", "sgd"),
)


def speed_table(speed: Mapping[str, Any]) -> Table:
    """The table of what `store.read_speed` returns."""
    manifest, rows = speed["manifest"], speed["rows"]
    on_gpu = manifest["device"]["type"] == "cuda"
    title = f"Speed of {manifest['model']['name']} on {_device(manifest)}"
    names = [row["label"] for row in rows]
    labels = dict(zip(names, labels_of(names), strict=True))
    return Table(title, _columns(on_gpu, labels), rows, _notes(speed))


def _columns(on_gpu: bool, labels: Mapping[str, str]) -> list[Column]:
    memory = "peak_allocated_bytes" if on_gpu else "peak_process_bytes"
    return [
        Column("label", "row", left=True, show=lambda row: labels[row["label"]]),
        Column("status"),
        Column("lanes", "lanes", show=_lanes),
        Column("step_seconds_median", "step", "ms", show=_milliseconds),
        Column("tokens_per_second", "tokens/s", show=_rate),
        Column("time_x_none", "time", "x none", show=lambda row: fixed(row.get("time_x_none"), 2)),
        Column(
            "flops_x_none", "FLOPs", "x none", show=lambda row: fixed(row.get("flops_x_none"), 2)
        ),
        Column("flops_per_token"),
        Column("matrix_share", "FLOP/s", "% of matrix rate", show=_percent("matrix_share")),
        Column(
            memory,
            "peak memory",
            "GiB allocated" if on_gpu else "GiB process",
            show=lambda row: binary(row.get(memory), 30),
        ),
        Column(
            "warm_up_seconds", "warm-up", "s", show=lambda row: fixed(row.get("warm_up_seconds"), 1)
        ),
        Column("harness_share", "harness", "% of wall", show=_percent("harness_share")),
        Column("reason"),
    ]


def _lanes(row: Values) -> str:
    if row["status"] == "oom":
        return f"does {BREAK}not fit"
    if row["status"] != "complete":
        return row["status"]
    asked = row["lanes_asked"]
    return str(row["lanes"]) if row["lanes"] == asked else f"{row['lanes']} of {asked}"


def _milliseconds(row: Values) -> str:
    seconds = row.get("step_seconds_median")
    return DASH if seconds is None else fixed(1e3 * seconds, 1)


def _rate(row: Values) -> str:
    rate = row.get("tokens_per_second")
    return DASH if rate is None else count(round(rate))


def _percent(key: str):
    def show(row: Values) -> str:
        value = row.get(key)
        return DASH if value is None else fixed(100 * value, 1)

    return show


def _device(manifest: Mapping[str, Any]) -> str:
    device, platform = manifest["device"], manifest["platform"]
    if device["type"] == "cpu":
        return f"cpu ({platform['cpu']}, {plural(platform['threads'], 'thread')})"
    return " ".join(str(device[key]) for key in ("type", "name") if device.get(key))


def _notes(speed: Mapping[str, Any]) -> list[str]:
    manifest, matrix = speed["manifest"], speed["matrix_rate"]
    plan = manifest["plan"]
    notes = [
        f"random tokens, chunk {plan['chunk']}, {plural(plan['lanes'], 'lane')} "
        f"of a document each; median of {plural(plan['steps'], 'step')} after warm-up",
        f"{manifest['dtype']}, torch {manifest['software']['packages']['torch']}, "
        f"transformers {manifest['software']['packages']['transformers']}, "
        f"compile {manifest['compile']}",
        f"matrix rate: {si(matrix['flops_per_second'])}FLOP/s, the best of products of "
        f"{matrix['size']} x {matrix['size']} {matrix['dtype']} matrices in this run",
        *_goal_notes(speed["ratios"]),
    ]
    reasons: dict[str, list[str]] = {}
    for row in speed["rows"]:
        if row["status"] not in ("complete", "oom"):  # the row itself says that it does not fit
            reasons.setdefault(f"{row['status']}: {row['reason']}", []).append(row["label"])
    notes += [f"{'; '.join(labels)}: {reason}" for reason, labels in reasons.items()]
    if not speed["complete"]:
        notes.append("PARTIAL: interrupted, rows are missing")
    return notes


def _goal_notes(ratios: Mapping[str, Any]) -> Sequence[str]:
    notes = [
        f"none reads {fixed(ratios[key], 2)} times as many tokens/s as {name}"
        for key, name in _FORWARDS
        if ratios[key] is not None
    ]
    notes += [
        f"dynamic-eval ({optimizer}, all) reads {fixed(ratios[key], 2)} times as many tokens/s as "
        f"the eager loop over one document"
        for key, optimizer in _LOOPS
        if ratios[key] is not None
    ]
    excess = [
        f"{spec} {fixed(value, 2, '+')}" for spec, value in ratios["time_minus_flops"].items()
    ]
    if excess:
        notes.append(f"time x none less FLOPs x none: {'; '.join(excess)}")
    return notes
