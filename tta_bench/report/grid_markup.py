"""A grid as HTML: a table whose cells are coloured, readable without scripts."""

from __future__ import annotations

from collections.abc import Mapping

from tta_bench.report.grid import Cell, Grid, text_of
from tta_bench.report.markup import escaped, swatch


def grid_html(grid: Grid, slots: Mapping[str, int]) -> str:
    """The grid as a section of the page.

    Args:
        grid: what to show.
        slots: the place of each method in the palette.
    """
    heads = "".join(f'<th scope="col">{escaped(name)}</th>' for name in grid.columns)
    lines = zip(grid.rows, grid.cells, strict=True)
    body = "".join(
        f'<tr><th scope="row">{swatch(slots[method])}{escaped(method)}</th>'
        f"{''.join(map(_cell, cells))}</tr>"
        for method, cells in lines
    )
    return (
        f'<section id="{escaped(grid.name)}"><h2>{escaped(grid.title)}</h2>'
        f'<p class="intro">{escaped(grid.caption)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(grid.title)}">'
        f'<table class="grid"><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>'
        "</div></section>"
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return f"<td>{text_of(cell)}</td>"
    colour = f"rgb(var(--{'gain' if cell.value >= 0 else 'loss'}) / {cell.strength:.3f})"
    return f'<td style="background:{colour}" title="{escaped(cell.hover)}">{text_of(cell)}</td>'
