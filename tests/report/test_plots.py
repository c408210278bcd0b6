"""Axes and ranges of the plots, and what a report leaves out for want of documents."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import make_manifest, store_run

from tta_bench.errors import DocumentError
from tta_bench.report import build_report
from tta_bench.report.axes import Scale, axes_of
from tta_bench.report.curves import position_figure
from tta_bench.report.gains import Gains
from tta_bench.report.page import page_of
from tta_bench.report.png import write_figures
from tta_bench.report.reach import crowd, near
from tta_bench.store import Run, RunWriter, load_run


def refuse(manifest: dict[str, Any]) -> Any:
    raise DocumentError("there is no network.")


def test_a_plot_reaches_to_the_last_of_the_crowd() -> None:
    assert near([1.0, 1.1, 1.2, 9.0]) == 1.2
    assert near([1.0, 1.1, 1.2]) == 1.2
    assert near([1.0, 9.0]) == 9.0
    assert near([1.0, 1.0, 9.0]) == 9.0
    assert near([1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 9.0, 10.0]) == 1.3, "nor do two of them"
    assert near([1.0, 1.1, 9.0], least=8.0) == 9.0


def test_the_crowd_of_a_curve_has_no_wild_points() -> None:
    rising = [0.01 * step for step in range(40)]
    assert crowd(rising) == (0.0, rising[-1])
    assert crowd([*rising, -3.0, 5.0]) == (0.0, rising[-1])
    half = [*rising, *(-2.0 - value for value in rising)]
    assert crowd(half) == (min(half), max(half)), "a method that is bad everywhere is in the plot"
    assert crowd([0.0, 0.0, 0.0, 0.0, 1.0]) == (0.0, 1.0)
    assert crowd([]) == (0.0, 1.0)


def test_a_wild_point_is_an_arrow_at_the_edge(tmp_path: Path) -> None:
    runs = [store_run(tmp_path / "mine", spec, documents=2) for spec in ("none", "fwl")]
    gains = []
    for run in runs:
        values = [np.linspace(0.0, 0.3, row.tokens, dtype=np.float32) for row in run.rows]
        if run.spec == "fwl":
            for vector in values:
                vector[0] = -9.0  # the first position
        gains.append(Gains(run, run.rows, tuple(values), tuple(values)))
    figure = position_figure(gains, {"none": 0, "fwl": 1}, "none")
    low, high = figure.y_range
    assert -0.3 < low < 0 < 0.2 < high < 0.6
    (arrow,) = (series for series in figure.series if series.kind == "below")
    assert (arrow.label, arrow.x, arrow.y) == ("fwl", (0.0,), (low,))
    assert any("-9.0" in line for line in arrow.hover[0])
    assert figure.caption.endswith("Arrows, beyond the plot: fwl at 1 (-9.00).")
    curve = next(series for series in figure.series if series.label == "fwl")
    assert curve.y[0] == pytest.approx(-9), "the line itself is whole"


@pytest.mark.parametrize(
    ("fastest", "unit", "shown"), [(0.5, "s", 2.0), (250.0, "ms", 4.0), (20_000.0, "µs", 50.0)]
)
def test_time_is_in_a_unit_and_not_in_prefixes(fastest: float, unit: str, shown: float) -> None:
    rows = [{"tokens_per_second": fastest / n, "device": "cpu"} for n in (1, 3)]
    _, time, _ = axes_of(rows)
    assert time.x_title == f"time per token, {unit}"
    assert not time.prefixes
    assert time.of(rows[0]) == pytest.approx(shown)
    assert f"{fastest:,.0f} tokens/s" in time.text(shown)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_memory_that_a_method_needs_is_shown(device: str, tmp_path: Path) -> None:
    runs = []
    for place, spec in enumerate(("none", "fwl", "dynamic-eval")):
        costs = {
            "state_bytes_per_lane": (0, 2**21, 2**27)[place],
            "peak_allocated_bytes": 2**30 if device == "cuda" else None,
        }
        runs.append(store_run(tmp_path / "mine", spec, device=device, summary=costs))
    content = build_report(runs, reopen=refuse)
    names = [figure.name for figure in content.families[0].figures]
    memory = ["quality-memory"] if device == "cuda" else []
    assert names == ["quality-flops", "quality-time", "quality-state", *memory]
    state = content.families[0].figures[2]
    assert state.x_title == "adaptation state per lane, MiB"
    points = {series.label: series.x[0] for series in state.series if series.kind == "points"}
    assert points == {"none": 0.1, "fwl": 2.0, "dynamic-eval": 128.0}
    assert state.x_ticks[:2] == ((0.1, "0"), (1.0, "1")), "0 has a place on a logarithmic axis"
    assert len(write_figures(content, tmp_path)) == len(content.figures)
    assert page_of(content)


def test_no_state_at_all_is_a_plain_axis() -> None:
    assert Scale.of([0.0, 0.0]) == Scale(log=False)
    assert Scale.of([0.0, 1.0, 2.0]) == Scale(log=False)
    assert Scale.of([1.0, 20.0]) == Scale(log=True)


def test_an_axis_of_costs_leaves_out_what_would_squash_the_rest(tmp_path: Path) -> None:
    assert Scale.of([1.0, 2.0, 3.0, 80.0]) == Scale(log=True), "a logarithmic axis has room"
    assert Scale.of([1.0, 2.0, 3.0, 9e4]) == Scale(log=False, end=3.75)
    assert Scale.of([1.0, 5.0, 20.0, 9e6]) == Scale(log=True, end=25.0)
    assert Scale.of([0.0, 1.0, 2.0, 9e4]) == Scale(log=False, end=2.5)
    runs = []
    for spec, flops in (("none", 1e9), ("fwl", 1.5e9), ("ngram", 2e9), ("tint", 9e14)):
        runs.append(store_run(tmp_path / "mine", spec, summary={"flops_per_token": flops}))
    content = build_report(runs, reopen=refuse)
    figure = content.families[0].figures[0]
    assert figure.x_range == pytest.approx((0.0, 2.5e9))
    assert figure.caption == "Right of the plot: tint (900 TFLOPs/token)."
    points = {series.label: series.x[0] for series in figure.series if series.kind == "points"}
    assert points["tint"] == 9e14, "zooming out shows it"
    assert all(other.x_range is None for other in content.families[0].figures[1:])
    assert len(write_figures(content, tmp_path)) == len(content.figures)


def test_a_dataset_that_has_not_begun_is_a_sentence(tmp_path: Path) -> None:
    runs: list[Run] = [store_run(tmp_path / "mine", spec) for spec in ("none", "fwl")]
    other = {"spec": "builtin:pydoc", "fingerprint": "beef", "documents": 4}
    with RunWriter.create(tmp_path / "mine", make_manifest("none", dataset=other)) as writer:
        pass
    runs.insert(0, load_run(writer.path))
    content = build_report(runs, reopen=refuse)
    said = "smollm2-135m on builtin:pydoc has no document that is done: none (unfinished)."
    assert content.unfinished == (said,)
    assert content.left_out[0] == said
    assert len(content.families) == 1
    page = page_of(content)
    assert said in page
    assert page.count("<h2>Documents</h2>") == 1
    (only,) = build_report(runs[:1], reopen=refuse).families
    assert len(only.left_out) == 2, "one sentence for all plots that have too few runs"


def test_a_table_that_is_cut_says_so() -> None:
    parts = resources.files("tta_bench").joinpath("data", "report")
    assert "more columns" in parts.joinpath("page.css").read_text(encoding="utf-8")
    assert 'classList.toggle("more"' in parts.joinpath("page.js").read_text(encoding="utf-8")
