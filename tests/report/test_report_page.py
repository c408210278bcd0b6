"""The page of a report in headless Chromium: it loads, sorts, filters, hovers, prints."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, Browser, browser

from tta_bench.evaluation.reopen import reopen
from tta_bench.report import build_report
from tta_bench.report.page import page_of
from tta_bench.store import load_group

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs Chromium and its driver (Debian: chromium, chromium-driver)",
)

ROWS = """
const table = document.querySelector("figure.table table");
return [...table.tBodies[0].rows].filter((row) => !row.hidden).map(
    (row) => row.cells[arguments[0]].textContent);
"""
GROUND = "return getComputedStyle(document.body).backgroundColor"
INK = "return getComputedStyle(document.querySelector('.canvas .xtick text')).fill"


@pytest.fixture(scope="module")
def page_file(hostile_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(
        page_of(build_report(load_group(hostile_runs), reopen=reopen)), encoding="utf-8"
    )
    return file


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(window: Browser, page_file: Path) -> Iterator[Browser]:
    """The page, freshly opened; nothing that a test does may leave an error in the console."""
    window.size(1280, 900)
    window.colour_scheme("light")
    window.open(page_file)
    yield window
    assert window.console() == []


def test_every_plot_is_drawn_and_nothing_is_fetched(page: Browser) -> None:
    drawn = page.run(
        "return [...document.querySelectorAll('.canvas')].map("
        "(canvas) => canvas.querySelectorAll('.trace').length)"
    )
    assert len(drawn) == 8
    assert all(drawn)
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    assert page.run("return window.planted === undefined")


def test_a_heading_sorts_and_sorts_back(page: Browser) -> None:
    heading = "figure.table th:nth-child(2) button"
    figures = sorted(page.run(ROWS, 1), key=float)
    page.point(heading, press=True)
    assert page.run(ROWS, 1) == figures
    page.point(heading, press=True)
    assert page.run(ROWS, 1) == figures[::-1]
    sorting = "return document.querySelector('figure.table th:nth-child(2)').ariaSort"
    assert page.run(sorting) == "descending"
    page.point("figure.table th:nth-child(4) button", press=True)
    assert page.run(ROWS, 3)[-1] == "—", "what is not known stands last"


def test_a_box_filters_rows(page: Browser) -> None:
    page.write("figure.table input", "neural")
    assert page.run(ROWS, 0) == ["neural-cache"]
    assert page.run("return document.querySelector('output').textContent") == "1 of 3"
    page.write("figure.table input", " cachet")
    assert page.run(ROWS, 0) == []


def test_a_point_tells_its_figures(page: Browser) -> None:
    page.point(".canvas[data-figure=quality-flops] .points path")
    label = "return document.querySelector('.canvas[data-figure=quality-flops] .hovertext')"
    text = page.run(f"{label}.textContent")
    assert text.startswith("none")
    assert "FLOPs/token" in text


def test_a_method_is_hidden_everywhere(page: Browser) -> None:
    shown = "return [...document.querySelectorAll('.canvas')].map((c) => c.data.filter("
    shown += "(trace) => trace.visible).length)"
    before = page.run(shown)
    page.point('.key[data-slot="1"]', press=True)
    assert all(after < number for after, number in zip(page.run(shown), before, strict=True))
    pressed = "return [...document.querySelectorAll('.key[data-slot=\"1\"]')].map("
    assert set(page.run(f"{pressed}(key) => key.ariaPressed)")) == {"false"}
    page.point('.key[data-slot="1"]', press=True)
    assert page.run(shown) == before


def test_excerpts_are_coloured_and_read_token_by_token(page: Browser) -> None:
    texts, colours = page.run(
        "const select = document.querySelector('.viewer select'); const found = [[], []];"
        "const text = document.querySelector('pre.text');"
        "for (const option of select.options) { select.value = option.value;"
        "select.dispatchEvent(new Event('change')); found[0].push(text.textContent);"
        "found[1].push(...[...text.children].map((span) => span.className)); } return found;"
    )
    assert any("<script>window.planted = 1</script>␛[31m\\u202eAll work" in text for text in texts)
    assert {"g0", "g1", "g4"} < set(colours)
    page.point("pre.text span:nth-child(3)")
    assert "loss" in page.run("return document.querySelector('.readout').textContent")


def test_a_dark_screen_has_a_dark_page_and_plots(page: Browser) -> None:
    light = page.run(GROUND), page.run(INK)
    page.colour_scheme("dark")
    assert page.run(GROUND) == "rgb(20, 23, 27)"
    assert light[0] == "rgb(255, 255, 255)"
    deadline = time.monotonic() + 10  # the plots are drawn again, in their own time
    while page.run(INK) == light[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_phone_scrolls_tables_in_their_boxes(page: Browser, page_file: Path) -> None:
    page.size(360, 740, phone=True)
    page.open(page_file)
    assert page.run("return document.documentElement.scrollWidth") <= 360
    box = "const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth"
    assert page.run(box)
    more = "return document.querySelector('figure.table').classList.contains('more')"
    deadline = time.monotonic() + 10  # an observer tells of the size in its own time
    while not page.run(more):
        assert time.monotonic() < deadline, "a table that is cut says that it scrolls"
        time.sleep(0.05)
    page.run("const box = document.querySelector('.scroll'); box.scrollLeft = box.scrollWidth")
    while page.run(more):
        assert time.monotonic() < deadline, "at the end there is no more"
        time.sleep(0.05)


def test_it_prints(page: Browser) -> None:
    page.colour_scheme("dark")
    printed = base64.b64decode(page.developer("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF")
    assert page.run("return document.documentElement.className") == ""


def test_the_page_could_not_fetch_if_it_tried(window: Browser, page_file: Path) -> None:
    window.open(page_file)
    answer = "return fetch('data:,x').then(() => 'fetched', () => 'refused')"
    assert window.run(answer) == "refused"
    assert any("Content Security Policy" in message for message in window.console())
