"""The summary table: its figures, what it refuses to say, and its five renderings."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from stored_runs import PROTOCOL, make_manifest, make_row, store_run

from tta_bench.format import binary, count, duration, fixed, plain, si
from tta_bench.statistics import paired_difference, quality
from tta_bench.store import Run, RunWriter, load_run
from tta_bench.tables import Column, Table, document_tables, summary_rows, summary_tables
from tta_bench.tables.column import joined

WORDS = re.compile(r"(?<=[,:])(?!\d)|\s+")
"""Where a cell of text may break."""

ADAM = "dynamic-eval:optimizer=adam,lr=0.0001"


@pytest.fixture
def group(tmp_path: Path) -> list[Run]:
    """`none`, two methods that gain, and one that ran out of memory."""
    oom = make_row(3, "oom", reason="out of memory")
    failed = {"status": "oom", "reason": "out of memory", "tokens_per_second": 77.0}
    costs = {"flops_per_token": 8.1e8, "state_bytes_per_lane": 477 * 2**20}
    return [
        store_run(tmp_path),
        store_run(tmp_path, ADAM, 0.1, summary=costs),
        store_run(tmp_path, "fwl", 0.05),
        store_run(tmp_path, "neural-cache", 0.2, 3, (oom,), failed),
    ]


def shown(table: Table, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells(table: Table, method: str) -> dict[str, str]:
    row = next(row for row in table.rows if row["method"] == method)
    return {column.key: column.cell(row).replace("\u200b", "") for column in table.shown}


def test_the_columns_that_people_see(group: list[Run]) -> None:
    (table,) = summary_tables(group)
    assert table.title == "smollm2-135m on builtin:stdlib"
    heads = [column.title.replace("\u200b", "") for column in table.shown]
    assert heads == [
        "method",
        "perplexity",
        "bits/byte",
        "Δ nats/token vs none",
        "FLOPs/token",
        "tokens/s",
        "peak memory",
        "state/lane",
    ]


def test_the_figures_are_those_of_the_rows(group: list[Run]) -> None:
    (table,) = summary_tables(group)
    figures, pair = quality(group[1].rows), paired_difference(group[1].rows, group[0].rows)
    assert figures is not None
    assert pair.delta is not None
    assert pair.interval is not None
    half = (pair.interval[1] - pair.interval[0]) / 2
    assert cells(table, ADAM) == {
        "method": ADAM,
        "perplexity": f"{figures.perplexity:.2f}",
        "bits_per_byte": f"{figures.bits_per_byte:.4f}",
        "delta_nats_per_token": f"{pair.delta:+.4f} ±{half:.4f}",
        "flops_per_token": "810 M ×3.00",
        "tokens_per_second": "1,234",
        "peak_process_bytes": "1.50",
        "state_bytes_per_lane": "477",
    }
    assert cells(table, "none")["delta_nats_per_token"] == "—"
    assert cells(table, "none")["flops_per_token"] == "270 M ×1.00"


def test_a_failed_run_shows_its_status_and_no_figures(group: list[Run]) -> None:
    (table,) = summary_tables(group)
    failed = cells(table, "neural-cache")
    assert failed.pop("method") == "neural-cache"
    assert failed.pop("perplexity") == "oom"
    assert set(failed.values()) == {"—"}
    assert "PARTIAL: neural-cache: 1 of 4 documents oom (out of memory)" in table.notes
    row = summary_rows(group)[3]
    assert (row["status"], row["ranked"], row["partial"]) == ("oom", False, True)
    assert [document["status"] for document in row["documents"]] == ["done"] * 3 + ["oom"]


def test_the_best_ranked_value_is_bold(group: list[Run]) -> None:
    (table,) = summary_tables(group)
    best = [
        (row["method"], c.key) for row in table.rows for c in table.shown if table.is_best(c, row)
    ]
    assert best == [
        (ADAM, name) for name in ("perplexity", "bits_per_byte", "delta_nats_per_token")
    ]
    assert f"**{cells(table, ADAM)['perplexity']}**" in table.to_markdown()
    assert r"\textbf{" in table.to_latex()


def test_notes_name_protocol_documents_and_intervals(group: list[Run]) -> None:
    (table,) = summary_tables(group)
    notes = "\n".join(table.notes)
    assert "4 documents, 460 tokens, 1,840 bytes" in notes
    assert (
        "protocol: stream, chunk 1024, no context, prefix token 1, reset at each document" in notes
    )
    assert "float32, 4 lanes, cpu (" in notes
    assert "± is its 95 % interval" in notes
    lacks = "it has done 3 of the 4 documents that other rows have"
    assert f"neural-cache: not compared with none: {lacks}" in notes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": 512, "context_mode": "cache"}, "chunk 1024, context 512 (cache)"),
        ({"name": "hf-guide", "window": 64, "stride": 32}, "hf-guide, window 64, stride 32"),
        ({"reset": "never"}, "never reset"),
    ],
)
def test_the_protocol_in_a_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    run = store_run(tmp_path, protocol=PROTOCOL | changes, prefix_id=None, lanes=1)
    (note,) = [note for note in summary_tables([run])[0].notes if note.startswith("protocol")]
    assert words in note
    assert "no prefix token" in note
    assert "1 lane," in note


def test_one_document_has_no_interval(tmp_path: Path) -> None:
    runs = [store_run(tmp_path, documents=1), store_run(tmp_path, "fwl", 0.1, documents=1)]
    (table,) = summary_tables(runs)
    assert "one document: an interval needs at least two" in table.notes
    assert cells(table, "fwl")["delta_nats_per_token"] == "-0.1000"
    row = summary_rows(runs)[1]
    assert row["delta_ci95"] is None
    assert row["delta_reason"] == "one document: an interval needs at least two"


def test_without_the_baseline_there_is_no_difference(tmp_path: Path) -> None:
    run = store_run(tmp_path, "fwl")
    (table,) = summary_tables([run])
    assert any("there is nothing to compare with" in note for note in table.notes)
    assert cells(table, "fwl")["delta_nats_per_token"] == "—"
    assert cells(table, "fwl")["flops_per_token"] == "270 M"


def test_another_text_is_not_compared(tmp_path: Path) -> None:
    run = store_run(tmp_path)
    with RunWriter.create(tmp_path, make_manifest("fwl")) as writer:
        writer.append(make_row(0, sha256="f" * 64, nll=1.0))
        writer.finish({"status": "complete"})
    (table,) = summary_tables([run, load_run(writer.path)])
    assert any(
        note == "fwl: not compared with none: document doc0.py has another content in the "
        "baseline's run"
        for note in table.notes
    )


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"protocol": PROTOCOL | {"chunk": 512}}, "chunk 512"),
        ({"dtype": "bfloat16"}, "dtype bfloat16"),
        ({"prefix_id": 7}, "prefix id 7"),
        ({"device": "mps"}, "device mps"),
        (
            {"dataset": {"spec": "builtin:stdlib", "fingerprint": "f00d", "limit": 3}},
            "limit 3",
        ),
        (
            {"dataset": {"spec": "builtin:stdlib", "fingerprint": "0ther000more"}},
            "documents 0ther000",
        ),
    ],
)
def test_other_settings_make_another_table(
    tmp_path: Path, change: dict[str, Any], title: str
) -> None:
    runs = [
        store_run(tmp_path),
        store_run(tmp_path, "fwl"),
        store_run(tmp_path / "b", **change),
        store_run(tmp_path / "b", "fwl", 0.1, **change),
    ]
    first, second = summary_tables(runs)
    assert [row["method"] for row in first.rows] == ["none", "fwl"]
    assert second.title == f"smollm2-135m on builtin:stdlib · {title}"
    assert [row["delta_nats_per_token"] for row in summary_rows(runs)[::2]] == [None, None]
    assert summary_rows(runs)[1]["delta_nats_per_token"] == 0
    assert summary_rows(runs)[3]["delta_nats_per_token"] < 0


def test_other_models_and_datasets_are_named_in_the_title_alone(tmp_path: Path) -> None:
    runs = [
        store_run(tmp_path),
        store_run(tmp_path, model={"name": "tiny", "sha256": "99"}),
        store_run(tmp_path, dataset={"spec": "builtin:pydoc", "fingerprint": "1"}),
    ]
    assert [table.title for table in summary_tables(runs)] == [
        "smollm2-135m on builtin:stdlib",
        "tiny on builtin:stdlib",
        "smollm2-135m on builtin:pydoc",
    ]


def test_equal_specs_are_told_apart(tmp_path: Path) -> None:
    runs = [store_run(tmp_path, "fwl", seeds={"torch": seed}) for seed in (0, 1)]
    (table,) = summary_tables(runs)
    labels = [row["label"] for row in table.rows]
    assert len(set(labels)) == 2
    assert all(label.startswith("fwl (") for label in labels)


def test_random_weights_are_stamped_and_never_ranked(tmp_path: Path) -> None:
    model = {"name": "config:shape.json", "config_sha256": "ab", "random_weights": True}
    runs = [store_run(tmp_path, model=model), store_run(tmp_path, "fwl", 0.1, model=model)]
    (table,) = summary_tables(runs)
    assert any(note.startswith("RANDOM WEIGHTS") for note in table.notes)
    assert not any(table.is_best(column, row) for column in table.shown for row in table.rows)


def partial_notes(run: Run) -> list[str]:
    return [note for note in summary_tables([run])[0].notes if note.startswith("PARTIAL")]


def test_partial_runs_say_why(tmp_path: Path) -> None:
    limited = {"partial": True, "partial_reason": "--limit 4"}
    skipped = make_row(4, "skipped", reason="1 token; at least 2 are needed")
    run = store_run(
        tmp_path / "a", extra=(skipped,), summary=limited, dataset={"documents": 5, "spec": "x"}
    )
    assert partial_notes(run) == [
        "PARTIAL: --limit 4",
        "PARTIAL: 1 of 5 documents skipped (1 token; at least 2 are needed)",
    ]
    broken = store_run(
        tmp_path / "b",
        documents=2,
        summary={"status": "interrupted", "reason": "interrupted by the user"},
    )
    assert partial_notes(broken) == ["PARTIAL: interrupted by the user, 2 of 4 documents not read"]
    assert cells(summary_tables([broken])[0], "none")["perplexity"] != "—"
    assert partial_notes(store_run(tmp_path / "c")) == []


def test_an_unfinished_run_never_looks_finished(tmp_path: Path) -> None:
    dataset = {"documents": 4, "spec": "x", "limit": 4}
    with RunWriter.create(tmp_path, make_manifest(dataset=dataset)) as writer:
        pass
    run = load_run(writer.path)
    assert partial_notes(run) == [
        "PARTIAL: --limit 4",
        "PARTIAL: unfinished, 4 of 4 documents not read",
    ]
    assert cells(summary_tables([run])[0], "none")["perplexity"] == "unfinished"
    assert summary_rows([run])[0]["ranked"] is False


def test_a_diverged_document_keeps_a_run_out_of_the_ranking(tmp_path: Path) -> None:
    diverged = make_row(3, "diverged", reason="the loss of token 7 is nan")
    run = store_run(tmp_path, "fwl", 0.5, 3, (diverged,))
    row = summary_rows([run])[0]
    assert (row["status"], row["ranked"]) == ("complete", False)


def test_cost_notes(tmp_path: Path) -> None:
    summary = {
        "flops_agree": False,
        "flops_per_token_counted": 1e8,
        "offline_seconds": 75,
        "offline_flops": 1.2e15,
    }
    runs = [
        store_run(tmp_path),
        store_run(tmp_path, "fwl", summary=summary),
        store_run(tmp_path, "mine", summary={"flops_agree": None, "flops_note": "uses mv."}),
    ]
    notes = summary_tables(runs)[0].notes
    assert "fwl: FLOPs disagree: 270 M a token by formula, 100 M counted" in notes
    assert "fwl: trained offline once (1:15, 1.20 PFLOPs), not counted" in notes
    assert "mine: FLOPs: uses mv." in notes


def test_unknown_costs_are_dashes(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, make_manifest()) as writer:
        writer.append(make_row(0, nll=100.0, bytes=0, words=0))
        writer.finish({"status": "complete"})
    row = cells(summary_tables([load_run(writer.path)])[0], "none")
    assert row["perplexity"] == "2.72"
    assert {value for key, value in row.items() if key not in ("method", "perplexity")} == {"—"}


def test_peak_memory_is_the_allocators_on_cuda(tmp_path: Path) -> None:
    manifest = make_manifest()
    manifest["device"] = {"type": "cuda", "name": "NVIDIA H100"}
    with RunWriter.create(tmp_path, manifest) as writer:
        writer.append(make_row(0, nll=100.0))
        writer.finish({"status": "complete", "peak_allocated_bytes": 2**31})
    (table,) = summary_tables([load_run(writer.path)])
    (peak,) = [column for column in table.shown if column.title.startswith("peak")]
    assert peak.unit.replace("\u200b", "") == "GiB allocated"
    assert cells(table, "none")["peak_allocated_bytes"] == "2.00"
    assert any("cuda NVIDIA H100" in note for note in table.notes)


def test_infinite_perplexity_is_shown_and_json_stays_strict(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, make_manifest()) as writer:
        writer.append(make_row(0, nll=1e6))
        writer.finish({"status": "complete"})
    run = load_run(writer.path)
    assert cells(summary_tables([run])[0], "none")["perplexity"] == "∞"
    (row,) = summary_rows([run])
    assert (row["perplexity"], row["nll"]) == (None, 1e6)
    json.dumps(row, allow_nan=False)


def test_rows_as_json(group: list[Run]) -> None:
    rows = json.loads(json.dumps(summary_rows(group), allow_nan=False))
    row = rows[1]
    figures = quality(group[1].rows)
    assert figures is not None
    assert row["method"] == ADAM
    assert row["nll"] == figures.nll == math.fsum(d["nll"] for d in row["documents"])
    assert row["tokens"] == sum(document["tokens"] for document in row["documents"])
    assert row["macro_perplexity"] == figures.macro_perplexity
    assert row["delta_ci95"][0] < row["delta_nats_per_token"] < row["delta_ci95"][1]
    assert row["flops_x_none"] == 3.0
    assert row["documents"][0]["key"] == "doc0.py"


def test_csv_holds_raw_values_and_one_header(group: list[Run]) -> None:
    (table,) = summary_tables(group)
    text = table.to_csv() + table.to_csv(header=False)
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 8
    row, expected = lines[1], summary_rows(group)[1]
    assert row["method"] == ADAM
    assert float(row["perplexity"]) == expected["perplexity"]
    assert [float(row["delta_ci95_low"]), float(row["delta_ci95_high"])] == expected["delta_ci95"]
    assert lines[0]["delta_nats_per_token"] == ""
    assert len(table.columns) == len({column.key for column in table.columns})


def test_markdown_and_json_agree_with_the_table(group: list[Run]) -> None:
    (table,) = summary_tables(group)
    lines = table.to_markdown().splitlines()
    assert lines[0] == "**smollm2-135m on builtin:stdlib**"
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {9}
    assert sum(line.startswith("| ") for line in lines) == 2 + len(table.rows)
    whole = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert [row["method"] for row in whole["rows"]] == [run.spec for run in group]
    assert whole["notes"] == list(table.notes)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_terminals_of_any_width_show_every_cell(group: list[Run], width: int) -> None:
    (table,) = summary_tables(group)
    text = shown(table, width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    words = text.split()
    for row in table.rows:
        for column in table.shown:
            cell = joined(column.cell(row))
            for part in WORDS.split(cell) if column.left else cell.split():
                assert any(part in word for word in words), part
    if width == 80:  # a spec breaks between its parameters, not within one
        assert "optimizer=adam,lr=0.0001" in words


def test_text_of_others_cannot_steer_the_output() -> None:
    evil = "[red]a|b\x1b[31m\n\r*c*_\\$"
    columns = [Column("key", "key", left=True), Column("n", "n")]
    table = Table("t", columns, [{"key": evil, "n": 1}], [evil])
    text = shown(table)
    assert "[red]a|b\\x1b[31m\\n\\r*c*_\\$" in text
    assert "\x1b" not in text
    assert r"[red]a\|b\\x1b[31m\\n\\r\*c\*\_\\$".replace(r"\_", "_") in table.to_markdown()
    assert r"a|b\textbackslash{}x1b[31m" in table.to_latex()
    assert r"*c*\_\textbackslash{}\$" in table.to_latex()
    assert "\x1b" not in table.to_csv()
    assert len(list(csv.reader(io.StringIO(table.to_csv())))) == 2


def test_documents_have_a_table_each_run(group: list[Run]) -> None:
    table = document_tables(group)[3]
    assert table.title == "neural-cache"
    text = shown(table)
    assert "doc0.py" in text
    assert "out of memory" in text
    assert [row["status"] for row in table.rows] == ["done"] * 3 + ["oom"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (si(None), "—"),
        (si(0), "0"),
        (si(1.234e9), "1.23 G"),
        (si(12.34e12), "12.3 T"),
        (si(999.9e6), "1.00 G"),
        (si(270e6), "270 M"),
        (si(3e21), "3,000,000 P"),
        (si(12), "12.0"),
        (binary(None, 30), "—"),
        (binary(0, 20), "0"),
        (binary(4096, 20), "0.00391"),
        (binary(1536 * 2**20, 30), "1.50"),
        (fixed(None, 2), "—"),
        (fixed(1234.567, 2), "1,234.57"),
        (fixed(-0.05, 4, "+"), "-0.0500"),
        (fixed(math.inf, 2), "∞"),
        (fixed(1e30, 2), "1e+30"),
        (count(None), "—"),
        (count(12345.6), "12,346"),
        (count(7), "7"),
        (count(0.5), "0.5"),
        (duration(7), "0:07"),
        (duration(3723), "1:02:03"),
        (plain("a\tb\x9b"), "a\\tb\\x9b"),
    ],
)
def test_numbers_as_people_read_them(found: str, expected: str) -> None:
    assert found == expected
