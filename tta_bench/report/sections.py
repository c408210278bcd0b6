"""The sections of the page: a family of settings, and what is shown of each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tta_bench.report.content import Family, Report, Setting
from tta_bench.report.costs import FRONT_NOTE
from tta_bench.report.curves import BAND_NOTE
from tta_bench.report.drift import DRIFT_NOTE
from tta_bench.report.figure import Figure
from tta_bench.report.markup import escaped, swatch, table_html
from tta_bench.report.notes import manifest_text
from tta_bench.report.recall import RECALL_NOTE
from tta_bench.report.regret import REGRET_NOTE
from tta_bench.report.tuning import TUNING_NOTE

OPEN_ROWS = 40
"""A table of documents with at most this many rows is open at first."""
_RAMP = ("l4", "l3", "l2", "l1", "g0", "g1", "g2", "g3", "g4")


def family_html(family: Family, report: Report, numbers: Mapping[int, int]) -> str:
    """All sections of a family.

    Args:
        family: what to show.
        report: the report it belongs to.
        numbers: the place of each setting in the page, by its `id`.
    """
    first = min(numbers[id(setting)] for setting in family.settings)
    several = len(family.settings) > 1
    tables = "".join(
        table_html(setting.summary, report.slots, title=setting.title != report.title)
        for setting in family.settings
    )
    title = f'<h2 class="family">{escaped(family.title)}</h2>' if family.title else ""
    parts = [
        title,
        f"<section{_anchor('table', first)}><h2>Table</h2>{tables}</section>",
        f"<section{_anchor('cost', first)}><h2>Quality and cost</h2>"
        f"{_intro(FRONT_NOTE) if family.figures else ''}"
        f"{_legend(family.figures, report)}{_plots(family.figures)}"
        f"{_sentences(family.left_out)}</section>",
    ]
    for setting in family.settings:
        number = numbers[id(setting)]
        if several:
            heading = f'<h2 class="setting" id="setting-{number}">{escaped(setting.title)}</h2>'
            parts.append(heading)
        parts.append(_setting(setting, report, number))
    return "".join(parts)


def _setting(setting: Setting, report: Report, number: int) -> str:
    parts = []
    if setting.figures or setting.left_out:
        parts.append(
            f"<section{_anchor('curves', number)}><h2>Position and slices</h2>"
            f"{_intro(BAND_NOTE) if setting.figures else ''}"
            f"{_legend(setting.figures, report)}{_plots(setting.figures)}"
            f"{_sentences(setting.left_out)}</section>"
        )
    if setting.regret:
        parts.append(
            f"<section{_anchor('regret', number)}><h2>Best possible reader</h2>"
            f"{_intro(REGRET_NOTE)}{_legend(setting.regret, report)}{_plots(setting.regret)}"
            "</section>"
        )
    if setting.recall:
        parts.append(
            f"<section{_anchor('recall', number)}><h2>Answers by lag</h2>"
            f"{_intro(RECALL_NOTE)}{_legend(setting.recall, report)}{_plots(setting.recall)}"
            "</section>"
        )
    if setting.drift:
        parts.append(
            f"<section{_anchor('drift', number)}><h2>Over the stream</h2>"
            f"{_intro(DRIFT_NOTE)}{_legend(setting.drift, report)}{_plots(setting.drift)}</section>"
        )
    if setting.tuned:
        told = "".join(map(_intro, setting.tuned))
        parts.append(
            f"<section{_anchor('tuning', number)}><h2>Tuning</h2>"
            f"{_intro(TUNING_NOTE) if setting.tuning else ''}{told}"
            f"{_legend(setting.tuning, report)}{_plots(setting.tuning)}</section>"
        )
    if setting.excerpts:
        parts.append(_viewer(setting, report, number))
    audit = table_html(setting.audit, report.slots) if setting.audit else ""
    shown = " open" if len(setting.documents.rows) <= OPEN_ROWS else ""
    manifests = "".join(
        f"<details><summary>{swatch(report.slots[run.spec])}{escaped(run.spec)}</summary>"
        f'<pre class="manifest">{_escaped_lines(manifest_text(run))}</pre></details>'
        for run in setting.runs
    )
    parts += [
        f"<section{_anchor('documents', number)}><h2>Documents</h2><details{shown}>"
        f"<summary>A row for each document and method</summary>"
        f"{table_html(setting.documents, report.slots, title=False)}</details></section>",
        f"<section{_anchor('validity', number)}><h2>Validity</h2>"
        f"{table_html(setting.validity, report.slots, title=False)}{audit}</section>",
        f"<section{_anchor('manifest', number)}><h2>Manifest</h2><details>"
        f"<summary>{escaped(setting.manifest.title)}</summary>"
        f"{table_html(setting.manifest, report.slots, title=False)}</details>{manifests}</section>",
    ]
    return "".join(parts)


def _intro(text: str) -> str:
    return f'<p class="intro">{escaped(text)}</p>'


def _anchor(name: str, number: int) -> str:
    return f' id="{name}"' if number == 0 else f' id="{name}-{number}"'


def _legend(figures: Sequence[Figure], report: Report) -> str:
    """The methods in the figures below; pressing a name hides the method in every figure."""
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
        + (f"<figcaption>{escaped(figure.caption)}</figcaption>" if figure.caption else "")
        + "</figure>"
        for figure in figures
    )
    script = '<noscript><p class="missing">The plots need JavaScript.</p></noscript>'
    return f'<div class="plots">{plots}</div>{script}' if plots else ""


def _sentences(sentences: Sequence[str]) -> str:
    return "".join(f'<p class="missing">{escaped(text)}</p>' for text in sentences)


def _viewer(setting: Setting, report: Report, number: int) -> str:
    groups = []
    for spec in dict.fromkeys(excerpt.spec for excerpt in setting.excerpts):
        options = "".join(
            f'<option value="{place}">{excerpt.rank}: {escaped(excerpt.document)} '
            f"({excerpt.gain:+.3f})</option>"
            for place, excerpt in enumerate(setting.excerpts)
            if excerpt.spec == spec
        )
        groups.append(f'<optgroup label="{escaped(spec)}">{options}</optgroup>')
    baseline = escaped(report.baseline)
    ramp = "".join(f'<span class="{step}">&nbsp;</span>' for step in _RAMP)
    return (
        f"<section{_anchor('excerpts', number)}><h2>Excerpts</h2>"
        f'<p class="intro">Where each method gains and loses most against {baseline}, in nats per '
        "token. Blue tokens were predicted better than by the baseline, orange ones worse.</p>"
        f'<div class="viewer" data-setting="{number}"><p class="choice">'
        f'<select aria-label="Method and document">{"".join(groups)}</select>'
        f'<span class="ramp"><span>worse</span>{ramp}<span>better</span></span></p>'
        '<p class="meta"></p><pre class="text" tabindex="0"></pre>'
        '<p class="readout" aria-live="polite">Point at a token, or touch it.</p></div></section>'
    )


def _escaped_lines(text: str) -> str:
    """HTML of text whose line ends stay."""
    return "\n".join(escaped(line) for line in text.split("\n"))
