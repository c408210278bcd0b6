"""Files of losses that hold something else than the losses of their document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import COSTS, make_losses, make_manifest, make_row, store_run

from tta_bench.documents.document import Asked
from tta_bench.errors import BenchError
from tta_bench.store import Row, Run, RunWriter, load_run
from tta_bench.store.quick_rows import quick_rows
from tta_bench.tables.summary import summary_tables


def test_losses_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    run = store_run(tmp_path)
    file = run.path / "nll/00000.npz"
    np.savez_compressed(file, nll=np.zeros(10**6, dtype=np.float32))
    assert file.stat().st_size < 10_000
    with pytest.raises(BenchError, match=r"unpacks to 4,000,128 bytes"):
        run.nll(replace(run.rows[0], nll_sha256=None))


BITS = np.arange(100) % 3 == 0


def store_bits(group: Path) -> Run:
    """A run of two documents; of the second only the losses were kept."""
    with RunWriter.create(group, make_manifest()) as writer:
        writer.append(make_row(0), make_losses(0), BITS)
        writer.append(make_row(1), make_losses(1))
        writer.finish({"status": "complete", "reason": None, **COSTS})
    return load_run(writer.path)


def test_bits_come_back_and_are_few_bytes(tmp_path: Path) -> None:
    run = store_bits(tmp_path)
    np.testing.assert_array_equal(run.top1(run.rows[0]), BITS)
    np.testing.assert_array_equal(run.nll(run.rows[0]), make_losses(0))
    assert run.rows[0].top1 == BITS.sum()
    with np.load(run.path / "nll/00000.npz") as archive:
        assert archive["top1"].nbytes == 13
    lines = (run.path / "rows.jsonl").read_bytes().splitlines()
    assert [*quick_rows(lines)] == list(run.rows), "either kind is read by its bytes"


def test_runs_that_kept_losses_alone_stay_readable(tmp_path: Path) -> None:
    run = store_bits(tmp_path)
    assert run.rows[1].top1 is None
    assert b"top1" not in (run.path / "rows.jsonl").read_bytes().splitlines()[1]
    with pytest.raises(BenchError, match="holds losses alone"):
        run.top1(run.rows[1])
    (table,) = summary_tables([run], metrics=["accuracy"])
    assert table.rows[0]["accuracy"] is None
    assert any("was not stored of every document" in note for note in table.notes)
    part = replace(run, rows=run.rows[:1])
    (table,) = summary_tables([part], metrics=["accuracy"])
    assert table.rows[0]["accuracy"] == BITS.mean()


@pytest.mark.parametrize("bits", [None, np.packbits(~BITS), np.zeros(12, np.uint8)])
def test_bits_that_are_not_those_of_the_row_are_refused(tmp_path: Path, bits: Any) -> None:
    run = store_bits(tmp_path)
    arrays = {} if bits is None else {"top1": bits}
    np.savez_compressed(run.path / "nll/00000.npz", nll=make_losses(0), **arrays)
    with pytest.raises(BenchError, match="is damaged"):
        run.top1(replace(run.rows[0], nll_sha256=None))


def test_a_row_keeps_what_its_document_asks_for(tmp_path: Path) -> None:
    asked = Asked(True, ((20, 23, 12), (50, 51, 40)))
    row = make_row(0, nll=1.5, asked=asked)
    stored = json.loads(json.dumps(row.to_dict()))
    assert Row.from_dict(stored) == row
    for wrong in ([[20, 23]], [[20, 20, 5]], [[5, 6, 7]], [[20, 101, 5]], [[20, "23", 5]]):
        stored["asked"]["answers"] = wrong
        with pytest.raises(ValueError, match=r"answer|asks for tokens"):
            Row.from_dict(stored)
