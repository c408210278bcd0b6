"""The page: one file that needs nothing else, and may not fetch anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from tta_bench.extras import require
from tta_bench.report.content import Report
from tta_bench.report.excerpts import Excerpt, scale_of
from tta_bench.report.figure import Figure
from tta_bench.report.grid_markup import grid_html
from tta_bench.report.headline import headline_of
from tta_bench.report.markup import embedded, escaped, slot_class, visible
from tta_bench.report.palette import DARK, LIGHT, symbol, tag_above
from tta_bench.report.sections import family_html
from tta_bench.version import __version__


def page_of(report: Report) -> str:
    """The whole page as HTML.

    Raises:
        UsageError: plotly is not installed.
    """
    require("plotly", extra="report", what="the report")
    from plotly.offline import get_plotlyjs

    scripts = [_lines(get_plotlyjs()), _file("page.js")]
    settings = report.settings
    data = {
        "figures": {figure.name: _figure_data(figure) for figure in report.figures},
        "excerpts": [[_excerpt_data(one) for one in setting.excerpts] for setting in settings],
        "scale": scale_of([one for setting in settings for one in setting.excerpts]),
        "baseline": visible(report.baseline),
    }
    numbers = {id(setting): number for number, setting in enumerate(settings)}
    body = "".join(family_html(family, report, numbers) for family in report.families)
    shares = "" if report.shares is None else grid_html(report.shares, report.slots)
    title = escaped(report.title)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{title} · tta-bench</title>",
            f"<style>{_colours()}{_file('page.css')}</style>",
            "</head>",
            "<body>",
            _header(report),
            f"<main>{shares}{body}</main>",
            f"<footer>Made with tta-bench {escaped(__version__)} from stored runs. "
            "Nothing is fetched when this page is opened.</footer>",
            f'<script type="application/json" id="data">{embedded(data)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def _file(name: str) -> str:
    file = resources.files("tta_bench") / "data" / "report" / name
    return _lines(file.read_text(encoding="utf-8"))


def _lines(text: str) -> str:
    """Line ends as a browser reads them, which the hash of a script is taken of."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _policy(scripts: Sequence[str]) -> str:
    """These scripts and no other run; nothing is fetched, nothing sent."""
    hashes = []
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        hashes.append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; script-src {' '.join(hashes)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _colours() -> str:
    light, dark = (
        "".join(f"--m{place}:{colour};" for place, colour in enumerate(colours))
        for colours in (LIGHT, DARK)
    )
    classes = "".join(f".m{place}{{--c:var(--m{place})}}" for place in range(len(LIGHT)))
    # Paper is white, whatever the screen is.
    return (
        f":root{{{light}}}@media screen and (prefers-color-scheme:dark)"
        f"{{:root:not(.paper){{{dark}}}}}{classes}"
    )


def _header(report: Report) -> str:
    settings = report.settings
    lines = [*headline_of(report), *map(escaped, settings[0].summary.notes[:2])]
    if len(settings) > 1:  # the protocol stands under each table
        lines.pop()
    headline = "".join(f"<p>{line}</p>" for line in lines)
    missing = "".join(f'<p class="missing">{escaped(text)}</p>' for text in report.unfinished)
    links = [] if report.shares is None else [(report.shares.name, report.shares.title)]
    links += [("table", "Table"), ("cost", "Quality and cost")]
    if any(setting.figures for setting in settings):
        links.append(("curves", "Position and slices"))
    if any(setting.regret for setting in settings):
        links.append(("regret", "Best possible reader"))
    if any(setting.drift for setting in settings):
        links.append(("drift", "Over the stream"))
    if any(setting.tuned for setting in settings):
        links.append(("tuning", "Tuning"))
    if any(setting.excerpts for setting in settings):
        links.append(("excerpts", "Excerpts"))
    links += [("documents", "Documents"), ("validity", "Validity"), ("manifest", "Manifest")]
    number = 0
    for family in report.families:
        for setting in family.settings:
            if len(family.settings) > 1 and number > 0:
                links.append((f"setting-{number}", setting.title))
            elif family.title and number > 0:
                links.append((f"table-{number}", family.title))
            number += 1
    navigation = "".join(f'<a href="#{target}">{escaped(name)}</a>' for target, name in links)
    return (
        f'<header><p class="kicker">tta-bench report</p><h1>{escaped(report.title)}</h1>'
        f'<div class="headline">{headline}</div>{missing}'
        f'<nav aria-label="Sections">{navigation}</nav></header>'
    )


def _figure_data(figure: Figure) -> dict[str, Any]:
    data = asdict(figure)
    for series in data["series"]:
        series["label"] = visible(series["label"])
        series["symbol"] = symbol(series["slot"])
        series["tag_place"] = "top center" if tag_above(series["slot"]) else "bottom center"
        series["colour"] = slot_class(series["slot"])
        series["hover"] = [[visible(line) for line in lines] for lines in series["hover"]]
    return data


def _excerpt_data(excerpt: Excerpt) -> dict[str, Any]:
    data = excerpt.to_dict()
    for name in ("spec", "document"):
        data[name] = visible(data[name])
    return data | {"pieces": [visible(piece) for piece in excerpt.pieces]}
