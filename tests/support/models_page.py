"""Writes the tables of docs/models.md: `python tests/support/models_page.py` from the checkout."""

from __future__ import annotations

import re
from pathlib import Path

import transformers
from architectures import ARCHITECTURES, NOT_BUILT, tiny_net
from readings import COLUMNS, outcomes

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_VERSION = re.compile(r"transformers (\d+\.\d+\.\d+)")
_TABLE = re.compile(r"\| architecture \|.*?(?=\n\n)", re.DOTALL)
_UNBUILT = re.compile(r"\| not built \|.*?(?=\n\n|\n?\Z)", re.DOTALL)


def version() -> str:
    """The version of transformers whose architectures the page lists."""
    found = _VERSION.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def rows() -> dict[str, dict[str, str]]:
    """The cells that the page gives each architecture, by column."""
    found = _TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    cells = [_cells(line) for line in found[0].splitlines()[2:]]
    return {name: dict(zip(COLUMNS, rest, strict=True)) for name, *rest in cells}


def not_built() -> dict[str, str]:
    """The reasons that the page gives for what was not built."""
    found = _UNBUILT.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    return {row[0]: row[1] for row in map(_cells, found[0].splitlines()[2:])}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _table(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Reads every architecture, which takes minutes, and puts what was found into the page."""
    body = [[k, *outcomes(tiny_net(k)).values()] for k in ARCHITECTURES if k not in NOT_BUILT]
    unbuilt = [[kind, why] for kind, why in NOT_BUILT.items()]
    text = PAGE.read_text(encoding="utf-8")
    text = _VERSION.sub(f"transformers {transformers.__version__}", text)
    text = _TABLE.sub(lambda _: _table(["architecture", *COLUMNS], body), text)
    text = _UNBUILT.sub(lambda _: _table(["not built", "why"], unbuilt), text)
    PAGE.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
