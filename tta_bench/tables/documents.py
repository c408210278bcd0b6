"""The tables of documents: one row per document of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tta_bench.format import count, fixed
from tta_bench.statistics import exp
from tta_bench.tables.column import Column
from tta_bench.tables.labels import labels_of
from tta_bench.tables.table import Table

if TYPE_CHECKING:
    from tta_bench.store import Row, Run


def document_tables(runs: Sequence[Run]) -> list[Table]:
    """A table for each run, one row per document."""
    tables = []
    labels = labels_of([run.spec for run in runs])
    for run, label in zip(runs, labels, strict=True):
        rows = [{"method": run.spec, **document_row(row)} for row in run.rows]
        tables.append(Table(label, _COLUMNS, rows))
    return tables


def document_row(row: Row) -> dict[str, Any]:
    """The row of a document as JSON-able values."""
    per_token = row.nll_per_token
    perplexity = None if per_token is None else exp(per_token)
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
        "perplexity": perplexity if perplexity is None or math.isfinite(perplexity) else None,
        "seconds": row.seconds,
        "sha256": row.sha256,
    }


_COLUMNS = [
    Column("method"),
    Column("index", "#"),
    Column("key", "document", left=True, keep=True),
    Column("status", "status", left=True, keep=True),
    Column("tokens", "tokens", show=lambda row: count(row["tokens"])),
    Column("bytes"),
    Column("words"),
    Column("nll"),
    Column("nll_per_token", "nats/token", show=lambda row: fixed(row["nll_per_token"], 4)),
    Column("perplexity", "perplexity", show=lambda row: fixed(row["perplexity"], 2)),
    Column("seconds", "seconds", show=lambda row: fixed(row["seconds"], 1)),
    Column("reason", "reason", show=lambda row: row["reason"] or "", left=True, keep=True),
    Column("sha256"),
]
