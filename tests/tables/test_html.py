"""HTML tables stand by themselves, and LaTeX takes a caption."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from stored_runs import store_run

from tta_bench.store import Run
from tta_bench.tables import Column, Table, summary_tables

EVIL = "<script>\x1b[31m&\"'$%_"


class Reader(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def table(tmp_path: Path) -> Table:
    partial = {"partial": True, "partial_reason": "--limit 4"}
    runs: list[Run] = [
        store_run(tmp_path, summary=partial),
        store_run(tmp_path, "fwl", 0.1, summary=partial),
    ]
    return summary_tables(runs)[0]


def test_headings_of_columns_and_rows_are_announced(table: Table) -> None:
    page = Reader(table.to_html())
    scopes = [about.get("scope") for tag, about in page.tags if tag == "th"]
    assert scopes == ["col"] * len(table.shown) + ["row"] * len(table.rows)
    cells = sum(tag == "td" for tag, _ in page.tags)
    assert cells == len(table.rows) * (len(table.shown) - 1) + 1, "the last one holds the notes"
    assert f"<caption>{table.title}</caption>" in table.to_html()
    for row in table.rows:
        for column in table.shown:
            assert column.cell(row).replace("\u200b", "") in page.words
    assert all(note in page.words for note in table.notes)
    assert "<strong>" in table.to_html(), "the best value"


def test_it_needs_no_encoding_and_runs_nothing() -> None:
    evil = Table(EVIL, [Column("key", EVIL)], [{"key": EVIL}], [EVIL])
    page = evil.to_html()
    assert page.isascii()
    assert "\x1b" not in page
    assert {tag for tag, _ in Reader(page).tags}.isdisjoint({"script", "img", "style", "link"})
    assert Reader(page).words.count("<script>\\x1b[31m&\"'$%_") == 4
    assert EVIL[:8] not in Table("t", [Column("k", "k")], []).to_html(EVIL)


def test_a_caption_is_short_and_keeps_the_warnings(table: Table) -> None:
    text = table.to_latex("Loss on 50 % of it.")
    assert r"\caption{Loss on 50 \% of it. PARTIAL: -{}-limit 4.}" in text
    comments = [line for line in text.splitlines() if line.startswith("%")]
    assert comments == [f"% {line}" for line in (table.title, *table.notes)]
    whole = table.to_latex()
    assert "%" not in whole.replace(r"\%", ""), "without a caption there are no comments"
    assert "4 documents, 460 tokens" in whole
    assert "<caption>Loss</caption>" in table.to_html("Loss")


def test_a_comment_cannot_end_early() -> None:
    table = Table("t", [Column("k", "k")], [], ["one\n\\input{secret}"])
    assert "\n\\input" not in table.to_latex("c")
