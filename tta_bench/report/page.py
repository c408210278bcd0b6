"""The page: one file that needs nothing else, and may not fetch anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

import tta_bench
from tta_bench.errors import UsageError
from tta_bench.report.build import Chapter, Family, Report
from tta_bench.report.figure import Figure
from tta_bench.report.markup import embedded, escaped, slot_class, swatch, table_html, visible
from tta_bench.report.notes import manifest_text
from tta_bench.report.palette import DARK, LIGHT, symbol
from tta_bench.report.texts import Excerpt, scale_of
from tta_bench.tables.format import fixed
from tta_bench.tables.summary import baseline_of

OPEN_ROWS = 40
"""A table of documents of up to so many rows is open at first."""


def page_of(report: Report) -> str:
    """The whole page as HTML.

    Raises:
        UsageError: plotly is not installed.
    """
    scripts = [_plotly(), _file("page.js")]
    chapters = [chapter for family in report.families for chapter in family.chapters]
    data = {
        "figures": {figure.name: _figure_data(figure) for figure in report.figures},
        "excerpts": [[_excerpt_data(one) for one in chapter.excerpts] for chapter in chapters],
        "scale": scale_of([one for chapter in chapters for one in chapter.excerpts]),
        "baseline": visible(report.baseline),
    }
    numbers = {id(chapter): number for number, chapter in enumerate(chapters)}
    body = "".join(_family(family, report, numbers) for family in report.families)
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
            f"<main>{body}</main>",
            f"<footer>Made with tta-bench {escaped(tta_bench.__version__)} from stored runs. "
            "Nothing is fetched when this page is opened.</footer>",
            f'<script type="application/json" id="data">{embedded(data)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UsageError(
            "the report needs the package plotly; run pip install 'tta-bench[report]'."
        ) from error
    return _lines(get_plotlyjs())


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
    chapters = [chapter for family in report.families for chapter in family.chapters]
    lead = "".join(f"<p>{line}</p>" for line in _lead(report, chapters[0]))
    links = [("table", "Table"), ("cost", "Quality and cost")]
    if any(chapter.figures for chapter in chapters):
        links.append(("curves", "Position and slices"))
    if any(chapter.excerpts for chapter in chapters):
        links.append(("texts", "Texts"))
    links += [("documents", "Documents"), ("validity", "Validity"), ("manifest", "Manifest")]
    navigation = "".join(f'<a href="#{target}">{name}</a>' for target, name in links)
    return (
        f'<header><p class="kicker">tta-bench report</p><h1>{escaped(report.title)}</h1>'
        f'<div class="lead">{lead}</div><nav aria-label="Sections">{navigation}</nav></header>'
    )


def _lead(report: Report, chapter: Chapter) -> list[str]:
    """The lowest perplexity of the first table, and what the table is of."""
    lines = [escaped(note) for note in chapter.summary.notes[:2]]
    ranked = [row for row in chapter.summary.rows if row["ranked"] and row["perplexity"]]
    run = baseline_of(chapter.runs, report.baseline)
    base = next(
        (row for row in ranked if run is not None and row["key"] == run.manifest["key"]), None
    )
    if base is None or len(ranked) < 2:
        return lines
    best = min(ranked, key=lambda row: row["perplexity"])
    if best is base:
        return [f"No method has a lower perplexity than <b>{escaped(base['method'])}</b>.", *lines]
    ratio = best["flops_per_token"] and base["flops_per_token"]
    cost = (
        f", at ×{fixed(best['flops_per_token'] / base['flops_per_token'], 2)} its FLOPs"
        if ratio
        else ""
    )
    first = (
        f"Lowest perplexity: <b>{escaped(best['method'])}</b> with "
        f"<b>{fixed(best['perplexity'], 2)}</b>; {escaped(base['method'])} has "
        f"{fixed(base['perplexity'], 2)}{cost}."
    )
    return [first, *lines]


def _family(family: Family, report: Report, numbers: Mapping[int, int]) -> str:
    first = min(numbers[id(chapter)] for chapter in family.chapters)
    several = len(family.chapters) > 1
    tables = "".join(table_html(chapter.summary, report.slots) for chapter in family.chapters)
    title = f"<h2 class='family'>{escaped(family.title)}</h2>" if family.title else ""
    parts = [
        title,
        f"<section{_anchor('table', first)}><h2>Table</h2>{tables}</section>",
        f"<section{_anchor('cost', first)}><h2>Quality and cost</h2>"
        f"{_legend(family.figures, report)}{_plots(family.figures)}{_sentences(family.left_out)}"
        "</section>",
    ]
    for chapter in family.chapters:
        number = numbers[id(chapter)]
        if several:
            parts.append(f"<h2 class='chapter'>{escaped(chapter.title)}</h2>")
        parts.append(_chapter(chapter, report, number))
    return "".join(parts)


def _chapter(chapter: Chapter, report: Report, number: int) -> str:
    parts = []
    if chapter.figures or chapter.left_out:
        parts.append(
            f"<section{_anchor('curves', number)}><h2>Position and slices</h2>"
            f"{_legend(chapter.figures, report)}{_plots(chapter.figures)}"
            f"{_sentences(chapter.left_out)}</section>"
        )
    if chapter.excerpts:
        parts.append(_viewer(chapter, report, number))
    shown = " open" if len(chapter.documents.rows) <= OPEN_ROWS else ""
    manifests = "".join(
        f"<details><summary>{swatch(report.slots[run.spec])}{escaped(run.spec)}</summary>"
        f'<pre class="manifest">{_block(manifest_text(run))}</pre></details>'
        for run in chapter.runs
    )
    parts += [
        f"<section{_anchor('documents', number)}><h2>Documents</h2><details{shown}>"
        f"<summary>A row for each document and method</summary>"
        f"{table_html(chapter.documents, report.slots, title=False)}</details></section>",
        f"<section{_anchor('validity', number)}><h2>Validity</h2>"
        f"{table_html(chapter.validity, report.slots, title=False)}</section>",
        f"<section{_anchor('manifest', number)}><h2>Manifest</h2><details>"
        f"<summary>{escaped(chapter.manifest.title)}</summary>"
        f"{table_html(chapter.manifest, report.slots, title=False)}</details>{manifests}</section>",
    ]
    return "".join(parts)


def _anchor(name: str, number: int) -> str:
    return f' id="{name}"' if number == 0 else f' id="{name}-{number}"'


def _legend(figures: Sequence[Figure], report: Report) -> str:
    """The methods of the figures below it; pressing one hides it in every figure."""
    names = dict.fromkeys(
        series.label for figure in figures for series in figure.series if series.kind != "front"
    )
    keys = "".join(
        f'<button type="button" class="key" data-slot="{report.slots[name]}" aria-pressed="true">'
        f"{swatch(report.slots[name])}{escaped(name)}</button>"
        for name in sorted(names, key=lambda name: report.slots[name])
    )
    return (
        f'<div class="legend" role="group" aria-label="Methods shown">{keys}</div>' if keys else ""
    )


def _plots(figures: Sequence[Figure]) -> str:
    plots = "".join(
        f'<figure class="plot"><h3>{escaped(figure.title)}</h3>'
        f'<div class="canvas" data-figure="{escaped(figure.name)}" role="img" '
        f'aria-label="{escaped(figure.title)}"></div>'
        f"<figcaption>{escaped(figure.caption)}</figcaption></figure>"
        for figure in figures
    )
    script = "<noscript><p class='missing'>The plots need JavaScript.</p></noscript>"
    return f'<div class="plots">{plots}</div>{script}' if plots else ""


def _sentences(sentences: Sequence[str]) -> str:
    return "".join(f'<p class="missing">{escaped(text)}</p>' for text in sentences)


def _viewer(chapter: Chapter, report: Report, number: int) -> str:
    groups = []
    for spec in dict.fromkeys(excerpt.spec for excerpt in chapter.excerpts):
        options = "".join(
            f'<option value="{place}">{excerpt.rank}: {escaped(excerpt.document)} '
            f"({excerpt.gain:+.3f})</option>"
            for place, excerpt in enumerate(chapter.excerpts)
            if excerpt.spec == spec
        )
        groups.append(f'<optgroup label="{escaped(spec)}">{options}</optgroup>')
    baseline = escaped(report.baseline)
    ramp = "".join(f'<span class="{step}">&nbsp;</span>' for step in _RAMP)
    return (
        f"<section{_anchor('texts', number)}><h2>Texts</h2>"
        f"<p>Where each method gains and loses most against {baseline}, in nats per token. "
        "Blue tokens were predicted better than by the baseline, orange ones worse.</p>"
        f'<div class="viewer" data-chapter="{number}"><p class="choice">'
        f'<select aria-label="Method and document">{"".join(groups)}</select>'
        f'<span class="ramp"><span>worse</span>{ramp}<span>better</span></span></p>'
        '<p class="meta"></p><pre class="text" tabindex="0"></pre>'
        '<p class="readout" aria-live="polite">Point at a token, or touch it.</p></div></section>'
    )


_RAMP = ("l4", "l3", "l2", "l1", "g0", "g1", "g2", "g3", "g4")


def _block(text: str) -> str:
    """Text of several lines."""
    return escaped_lines(text)


def escaped_lines(text: str) -> str:
    """HTML of text whose line ends stay."""
    return "\n".join(escaped(line) for line in text.split("\n"))


def _figure_data(figure: Figure) -> dict[str, Any]:
    data = asdict(figure)
    for series in data["series"]:
        series["label"] = visible(series["label"])
        series["symbol"] = symbol(series["slot"])
        series["colour"] = slot_class(series["slot"])
        series["hover"] = [[visible(line) for line in lines] for lines in series["hover"]]
    return data


def _excerpt_data(excerpt: Excerpt) -> dict[str, Any]:
    data = excerpt.to_dict()
    for name in ("spec", "document"):
        data[name] = visible(data[name])
    return data | {"pieces": [visible(piece) for piece in excerpt.pieces]}
