"""The summary table: quality, difference to `none`, and costs, from stored rows alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tta_bench.statistics import exp, paired_difference, quality
from tta_bench.store.key import setting
from tta_bench.store.manifest import device_name
from tta_bench.store.rows import FAILED
from tta_bench.store.run import COSTS
from tta_bench.tables.format import DASH, binary, count, fixed, si
from tta_bench.tables.notes import notes_of, partial_reasons
from tta_bench.tables.table import BREAK, Column, Table, Values

if TYPE_CHECKING:
    from tta_bench.store import Row, Run

BASELINE = "none"


def summary_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One JSON-able dict a run, in order; what is not known is None.

    The difference to the baseline is taken within runs of the same model, documents, protocol,
    dtype and device, against the run of `none` among them.
    """
    baselines = {id(run): baseline_of(group) for group in comparable(runs) for run in group}
    return [_row(run, baselines[id(run)]) for run in runs]


def summary_tables(runs: Sequence[Run], baseline: str = BASELINE) -> list[Table]:
    """A table for each set of comparable runs; what sets it apart is in its title.

    Args:
        baseline: name or spec of the method that the others are compared with.
    """
    groups = comparable(runs)
    titles = titles_of(groups)
    return [_table(group, title, baseline) for group, title in zip(groups, titles, strict=True)]


def document_tables(runs: Sequence[Run]) -> list[Table]:
    """A table for each run, one row a document."""
    tables = []
    for run in runs:
        rows = [{"method": run.spec, **_document(row)} for row in run.rows]
        tables.append(Table(run.spec, _DOCUMENT_COLUMNS, rows))
    return tables


def comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in groups of the same model, documents, protocol, dtype and device."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        alike = [setting(run.manifest), device_name(run.manifest) or DASH]
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(run)
    return list(groups.values())


def baseline_of(group: Sequence[Run], name: str = BASELINE) -> Run | None:
    """The run to compare with: of that spec, else of that method's name; complete if there is."""
    candidates = [run for run in group if run.spec == name]
    candidates = candidates or [run for run in group if run.method == name]
    complete = [run for run in candidates if run.status == "complete"]
    return next(iter(complete or candidates), None)


def _table(group: Sequence[Run], title: str, baseline: str) -> Table:
    other = baseline_of(group, baseline)
    rows = [_row(run, other, baseline) for run in group]
    if baseline != BASELINE:
        frozen = baseline_of(group)
        for run, row in zip(group, rows, strict=True):
            row["flops_x_none"] = _ratio(run, frozen, "flops_per_token")
    specs = [run.spec for run in group]
    for run, row in zip(group, rows, strict=True):
        row["label"] = run.spec
        row["delta_ci95_low"], row["delta_ci95_high"] = row["delta_ci95"] or (None, None)
        if specs.count(run.spec) > 1:  # other seeds, or another version of the same plugin
            row["label"] += f" ({run.manifest['key'].split('-')[-1][:8]})"
    on_gpu = rows[0]["device"].startswith("cuda")
    return Table(title, _columns(on_gpu, baseline), rows, notes_of(group, rows, baseline))


def _row(run: Run, baseline: Run | None, name: str = BASELINE) -> dict[str, Any]:
    manifest = run.manifest
    figures = quality(run.rows)
    partial = partial_reasons(run)
    random = bool(manifest["model"].get("random_weights"))
    failed = run.failed or figures is None
    some_failed = any(row.status in FAILED for row in run.rows)
    valid = run.summary.get("valid")  # None: not judged
    values: dict[str, Any] = {
        "method": run.spec,
        "name": run.method,
        "status": run.status,
        "reason": run.summary.get("reason"),
        "partial": bool(partial),
        "partial_reasons": partial,
        "ranked": run.status == "complete"
        and valid is not False
        and not (random or failed or some_failed),
        "valid": valid,
        "random_weights": random,
        "model": manifest["model"].get("name"),
        "dataset": manifest["dataset"].get("spec"),
        "dtype": manifest.get("dtype"),
        "device": device_name(run.manifest) or DASH,
        "protocol": manifest["protocol"],
        "documents_done": figures.documents if figures else 0,
        "tokens": figures.tokens if figures else 0,
        "bytes": figures.bytes or None if figures else 0,
        "words": figures.words or None if figures else 0,
        "nll": figures.nll if figures else None,
        "perplexity": figures.perplexity if figures else None,
        "macro_perplexity": figures.macro_perplexity if figures else None,
        "macro_nll_per_token": figures.macro_nll if figures else None,
        "word_perplexity": figures.word_perplexity if figures else None,
        "byte_perplexity": figures.byte_perplexity if figures else None,
        "bits_per_byte": figures.bits_per_byte if figures else None,
        **_difference(run, baseline, name),
        **{name: run.summary.get(name) for name in ("flops_agree", "flops_note", *COSTS)},
        "lanes": run.lanes,
        "flops_x_none": _ratio(run, baseline, "flops_per_token"),
        "key": manifest["key"],
        "run": run.path.as_posix(),
        "documents": [_document(row) for row in run.rows],
    }
    return {name: _finite(value) for name, value in values.items()}


def _difference(run: Run, baseline: Run | None, name: str) -> dict[str, Any]:
    names = (
        "delta_nats_per_token",
        "delta_ci95",
        "delta_standard_error",
        "delta_macro_nats_per_token",
        "delta_documents",
        "delta_unpaired_documents",
        "perplexity_ratio",
        "perplexity_ratio_ci95",
        "delta_reason",
    )
    if baseline is None or run is baseline:
        reason = f"no run of {name} to compare with" if baseline is None else "the baseline"
        return dict.fromkeys(names) | {"delta_reason": reason}
    pair = paired_difference(run.rows, baseline.rows)
    values = (
        pair.delta,
        None if pair.interval is None else list(pair.interval),
        pair.standard_error,
        pair.macro_delta,
        pair.documents,
        pair.unpaired,
        pair.ratio,
        None if pair.ratio_interval is None else list(pair.ratio_interval),
        pair.reason,
    )
    return dict(zip(names, values, strict=True))


def _ratio(run: Run, baseline: Run | None, name: str) -> float | None:
    mine, theirs = run.cost(name), None if baseline is None else baseline.cost(name)
    return mine / theirs if mine is not None and theirs else None


def _document(row: Row) -> dict[str, Any]:
    per_token = None if row.nll is None or row.tokens == 0 else row.nll / row.tokens
    return {
        "key": row.key,
        "index": row.index,
        "status": row.status,
        "reason": row.reason,
        "tokens": row.tokens,
        "bytes": row.bytes,
        "words": row.words,
        "nll": row.nll,
        "nll_per_token": per_token,
        "perplexity": None if per_token is None else _finite(exp(per_token)),
        "seconds": row.seconds,
        "sha256": row.sha256,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def titles_of(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Model and dataset of each group of comparable runs, and what sets the groups apart."""
    firsts = [group[0] for group in groups]
    labels = [_labels(run) for run in firsts]
    differing = [
        name
        for name in dict.fromkeys(name for label in labels for name in label)
        if len({label.get(name) for label in labels}) > 1
    ]
    # A hash says nothing where the name in the title tells the tables apart as well.
    for digest, section, field in (("weights", "model", "name"), ("documents", "dataset", "spec")):
        names = {str(run.manifest[section].get(field)) for run in firsts}
        if digest in differing and len(names) == len({label[digest] for label in labels}):
            differing.remove(digest)
    titles = []
    for run, label in zip(firsts, labels, strict=True):
        model = _name(run.manifest["model"].get("name"))
        dataset = _name(run.manifest["dataset"].get("spec"))
        apart = [f"{name} {label.get(name, 'not set')}" for name in differing]
        titles.append(" · ".join([f"{model} on {dataset}", *apart]))
    return titles


def _name(spec: Any) -> str:
    """A spec in a title: of an absolute path, its last part."""
    name = str(spec or DASH)
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("/") else name


def _labels(run: Run) -> dict[str, str]:
    """What two tables may differ in, beside the names of model and dataset."""
    parts = setting(run.manifest)
    documents, protocol = dict(parts["dataset"]), dict(parts["protocol"])
    labels = {
        "protocol": protocol.pop("name", None),
        **protocol,
        "dtype": parts["dtype"],
        "device": device_name(run.manifest) or DASH,
        "documents": str(documents.pop("fingerprint"))[:8],
        **documents,
        "weights": _digest(parts["model"]),
        "engine version": parts["engine_version"],
    }
    return {name.replace("_", " "): str(value) for name, value in labels.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _method(row: Values) -> str:
    return row["label"].replace(":", f":{BREAK}").replace(",", f",{BREAK}")


def _perplexity(row: Values) -> str:
    if row["status"] in FAILED or row["nll"] is None:
        return row["status"] if row["status"] != "complete" else "no document"
    if row["perplexity"] is None:
        return "∞"
    return fixed(row["perplexity"], 2 if row["perplexity"] < 1000 else 0)


def _unless_failed(show: Callable[[Values], str]) -> Callable[[Values], str]:
    """A failed run's figures are of part of the documents, at best: they do not stand in line."""
    return lambda row: DASH if row["status"] in FAILED else show(row)


def _delta(row: Values) -> str:
    if row["delta_nats_per_token"] is None:
        return DASH
    interval = row["delta_ci95"]
    half = "" if interval is None else f" {BREAK}±{fixed((interval[1] - interval[0]) / 2, 4)}"
    return fixed(row["delta_nats_per_token"], 4, "+") + half


def _flops(row: Values) -> str:
    if row["flops_x_none"] is None:
        return si(row["flops_per_token"])
    return f"{si(row['flops_per_token'])} {BREAK}×{fixed(row['flops_x_none'], 2)}"


def _columns(on_gpu: bool, baseline: str) -> list[Column]:
    peak = "peak_allocated_bytes" if on_gpu else "peak_process_bytes"
    kind = "allocated" if on_gpu else "process"
    hidden = [
        *("name", "status", "reason", "partial", "ranked", "model", "dataset", "dtype", "device"),
        *("lanes", "documents_done", "tokens", "bytes", "words", "nll", "macro_perplexity"),
        *("word_perplexity", "byte_perplexity", "delta_ci95_low", "delta_ci95_high"),
        *("delta_standard_error", "flops_x_none", "step_seconds_median", "step_seconds_p90"),
        *("peak_allocated_bytes", "peak_reserved_bytes", "peak_process_bytes", "seconds"),
        *("key", "run"),
    ]
    shown = [
        Column("method", "method", show=_method, left=True, narrow=24),
        Column("perplexity", "perplexity", show=_perplexity, best="low"),
        Column(
            "bits_per_byte",
            f"bits/{BREAK}byte",
            show=_unless_failed(lambda row: fixed(row["bits_per_byte"], 4)),
            best="low",
            narrow=6,
        ),
        Column(
            "delta_nats_per_token",
            f"Δ nats/{BREAK}token {BREAK}vs {baseline}",
            show=_unless_failed(_delta),
            best="low",
            narrow=8,
        ),
        Column("flops_per_token", f"FLOPs/{BREAK}token", show=_unless_failed(_flops), narrow=8),
        Column(
            "tokens_per_second",
            f"tokens{BREAK}/s",
            show=_unless_failed(lambda row: count(row["tokens_per_second"])),
            narrow=6,
        ),
        Column(
            peak,
            f"peak {BREAK}memory",
            f"GiB {BREAK}{kind}",
            show=_unless_failed(lambda row: binary(row[peak], 30)),
            narrow=9,
        ),
        Column(
            "state_bytes_per_lane",
            f"state/{BREAK}lane",
            "MiB",
            show=_unless_failed(lambda row: binary(row["state_bytes_per_lane"], 20)),
            narrow=6,
        ),
    ]
    return [*shown, *(Column(key) for key in hidden if key != peak)]


_DOCUMENT_COLUMNS = [
    Column("method"),
    Column("index", "#"),
    Column("key", "document", left=True),
    Column("status", "status", left=True),
    Column("tokens", "tokens", show=lambda row: count(row["tokens"])),
    Column("bytes"),
    Column("words"),
    Column("nll"),
    Column("nll_per_token", "nats/token", show=lambda row: fixed(row["nll_per_token"], 4)),
    Column("perplexity", "perplexity", show=lambda row: fixed(row["perplexity"], 2)),
    Column("seconds", "seconds", show=lambda row: fixed(row["seconds"], 1)),
    Column("reason", "reason", show=lambda row: row["reason"] or "", left=True),
    Column("sha256"),
]
