"""From text to HTML: whatever a run brings along is escaped, and cannot steer what shows it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from tta_bench.format import BREAK, plain
from tta_bench.report.palette import LIGHT, symbol
from tta_bench.tables.column import Column, Values
from tta_bench.tables.table import STAMPS, Table

_PATHS = {
    "circle": "M8 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "square": "M8.5 2.5h7v7h-7z",
    "diamond": "M12 1l5 5l-5 5l-5-5z",
    "triangle-up": "M12 1.5l5 8.5h-10z",
    "triangle-down": "M12 10.5l5-8.5h-10z",
    "pentagon": "M12 1.5l4.8 3.5l-1.8 5.6h-6l-1.8-5.6z",
    "star": "M12 .5l1.5 3.6l3.9.3l-3 2.5l1 3.8l-3.4-2l-3.4 2l1-3.8l-3-2.5l3.9-.3z",
    "cross": "M10.4 1.5h3.2v2.9h2.9v3.2h-2.9v2.9h-3.2v-2.9h-2.9v-3.2h2.9z",
    "hexagon": "M12 1.2l4.2 2.4v4.8l-4.2 2.4l-4.2-2.4v-4.8z",
}


def escaped(text: object) -> str:
    """HTML text of one line; control characters are written out, quotes escaped."""
    return html.escape(plain(str(text)))


def visible(text: str) -> str:
    """A document's text with nothing in it that is not seen, lines and tabs excepted.

    Controls show as their picture (`␛`); marks that turn the direction of writing, as their code.
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    # Spaces other than the plain one are no printable characters to Python; U+00A0 is the first.
    space = character.isspace() and character >= "\xa0"
    if character in "\n\t" or character.isprintable() or space:
        return character
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    return character.encode("unicode_escape").decode()


def embedded(value: Any) -> str:
    """JSON for a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def swatch(slot: int) -> str:
    """The colour and marker of a method."""
    path = _PATHS[symbol(slot)]
    return (
        f'<svg class="swatch m{slot_class(slot)}" viewBox="0 0 24 12" aria-hidden="true">'
        f'<path class="line" d="M0 6h24"/><path d="{path}"/></svg>'
    )


def slot_class(slot: int) -> int:
    """The number in the name of a slot's colour (`--m3`)."""
    return slot % len(LIGHT)


def table_html(table: Table, slots: Mapping[str, int], title: bool = True) -> str:
    """The table with headings to sort by, a box to filter rows with, and its notes."""
    name = escaped(table.title)
    head = "".join(_heading(column) for column in table.shown)
    body = "".join(
        f"<tr>{''.join(_cell(table, column, row, slots) for column in table.shown)}</tr>"
        for row in table.rows
    )
    notes = "".join(f"<li{_stamp(note)}>{_code(escaped(note))}</li>" for note in table.notes)
    caption = f"<figcaption>{name}</figcaption>" if title else ""
    return (
        f'<figure class="table">{caption}'
        f'<p class="filter"><input type="search" placeholder="Filter rows" '
        f'aria-label="Filter rows of {name}"><output></output></p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</figure>"
    )


def _heading(column: Column) -> str:
    title = "<wbr>".join(map(escaped, column.title.split(BREAK)))
    unit = f"<small>{escaped(column.unit.replace(BREAK, ''))}</small>" if column.unit else ""
    side = "" if column.left else ' class="number"'
    return (
        f'<th scope="col" aria-sort="none"{side}><button type="button">{title}{unit}</button></th>'
    )


def _cell(table: Table, column: Column, row: Values, slots: Mapping[str, int]) -> str:
    joint = "<wbr>" if column.left else ""  # a number never breaks
    text = joint.join(map(html.escape, column.cell(row).split(BREAK)))
    if table.is_best(column, row):
        text = f"<strong>{text}</strong>"
    if column.key == "method" and row.get("method") in slots:
        text = f"{swatch(slots[row['method']])}{text}"
    side = "text" if column.left else "number"
    return f'<td class="{side}" data-value="{_value(row.get(column.key))}">{text}</td>'


def _value(value: Any) -> str:
    """What a cell sorts by; empty for what is not known, which stands last."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else escaped(value)


def _stamp(note: str) -> str:
    return ' class="stamp"' if note.startswith(STAMPS) else ""


def _code(text: str) -> str:
    """`code` as it is written in notes."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return text
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
