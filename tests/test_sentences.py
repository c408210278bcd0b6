"""Sentences of the bench have no blank before a full stop, whatever they quote."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tta_bench.errors import BenchError, ModelError

ROOT = Path(__file__).parents[1]
FILES = sorted(file for top in ("tta_bench", "methods") for file in (ROOT / top).rglob("*.py"))
STRAY = re.compile(r"[\w'\")}\]] +[.,;:](?:\s|$)|(?<!\.)\.\.(?!\.)(?:\s|$)")


def texts(tree: ast.AST) -> list[str]:
    """The text of every string, with a word in place of what an f-string fills in.

    Docstrings, which hold formulas, are left out.
    """
    found = []
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, (ast.JoinedStr, ast.Expr))
        for part in ast.walk(node)
        if isinstance(part, ast.Constant)
        if isinstance(node, ast.JoinedStr) or part is node.value
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values]
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [] if id(node) in inside else [node.value]
    return found


@pytest.mark.parametrize("text", ["Read X .", "It is X , or Y.", "see 'X' .", "X.. "])
def test_what_is_looked_for(text: str) -> None:
    assert STRAY.search(text)


def test_no_sentence_has_a_blank_before_its_stop() -> None:
    stray = [
        f"{file.relative_to(ROOT)}: {text!r}"
        for file in FILES
        for text in texts(ast.parse(file.read_text(encoding="utf-8")))
        if " " in text.strip() and STRAY.search(text)
    ]
    assert stray == []


@pytest.mark.parametrize(
    ("quoted", "sentence"),
    [
        ("it cannot be loaded: from one of: .", "it cannot be loaded: from one of."),
        ("it cannot be read: no such file .", "it cannot be read: no such file."),
        ("it failed: see above..", "it failed: see above.."),
        ("choose one of a, b, ...", "choose one of a, b, ..."),
        ("give a file.", "give a file."),
    ],
)
def test_a_quoted_message_leaves_nothing_before_the_stop(quoted: str, sentence: str) -> None:
    assert str(ModelError(quoted)) == sentence
    assert str(BenchError(quoted)) == sentence
