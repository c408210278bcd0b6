"""Tables on terminals of any width: where text breaks, what is left out, and what is said of it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from tta_bench.format import BREAK
from tta_bench.tables import Column, Table
from tta_bench.tables.breaking import headline, longest_word, packed, wrapped


def printed(table: Table, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(cell_len, lines)) <= width
    return lines


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("dynamic-eval:subset=lora", 14, ["dynamic-eval:", "subset=lora"]),
        ("dynamic-eval:lr=0.001,subset=lora", 22, ["dynamic-eval:lr=0.001,", "subset=lora"]),
        ("eager loop, one document", 16, ["eager loop, one", "document"]),
        ("a longer word breaks", 6, ["a", "longer", "word", "breaks"]),
        ("read 1,024 of 16,384 tokens", 9, ["read", "1,024 of", "16,384", "tokens"]),
        ("lr=0.001,0.01", 9, ["lr=0.001,", "0.01"]),
        ("folder/file.txt", 10, ["folder/", "file.txt"]),
        ("http://host/page", 12, ["http://host/", "page"]),
        ("optimizer=adam", 10, ["optimizer=", "adam"]),
        ("supercalifragilistic", 8, ["supercal", "ifragili", "stic"]),
        ("漢字漢字", 4, ["漢字", "漢字"]),
        ("", 4, [""]),
    ],
)
def test_text_breaks_behind_separators_and_only_then_elsewhere(
    text: str, width: int, lines: list[str]
) -> None:
    assert wrapped(text, width).split("\n") == lines


def test_numbers_break_where_they_say_and_headings_at_blanks() -> None:
    assert packed(f"-0.1234 {BREAK}±0.0056", 8) == "-0.1234\n±0.0056"
    assert packed("8.71 M and more", 4) == "8.71 M and more"
    assert headline("FLOP/s\n% of matrix rate", 8) == "FLOP/s\n% of\nmatrix\nrate"
    assert headline(f"Δ nats/{BREAK}token {BREAK}vs none", 8) == "Δ nats/\ntoken\nvs none"
    assert longest_word("dynamic-eval:lr=0.1, more") == len("dynamic-eval:")


SPECS = ("none", "dynamic-eval:optimizer=adam,lr=0.0001", "neural-cache")


def wide(columns: int) -> Table:
    figures = [Column(f"n{i}", f"figure {i}", f"unit {i}") for i in range(columns)]
    rows = [{"m": spec, **{f"n{i}": 1234567 + i for i in range(columns)}} for spec in SPECS]
    return Table("wide", [Column("m", "method", left=True), *figures], rows, ["a note"])


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_what_does_not_fit_is_named(width: int) -> None:
    table = wide(14)
    lines = printed(table, width)
    text = "\n".join(lines)
    for part in ("dynamic-eval:", "optimizer=adam,", "lr=0.0001", "neural-cache"):
        assert part in text
    shown = [i for i in range(14) if f"{1234567 + i}" in text]
    assert shown == list(range(len(shown)))  # the last columns go first
    gone = ", ".join(f"figure {i} unit {i}" for i in range(14) if i not in shown)
    said = f"left out at {width} columns: {gone}; a wider terminal or JSON has them"
    assert (said in " ".join(text.split())) == bool(gone)


def test_a_terminal_wide_enough_breaks_and_leaves_out_nothing() -> None:
    lines = printed(wide(14), 10_000)
    assert not any("left out" in line for line in lines)
    assert sum(SPECS[1] in line for line in lines) == 1
    assert len(lines) == 2 + 2 + 1 + len(SPECS) + 2


def test_a_column_to_keep_stays_while_others_go() -> None:
    table = wide(14)
    kept = replace(table, columns=[*table.columns[:-1], replace(table.columns[-1], keep=True)])
    assert "1234580" in "\n".join(printed(kept, 60))
    assert "1234580" not in "\n".join(printed(table, 60))


def test_prose_gets_what_figures_leave() -> None:
    sentence = "A sentence that says, in 1,024 words, what was found."
    columns = [
        Column("probe", "probe", left=True),
        Column("n", "measured"),
        Column("s", "result", left=True),
    ]
    rows = [{"probe": "causality", "n": 3, "s": sentence * 3}]
    lines = printed(Table("t", columns, rows), 80)
    assert len(lines) < 10
    assert any("causality" in line and "A sentence that says" in line for line in lines)


def test_a_cell_may_have_a_style() -> None:
    column = Column("s", "status", left=True, style=lambda row: "red" if row["s"] == "f" else "")
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(Table("t", [column], [{"s": "f"}, {"s": "p"}]))
    assert console.file.getvalue().count("\x1b[31m") == 1  # type: ignore[attr-defined]


def test_a_table_without_rows_is_its_heading() -> None:
    assert any("method" in line for line in printed(replace(wide(2), rows=[]), 80))
