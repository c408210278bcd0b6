"""`--columns` takes headings, their beginnings, keys, and metrics that are not shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from stored_runs import make_row, store_run

from tta_bench.errors import UsageError
from tta_bench.store import Run
from tta_bench.tables import Table, summary_tables
from tta_bench.tables.choosing import metrics_in, names_of, with_columns
from tta_bench.tables.compare import compare_tables
from tta_bench.tables.slices import slice_tables
from tta_bench.tables.summary import require_columns


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    group = tmp_path_factory.mktemp("group")
    return [store_run(group), store_run(group, "fwl", 0.1), store_run(group, "ngram", 0.3)]


def heads(table: Table) -> list[str]:
    return [column.title.replace("\u200b", "") for column in table.shown]


def chosen(runs: list[Run], columns: str) -> list[str]:
    (table,) = compare_tables(runs, columns=names_of(columns))
    return heads(table)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("perplexity,bits/byte", ["method", "perplexity", "bits/byte"]),
        (" BITS/BYTE , Perplexity ", ["method", "bits/byte", "perplexity"]),
        ("perplexity,method", ["perplexity", "method"]),
        ("p,tier,perplexity r", ["method", "p", "tier", "perplexity ratio"]),
        ("Δ", ["method", "Δ nats/token vs none"]),
        ("d nats", ["method", "Δ nats/token vs none"]),
        ("delta_nats_per_token", ["method", "Δ nats/token vs none"]),
        ("flops x none,flops", ["method", "FLOPs × none", "FLOPs/token"]),
        ("word perplexity,Macro perplexity", ["method", "word perplexity", "macro perplexity"]),
        ("peak memory GiB process", ["method", "peak memory"]),
        ("documents done,valid", ["method", "documents done", "valid"]),
        ("perplexity,perplexity", ["method", "perplexity"]),
    ],
)
def test_a_column_by_any_of_its_names(columns: str, expected: list[str], runs: list[Run]) -> None:
    assert chosen(runs, columns) == expected


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("perplexty", "--columns 'perplexty' is no column; did you mean 'perplexity'? The table"),
        ("perp", "--columns 'perp' is more than one column: perplexity, perplexity ratio."),
        ("word perp", "did you mean 'word perplexity'? The table shows method, perplexity,"),
        ("beauty", "--columns 'beauty' is no column; the table shows method, perplexity,"),
        ("perplexity,", "--columns '' is no column; the table shows"),
        ("longppl-7", "'longppl-7' must end in a multiple of 4"),
    ],
)
def test_a_wrong_name_gets_the_headings_of_the_table(
    columns: str, sentence: str, runs: list[Run]
) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(runs, columns)
    assert sentence in str(caught.value)


def test_a_wrong_name_is_refused_before_anything_runs() -> None:
    require_columns(names_of("perplexity, Δ, flops, peak, word perplexity, status"))
    with pytest.raises(UsageError, match="did you mean 'tokens/s'"):
        require_columns(["token/s"])


def test_without_names_the_table_stays_as_it_is(runs: list[Run]) -> None:
    (table,) = summary_tables(runs)
    assert with_columns(table, names_of(None)) is table
    assert metrics_in([]) == []


def test_csv_and_json_have_what_was_chosen(runs: list[Run]) -> None:
    (table,) = compare_tables(runs, columns=["perplexity", "tier"])
    assert table.to_csv().splitlines()[0] == "method,perplexity,tier"
    whole = json.loads(json.dumps(table.to_json()))
    assert [set(row) for row in whole["rows"]] == [{"method", "perplexity", "tier"}] * 3
    assert [column["title"] for column in whole["columns"]] == ["method", "perplexity", "tier"]


def test_notes_are_about_what_is_shown(runs: list[Run]) -> None:
    (whole,) = compare_tables(runs)
    (few,) = compare_tables(runs, columns=["perplexity", "tier"])
    gone = [note for note in whole.notes if note not in few.notes]
    assert [note.split(":")[0] for note in gone] == ["Δ"]
    assert any(note.startswith("p:") for note in few.notes), "a tier is by that test"
    (fewer,) = compare_tables(runs, columns=["perplexity"])
    assert [n.split(":")[0] for n in whole.notes if n not in fewer.notes] == ["p", "tier", "Δ"]


def test_the_first_metric_says_why_a_run_has_no_numbers(tmp_path: Path) -> None:
    oom = make_row(3, "oom", reason="out of memory")
    failed = {"status": "oom", "reason": "out of memory"}
    runs = [store_run(tmp_path), store_run(tmp_path, "fwl", 0.1, 3, (oom,), failed)]
    (table,) = summary_tables(runs, columns=["flops", "bits/byte"])
    assert [column.cell(table.rows[1]) for column in table.shown] == ["fwl", "oom", "—"]


def test_missing_words_are_a_dash_and_a_note(tmp_path: Path) -> None:
    row = replace(make_row(4, nll=200.0), words=0)
    (table,) = summary_tables([store_run(tmp_path, extra=(row,))], columns=["word perplexity"])
    assert [column.cell(table.rows[0]) for column in table.shown] == ["none", "—"]
    assert any(note.startswith("no word perplexity") for note in table.notes)


def test_slices_keep_what_tells_rows_apart(runs: list[Run]) -> None:
    (table,) = slice_tables(runs, "document", columns=["word perplexity", "tokens"])
    assert heads(table) == ["document", "method", "word perplexity", "tokens"]
    assert table.shown[2].cell(table.rows[0]) not in ("—", "")
    with pytest.raises(UsageError, match="is no column"):
        slice_tables(runs, "document", columns=["tier"])
