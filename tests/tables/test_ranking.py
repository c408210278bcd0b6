"""Which rows are ranked, and how those that are not say so."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from stored_runs import make_manifest, make_row, store_run

from tta_bench.format import BREAK
from tta_bench.store import Run, RunWriter, load_run
from tta_bench.tables import Table, summary_rows, summary_tables
from tta_bench.tables.slices import slice_tables

AUDITED = {"seconds": 1.0, "share": 0.05, "findings": []}
OFF = "it was not audited (--audit off)"
SKIP = "future: documents are too short"


def cell(table: Table, method: str, key: str) -> str:
    row = next(row for row in table.rows if row["method"] == method)
    column = next(column for column in table.shown if column.key == key)
    return column.cell(row).replace(BREAK, "")


@pytest.mark.parametrize(
    ("verdict", "mark", "reason"),
    [
        (
            {"valid": False, "rules_broken": ["reset"], "valid_reason": "reset: it remembers"},
            "NOT VALID",
            "reset: it remembers",
        ),
        ({"valid": False, "rules_broken": ["reset", "off"]}, "NOT VALID", "it fails at reset, off"),
        ({"valid": None, "audit": None, "valid_reason": OFF}, "not audited", OFF),
        ({"valid": None, "audit": AUDITED, "valid_reason": SKIP}, "validity unknown", SKIP),
        ({"valid": None}, "validity unknown", "the probes could not judge it"),
        ({"valid": "yes"}, "validity unknown", "the probes could not judge it"),
    ],
)
def test_only_a_valid_run_is_ranked(
    tmp_path: Path, verdict: dict[str, Any], mark: str, reason: str
) -> None:
    runs = [
        store_run(tmp_path),
        store_run(tmp_path, "fwl", 0.1),
        store_run(tmp_path, "mine", 0.5, summary=verdict),
    ]
    (table,) = summary_tables(runs)
    row = table.rows[2]
    assert (row["ranked"], row["valid_reason"]) == (False, reason)
    assert row["not_ranked"] == f"{mark}: {reason}"
    assert cell(table, "mine", "method") == f"mine ({mark})"
    assert f"{mark}: mine: {reason}" in table.notes
    assert "rows that are marked or lack documents are not ranked" in table.notes
    best = [row["method"] for row in table.rows if table.is_best(table.shown[1], row)]
    assert best == ["fwl"]
    (*_, line) = csv.DictReader(io.StringIO(table.to_csv()))
    assert line["valid_reason"] == reason
    assert line["valid"] in ("False", "")
    for text in (table.to_markdown(), table.to_latex()):
        assert f"mine ({mark})" in text
        assert reason in text.replace("-{}-", "--")  # LaTeX would set these as one dash


def test_a_run_that_was_never_judged_is_not_ranked(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, make_manifest(dataset={"spec": "x"})) as writer:
        writer.append(make_row(0, nll=100.0))
        writer.finish({"status": "complete"})
    run = load_run(writer.path)
    (row,) = summary_rows([run])
    assert (row["ranked"], row["marks"]) == (False, ["not judged"])
    assert row["valid_reason"] == "it was made before runs were judged"


def test_the_verdict_of_a_run_made_before_audits_stands(tmp_path: Path) -> None:
    run = store_run(tmp_path)
    assert "audit" not in run.summary
    (row,) = summary_rows([run])
    assert (row["ranked"], row["not_ranked"], row["marks"]) == (True, None, [])


def test_an_unfinished_run_has_no_verdict_to_speak_of(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, make_manifest()) as writer:
        pass
    (row,) = summary_rows([load_run(writer.path)])
    assert (row["ranked"], row["valid"], row["valid_reason"]) == (False, None, None)
    assert row["marks"] == []


@pytest.fixture
def diverged(tmp_path: Path) -> list[Run]:
    """`none` and a method on six documents, and one that diverges on the hardest of them."""
    bad = make_row(5, "diverged", reason="the loss of token 7 is nan")
    dataset = {"spec": "x", "fingerprint": "f00d", "documents": 6}
    return [
        store_run(tmp_path, documents=6, dataset=dataset),
        store_run(tmp_path, "fwl", 0.1, documents=6, dataset=dataset),
        store_run(tmp_path, "wild", 0.5, documents=5, extra=(bad,), dataset=dataset),
    ]


def test_a_row_without_a_document_has_no_numbers_to_compare(diverged: list[Run]) -> None:
    (table,) = summary_tables(diverged)
    row = table.rows[2]
    assert (row["ranked"], row["documents_done"], row["documents_missing"]) == (False, 5, 1)
    numbers = ("perplexity", "bits_per_byte", "nll_per_token", "delta_nats_per_token")
    assert [row[name] for name in (*numbers, "delta_ci95", "delta_ci95_low")] == [None] * 6
    assert row["tokens_per_second"] == 1234.5  # what it cost is known
    assert cell(table, "wild", "method") == "wild (1 of 6 diverged)"
    assert cell(table, "wild", "perplexity") == "5 of 6 documents"
    assert (
        cell(table, "wild", "bits_per_byte") == cell(table, "wild", "delta_nats_per_token") == "—"
    )
    lacks = "it has done 5 of the 6 documents that other rows have"
    assert f"wild: not compared with none: {lacks}" in table.notes
    assert "PARTIAL: wild: 1 of 6 documents diverged (the loss of token 7 is nan)" in table.notes


def test_a_row_without_a_document_moves_no_other_row(diverged: list[Run]) -> None:
    with_it, without = summary_rows(diverged)[:2], summary_rows(diverged[:2])
    assert with_it == without
    assert [row["ranked"] for row in with_it] == [True, True]


def test_a_baseline_without_a_document_is_compared_on_those_that_both_have(
    diverged: list[Run],
) -> None:
    (table,) = summary_tables(diverged, baseline="wild")
    fwl = table.rows[1]
    assert fwl["delta_documents"] == 5
    note = "Δ over 5 of 6 documents, those that both this row and wild have done"
    assert f"none, fwl: {note}" in table.notes


def test_a_slice_without_a_document_has_no_numbers(diverged: list[Run]) -> None:
    (table,) = slice_tables(diverged, "domain")
    none, _, wild = table.rows
    assert none["nll_per_token"] is not None
    assert (wild["nll_per_token"], wild["delta_nats_per_token"]) == (None, None)
    assert cell(table, "wild", "method") == "wild (1 of 6 diverged)"
    (by_document,) = slice_tables(diverged, "document")
    done = [row for row in by_document.rows if row["method"] == "wild"]
    assert [row["nll_per_token"] is None for row in done] == [False] * 5 + [True]


def test_a_run_that_broke_off_says_so_in_place_of_its_age(tmp_path: Path) -> None:
    def breaks_off() -> None:
        with RunWriter.create(tmp_path, make_manifest(dataset={"spec": "x"})) as writer:
            writer.append(make_row(0, nll=100.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaks_off()
    (path,) = tmp_path.glob("*/summary.json")
    (row,) = summary_rows([load_run(path.parent)])
    assert row["valid_reason"] == "it ended early: interrupted"
    assert row["marks"] == ["interrupted"]


def test_a_run_that_was_interrupted_says_so(tmp_path: Path) -> None:
    ended = {"status": "interrupted", "reason": "interrupted by the user"}
    runs = [store_run(tmp_path), store_run(tmp_path, "fwl", 0.1, documents=2, summary=ended)]
    (table,) = summary_tables(runs)
    assert cell(table, "fwl", "method") == "fwl (interrupted)"
    assert cell(table, "fwl", "perplexity") == "2 of 4 documents"


def test_copies_are_counted_once(tmp_path: Path) -> None:
    copies = tuple(make_row(i, nll=200.0, sha256="a" * 64) for i in range(3))
    other = make_row(3, nll=200.0)
    run = store_run(tmp_path, documents=0, extra=(*copies, other))
    (table,) = summary_tables([run])
    assert table.notes[0].startswith("4 documents, 2 of them distinct, 460 tokens")
