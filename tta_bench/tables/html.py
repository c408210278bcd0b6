"""A table as HTML that stands by itself: no style, no script, nothing to fetch."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from tta_bench.format import plain
from tta_bench.tables.column import Column, Values, joined


def html_table(
    columns: Sequence[Column],
    rows: Sequence[Values],
    is_best: Callable[[Column, Values], bool],
    caption: str,
    notes: Sequence[str],
) -> str:
    """The table with a caption and scopes, which screen readers read out, in ASCII alone.

    Args:
        columns: the columns to show; the first one heads its row.
        rows: raw values.
        is_best: whether a row holds the best value of a column.
        caption: what the table is of.
        notes: sentences for its foot.
    """
    heads = "".join(f'<th scope="col"{_side(c)}>{_text(_heading(c))}</th>' for c in columns)
    lines = ["<table>", f"<caption>{_text(caption)}</caption>", f"<thead><tr>{heads}</tr></thead>"]
    lines.append("<tbody>")
    for row in rows:
        cells = []
        for place, column in enumerate(columns):
            text = _text(joined(column.cell(row)))
            text = f"<strong>{text}</strong>" if is_best(column, row) else text
            tag, scope = ("td", "") if place else ("th", ' scope="row"')
            cells.append(f"<{tag}{scope}{_side(column)}>{text}</{tag}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</tbody>")
    if notes:
        foot = "<br>".join(map(_text, notes))
        lines.append(f'<tfoot><tr><td colspan="{len(columns)}">{foot}</td></tr></tfoot>')
    return "\n".join([*lines, "</table>"]) + "\n"


def _heading(column: Column) -> str:
    return joined(f"{column.title} ({column.unit})" if column.unit else column.title)


def _side(column: Column) -> str:
    return f' style="text-align: {"left" if column.left else "right"}"'


def _text(text: str) -> str:
    """Escaped, and with a reference for every character beyond ASCII: any encoding will do."""
    return html.escape(plain(text)).encode("ascii", "xmlcharrefreplace").decode()
