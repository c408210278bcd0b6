"""The picture of methods by streams: the colour of a cell is the share of the attainable gain."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle_runs import store_oracle_run

from tta_bench.errors import DocumentError
from tta_bench.report import build_report
from tta_bench.report.content import Report
from tta_bench.report.grid import STRONGEST, Cell, Grid
from tta_bench.report.grid_png import GAIN, LOSS, drawn_grid
from tta_bench.report.page import page_of
from tta_bench.report.png import DPI, png_of, write_figures
from tta_bench.store import load_group

STREAMS = ("oracle:markov-1", "oracle:unigram")


def refuse(manifest: dict[str, Any]) -> Any:
    raise DocumentError("there is no network.")


def behind(nats: float, _index: int, known: np.ndarray, _learning: np.ndarray) -> np.ndarray:
    """Losses that are so much above the best reader's."""
    return known + nats


def report_on(folder: Path, *streams: str) -> Report:
    """Its runs are a frozen model 2 nats behind the best reader, a better method, and a worse."""
    for stream in streams:
        late = {"none": 2.0, "slot": 3.0, "ngram": 0.4 if stream == STREAMS[0] else 1.5}
        for method, nats in late.items():
            store_oracle_run(folder, method, partial(behind, nats), dataset=stream)
    return build_report(load_group(folder), reopen=refuse)


def grid_on(folder: Path, *streams: str) -> Grid:
    grid = report_on(folder, *streams).shares
    assert grid is not None
    return grid


def test_a_cell_is_the_share_of_its_stream(tmp_path: Path) -> None:
    grid = grid_on(tmp_path / "g", *STREAMS)
    assert grid.columns == ("markov-1", "unigram")
    assert grid.rows == ("ngram", "slot")  # from the one that learns most
    values = [[cell and cell.value for cell in line] for line in grid.cells]
    assert values == [pytest.approx([0.8, 0.25], abs=1e-6), pytest.approx([-0.5] * 2, abs=1e-6)]


def test_one_stream_has_no_picture_and_a_text_has_none(tmp_path: Path) -> None:
    report = report_on(tmp_path / "g", STREAMS[0])
    assert report.shares is None
    assert 'id="share-by-stream"' not in page_of(report)


def test_a_run_that_is_not_ranked_has_brackets_and_no_colour() -> None:
    assert Cell(0.5, None, None, True).strength == STRONGEST / 2
    cell = Cell(0.5, 0.4, 0.6, False)
    assert (cell.text, cell.strength) == ("(0.50)", 0)
    assert cell.hover == "0.500, 95 % interval 0.400 to 0.600"


def test_the_page_shows_it_without_scripts(tmp_path: Path) -> None:
    page = page_of(report_on(tmp_path / "g", *STREAMS))
    assert '<a href="#share-by-stream">Share of the attainable gain</a>' in page
    assert f'background:rgb(var(--gain) / {0.8 * STRONGEST:.3f})" title="0.800, 95' in page
    assert "background:rgb(var(--loss) / 0.37" in page
    assert page.index('id="share-by-stream"') < page.index('id="table"')


def test_the_colours_of_the_picture_are_those_of_the_page(tmp_path: Path) -> None:
    style = page_of(report_on(tmp_path / "g", *STREAMS))
    for name, colour in (("gain", GAIN), ("loss", LOSS)):
        assert f"--{name}: {' '.join(map(str, colour))};" in style


def test_a_file_is_written_of_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = report_on(tmp_path / "g", *STREAMS)
    files = write_figures(report, tmp_path / "png")
    assert files[0].name == "share-by-stream.png"
    assert files[0].read_bytes().startswith(b"\x89PNG")


def test_a_file_has_a_palette_and_the_drawing_s_colours(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image, ImageChops

    shares = report_on(tmp_path / "g", *STREAMS).shares
    assert shares is not None
    canvas, drawing = drawn_grid(shares), BytesIO()
    file = Image.open(BytesIO(png_of(canvas)))
    canvas.savefig(drawing, dpi=DPI, format="png")
    assert file.mode == "P"
    assert "date" not in str(file.info).lower()
    apart = ImageChops.difference(file.convert("RGB"), Image.open(drawing).convert("RGB"))
    assert max(high for _, high in apart.getextrema()) < 32


def test_a_cell_of_the_picture_has_the_colour_of_its_share() -> None:
    pytest.importorskip("matplotlib")
    cells = ((Cell(1.0, None, None, True), None), (Cell(-0.5, None, None, True),) * 2)
    canvas = drawn_grid(Grid("it", "It", "How.", ("a", "b"), ("x", "y"), cells))
    (axes,) = canvas.axes
    colours = axes.images[0].get_array().tolist()
    assert colours[0][0] == pytest.approx([1 - STRONGEST * (1 - part / 255) for part in GAIN])
    assert colours[0][1] == pytest.approx([1, 1, 1])
    assert colours[1][0] == pytest.approx([1 - STRONGEST / 2 * (1 - part / 255) for part in LOSS])
    assert [text.get_text() for text in axes.texts] == ["1.00", "—", "-0.50", "-0.50"]


def test_a_long_heading_has_room_over_its_column() -> None:
    pytest.importorskip("matplotlib")
    heads = ("recall:pairs=8", "recall:pairs=32")
    canvas = drawn_grid(Grid("it", "It", "How.", heads, ("x",), ((None, None),)))
    canvas.draw_without_rendering()
    first, second = (label.get_window_extent() for label in canvas.axes[0].get_xticklabels())
    assert first.x1 < second.x0
