"""What a report shows, from stored runs; the page in a browser is tested beside this."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import ESCAPE, HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from slow import slow
from stored_runs import PROTOCOL, make_row, store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.errors import DocumentError, UsageError
from tta_bench.evaluation.reopen import reopen
from tta_bench.report import build_report
from tta_bench.report.costs import families
from tta_bench.report.curves import shortened
from tta_bench.report.excerpts import EXCERPT_TOKENS, excerpts_of, extremes
from tta_bench.report.gains import Gains, gains_of, losses_of
from tta_bench.report.markup import embedded, escaped, visible
from tta_bench.report.page import page_of
from tta_bench.report.palette import DARK, LIGHT, SYMBOLS, slots
from tta_bench.store import Run, find_runs, load_group
from tta_bench.tables.costs import front

RESULTS = Path(__file__).parents[2] / "results"
COSTS = ["quality-flops", "quality-time", "quality-state"]
POSITION = ["loss-by-position", "gain-by-position"]
TOKENS = ["gain-by-frequency", "gain-by-occurrence", "gain-by-distance"]


def report(*arguments: str | Path, results: Path = RESULTS) -> dict[str, Any]:
    """The JSON that the command prints."""
    command = ["report", *map(str, arguments), "--results", str(results), "--json"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def refuse(manifest: dict[str, Any]) -> Any:
    raise DocumentError("there is no network.")


@pytest.fixture
def group(tmp_path: Path) -> list[Run]:
    methods = (("none", 0.0), ("fwl", 0.1), ("neural-cache", -0.2))
    runs = []
    for place, (spec, gain) in enumerate(methods):
        costs = {"flops_per_token": 1e8 * (1 + place), "tokens_per_second": 1000 / (1 + place)}
        runs.append(store_run(tmp_path / "mine", spec, gain, documents=6, summary=costs))
    return runs


@slow
def test_everything_is_there_for_real_runs(hostile_runs: Path, tmp_path: Path) -> None:
    page, folder = tmp_path / "page.html", tmp_path / "figures"
    written = report(hostile_runs, "-o", page, "--png", folder)
    assert written["left_out"] == []
    assert [Path(file).stem for file in written["figures"]] == COSTS + POSITION + TOKENS
    assert all(Path(file).read_bytes().startswith(b"\x89PNG") for file in written["figures"])
    assert written["bytes"] == page.stat().st_size < 7e6
    text = page.read_text(encoding="utf-8")
    for part in ("Excerpts", "Documents", "Validity", "What the runs share", "gains most"):
        assert part in text
    assert ">passed<" in text


def test_nothing_that_a_run_brings_is_markup(hostile_runs: Path, tmp_path: Path) -> None:
    planted = store_run(tmp_path / "other", f"evil:name={HOSTILE}{ESCAPE}")
    page = page_of(build_report([*load_group(hostile_runs), planted], reopen=reopen))
    body = page[: page.index('<script type="application/json"')]
    data = page[len(body) : page.index("</script>", len(body))]
    assert "<script" not in body
    assert "<img" not in page
    assert data.count("<") == 1  # of the element itself
    assert "\x1b" not in body + data
    assert "\u202e" not in body + data
    assert "\\u202e" in body + data
    assert "&lt;script&gt;window.planted" in body
    assert r"\u003cscript\u003ewindow.planted" in data


def test_the_page_may_fetch_nothing(group: list[Run]) -> None:
    page = page_of(build_report(group, reopen=refuse))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1]
    body = page[: page.index("<script")]
    assert not re.search(r"""(src|href)=["'](?!#)""", body)
    assert page.count("<script>") == 2 == policy[1].count("sha256-")
    assert page.count("plotly.js v") == 1
    assert 'name="viewport"' in page
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page


def test_what_cannot_be_opened_again_is_said(group: list[Run]) -> None:
    content = build_report(group, reopen=refuse)
    assert [figure.name for figure in content.figures] == COSTS + POSITION
    assert content.left_out == ["No slices by token and no excerpts: there is no network."]
    assert "there is no network." in page_of(content)


def test_losses_that_were_not_published_are_missed_in_a_sentence(group: list[Run]) -> None:
    shutil.rmtree(group[1].path / "nll")
    content = build_report(group, reopen=refuse)
    assert "fwl has no curves" in content.left_out[0]
    curves = [series.label for series in content.figures[3].series]
    assert curves == ["none", "neural-cache"]
    shutil.rmtree(group[0].path / "nll")
    content = build_report(group, reopen=refuse)
    assert any("none has no losses here to compare with" in text for text in content.left_out)
    assert [figure.name for figure in content.figures] == [*COSTS, POSITION[0]]
    shutil.rmtree(group[2].path / "nll")
    content = build_report(group, reopen=refuse)
    assert [figure.name for figure in content.figures] == COSTS
    assert content.left_out[-1].startswith("No run has the losses of single tokens")
    assert content.left_out[-1] in page_of(content)


def test_no_sentence_names_the_folders_of_a_home(
    group: list[Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(group[1].path / "nll")
    content = build_report(group, reopen=refuse)
    assert f"mine/{group[1].path.name}/nll/00000.npz does not exist" in content.left_out[0]
    assert str(tmp_path) not in page_of(content)


def test_contexts_share_the_plots_of_cost(tmp_path: Path) -> None:
    written = report("smollm2-stdlib-gpu", "smollm2-stdlib-gpu-context-2x", "-o", tmp_path / "p")
    assert written["figures"] == []
    names = ("smollm2-stdlib-gpu", "smollm2-stdlib-gpu-context-2x", "smollm2-stdlib-gpu-cache")
    stored = [run for name in names for run in load_group(find_runs(name, RESULTS, published=True))]
    unjudged = build_report(stored, reopen=reopen).families[0]
    assert unjudged.figures == ()  # they were made before runs were judged, so none is ranked
    assert "since they are not ranked" in unjudged.left_out[0]
    runs = [replace(run, summary=run.summary | {"valid": True}) for run in stored]
    content = build_report(runs, reopen=reopen)
    (family,) = content.families
    assert len(family.settings) == 3
    flops = family.figures[0]
    points = next(s for s in flops.series if s.kind == "points" and s.label == "none")
    assert points.tags == ("", "1024", "3072 (cache)")
    assert points.hollow == (False, True, True)
    assert [lines[0] for lines in points.hover][1] == "none, context 1024"
    assert "dynamic-eval:optimizer=sgd,lr=0.03" in flops.caption  # it diverged, above the plot
    (stairs,) = (series for series in flops.series if series.kind == "front")
    assert list(stairs.x) == sorted(stairs.x)
    assert list(stairs.y) == sorted(stairs.y, reverse=True)
    page = page_of(content)
    assert "Context alone: <b>5.84</b> by <b>none</b> with context 1024, at ×2.17" in page


def test_other_models_and_chunks_have_plots_of_their_own(group: list[Run], tmp_path: Path) -> None:
    chunk = store_run(tmp_path / "other", protocol=PROTOCOL | {"chunk": 7})
    context = {"context": 64, "context_mode": "recompute"}
    longer = store_run(tmp_path / "third", protocol=PROTOCOL | context, documents=6)
    assert [len(family) for family in families([*group, chunk, longer])] == [4, 1]
    content = build_report([*group, chunk, longer], reopen=refuse)
    names = [figure.name for figure in content.figures]
    assert len(names) == len(set(names))
    assert "1-context-64-loss-by-position" in names
    assert [family.title.partition(" · ")[2] for family in content.families] == [
        "chunk 1024",
        "chunk 7",
    ]
    page = page_of(content)
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page
    assert any("fewer than two ranked runs" in text for text in content.left_out)


def test_runs_that_are_not_ranked_are_in_no_plot(group: list[Run], tmp_path: Path) -> None:
    broken = {"valid": False, "rules_broken": ["causality"]}
    bad = store_run(tmp_path / "mine", "cheat", 2.0, documents=6, summary=broken)
    content = build_report([*group, bad], reopen=refuse)
    assert all(series.label != "cheat" for series in content.figures[0].series)
    assert "cheat" in content.left_out[0]
    assert "NOT VALID: causality" in page_of(content)


FINDINGS = [
    {"check": "future", "status": "fail", "value": 0.4, "sentence": "token 31 changes by 0.4."},
    {"check": "again", "status": "pass", "value": 0.0, "sentence": "all losses came back."},
    {"check": "costs", "status": "skip", "value": None, "sentence": "no formula in flops()."},
]


def test_the_chapter_on_validity_shows_the_audit(group: list[Run], tmp_path: Path) -> None:
    audit = {"valid": False, "seconds": 3.21, "share": 0.061, "findings": FINDINGS}
    peeks = {
        "valid": False,
        "rules_broken": ["causality", "future"],
        "valid_reason": "future: token 31 changes by 0.4.",
        "audit": audit,
    }
    off = {"valid": None, "audit": None, "valid_reason": "it was not audited (--audit off)"}
    bad = store_run(tmp_path / "mine", "cheat", 2.0, documents=6, summary=peeks)
    unaudited = store_run(tmp_path / "mine", "mine", 0.1, documents=6, summary=off)
    content = build_report([*group, bad, unaudited], reopen=refuse)
    (setting,) = content.settings
    none, *_, cheat, mine = setting.validity.rows
    assert none["audit"] == "made before runs were audited"
    assert cheat["probes"] == "failed: causality"
    assert cheat["audit"] == "failed: future"
    assert cheat["audit_cost"] == "3.2 s, 6.1 % of the run"
    assert (mine["audit"], mine["probes"]) == ("not audited", "—")
    assert setting.audit is not None
    assert [(row["method"], row["check"], row["status"]) for row in setting.audit.rows] == [
        ("cheat", "future", "fail"),
        ("cheat", "again", "pass"),
        ("cheat", "costs", "skip"),
    ]
    page = page_of(content)
    for words in (
        *(finding["sentence"] for finding in FINDINGS),
        "NOT VALID: causality, future",
        "made before runs were audited",
        "3.2 s, 6.1 % of the run",
        "it was not audited (--audit off)",
    ):
        assert words in page
    cells = re.sub("<wbr>|<svg.*?</svg>", "", page)
    assert ">cheat (NOT VALID)<" in cells
    assert ">mine (not audited)<" in cells


def test_a_run_without_a_document_has_no_curve(group: list[Run], tmp_path: Path) -> None:
    bad = make_row(5, "diverged", reason="the loss of token 7 is nan")
    wild = store_run(tmp_path / "mine", "wild", 2.0, documents=5, extra=(bad,))
    content = build_report([*group, wild], reopen=refuse)
    assert all(series.label != "wild" for figure in content.figures for series in figure.series)
    lacks = "wild has no curves: it has done 5 of the 6 documents that other rows have."
    assert lacks in content.left_out


def test_without_a_reset_no_curve_has_a_band(tmp_path: Path) -> None:
    never = PROTOCOL | {"reset": "never"}
    runs = [
        store_run(tmp_path, spec, gain, documents=6, protocol=never)
        for spec, gain in (("none", 0.0), ("fwl", 0.1))
    ]
    content = build_report(runs, reopen=refuse)
    for figure in content.figures[-2:]:
        assert {end for series in figure.series for end in series.low} <= {None}


def test_another_baseline(group: list[Run]) -> None:
    content = build_report(group, "fwl", reopen=refuse)
    gain = content.figures[4]
    assert [series.label for series in gain.series] == ["none", "neural-cache"]
    assert "gain over fwl" in gain.y_title
    assert content.slots["fwl"] == 0
    with pytest.raises(UsageError, match="none of the runs' methods"):
        build_report(group, "nothing", reopen=refuse)


def test_one_document_has_no_bands(tmp_path: Path) -> None:
    runs = [store_run(tmp_path / "one", spec, documents=1) for spec in ("none", "fwl")]
    content = build_report(runs, reopen=refuse)
    assert set(content.figures[4].series[0].low) == {None}
    page_of(content)


def test_other_documents_are_not_paired(group: list[Run]) -> None:
    rows = tuple(replace(row, sha256="0" * 64) for row in group[1].rows)
    mixed = [group[0], replace(group[1], rows=rows), replace(group[2], rows=())]
    content = build_report(mixed, reopen=refuse)
    assert [figure.name for figure in content.figures[-2:]] == ["quality-state", POSITION[0]]
    assert any("another content in the baseline's run" in text for text in content.left_out)
    assert any("it has done no document" in text for text in content.left_out)


@pytest.mark.parametrize(
    ("module", "extra"), [("plotly", []), ("matplotlib", ["--png", "figures"])]
)
def test_a_missing_package_is_named(
    module: str, extra: list[str], group: list[Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        UsageError, match=rf"needs the package {module}; run `pip install .*report\]'`"
    ):
        report(group[0].path.parent, *extra)
    assert not list(tmp_path.glob("*.html")), "nothing is written where not all can be"


def test_help_loads_nothing_large() -> None:
    code = """
import sys
from typer.testing import CliRunner
from tta_bench.cli.main import app
result = CliRunner().invoke(app, ["report", "--help"])
assert result.exit_code == 0 and "--png" in result.output, result.output
large = {"torch", "transformers", "datasets", "pandas", "pyarrow", "plotly", "matplotlib", "numpy"}
assert not large & set(sys.modules), large & set(sys.modules)
"""
    environment = {"COLUMNS": "120", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()


def test_excerpts_show_the_strongest_stretch(hostile_runs: Path) -> None:

    runs = {run.spec: run for run in load_group(hostile_runs)}
    gains = gains_of(losses_of(runs["neural-cache"]), losses_of(runs["none"]))
    chosen = extremes(gains)
    assert [best for _, best in chosen] == [True, True, False, False]
    means = [gains.values[place].mean() for place, _ in chosen]
    assert means == sorted(means, reverse=True)
    for excerpt, (place, _) in zip(
        excerpts_of([gains], reopen(runs["none"].manifest)), chosen, strict=True
    ):
        assert len(excerpt.pieces) == len(excerpt.gains) == min(EXCERPT_TOKENS, excerpt.of)
        assert np.mean(excerpt.gains) == pytest.approx(gains.values[place].mean(), rel=1e-4)


class Texts:
    """Documents whose token i is the text `i `."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def pieces(self, indices: set[int]) -> Iterator[tuple[int, list[str]]]:
        return ((index, [f"{i} " for i in range(self.tokens)]) for index in indices)


@pytest.mark.parametrize("unscored", [0, 1])
def test_an_excerpt_knows_where_it_stands(unscored: int, group: list[Run]) -> None:
    tokens = 3 * EXCERPT_TOKENS
    values = np.zeros(tokens - unscored, dtype=np.float32)
    values[1500 - unscored] = 2.0  # the gain of the token 1500, counted from 0
    late = Gains(group[0], group[0].rows[:1], (values,), (values + 1,))
    (excerpt,) = excerpts_of([late], Texts(tokens))  # type: ignore[arg-type]
    place = excerpt.gains.index(2.0)
    assert excerpt.pieces[place] == "1500 "
    assert excerpt.first + place == 1501
    assert len(excerpt.pieces) == len(excerpt.gains) == len(excerpt.before) == EXCERPT_TOKENS

    short = Gains(group[0], group[0].rows[:1], (values[:50],), (values[:50] + 1,))
    (excerpt,) = excerpts_of([short], Texts(50 + unscored))  # type: ignore[arg-type]
    assert excerpt.first == 1
    assert len(excerpt.pieces) == 50 + unscored
    assert excerpt.gains[0] == (None if unscored else 0.0)


points = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(points)
def test_nothing_beats_the_front(costs: list[tuple[float, float]]) -> None:
    edge = [costs[place] for place in front(costs)]
    for cost, loss in costs:
        assert any(x <= cost and y <= loss for x, y in edge)
    for x, y in edge:
        assert not any((a < x and b <= y) or (a <= x and b < y) for a, b in costs)


def test_colours_and_markers_differ_for_many_methods(group: list[Run]) -> None:
    assert len(LIGHT) == len(DARK)
    assert np.gcd(len(LIGHT), len(SYMBOLS)) == 1
    assert slots(group, "none") == {"none": 0, "fwl": 1, "neural-cache": 2}
    assert slots(group[1:], "none") == {"fwl": 1, "neural-cache": 2}


def test_text_is_made_visible() -> None:
    assert visible("a\tb\nc é\xa0—") == "a\tb\nc é\xa0—"
    assert visible("\x1b[31m\r\x7f\u202e") == "␛[31m␍\\x7f\\u202e"
    assert escaped("<b>\x1b\"'") == "&lt;b&gt;\\x1b&quot;&#x27;"
    assert json.loads(embedded({"x": "</script>&<!--"})) == {"x": "</script>&<!--"}
    assert not set("<>&") & set(embedded("</script>&<!--"))
    assert [shortened(n) for n in (512, 1024, 3072, 1 << 20)] == ["512", "1k", "3k", "1M"]
