"""The chapter of the report on the best possible reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle_runs import LENGTH, store_oracle_run
from stored_runs import store_run

from tta_bench.errors import DocumentError
from tta_bench.report import build_report
from tta_bench.report.page import page_of
from tta_bench.report.regret import cumulative
from tta_bench.store import load_group


def refuse(manifest: dict[str, Any]) -> Any:
    raise DocumentError("there is no network.")


def test_regret_is_drawn_against_both_readers(tmp_path: Path) -> None:
    store_oracle_run(tmp_path / "g", "none", lambda i, known, _: known + 2.0)
    store_oracle_run(tmp_path / "g", "ngram", lambda i, known, learning: learning)
    report = build_report(load_group(tmp_path / "g"), reopen=refuse)
    names = ["regret-by-position", "cumulative-regret-knowing", "cumulative-regret-learning"]
    figures = {figure.name: figure for figure in report.settings[0].regret}
    assert list(figures) == names
    assert set(names) <= {figure.name for figure in report.figures}
    curves = {
        (name, series.label): series.y
        for name, figure in figures.items()
        for series in figure.series
        if series.kind == "curve"
    }
    assert curves["regret-by-position", "none"] == pytest.approx([2.0] * 8, abs=1e-5)
    assert figures[names[1]].ticks[-1] == str(LENGTH)
    assert curves[names[1], "none"][-1] == pytest.approx(2.0 * LENGTH, rel=1e-5)
    assert curves[names[2], "ngram"] == pytest.approx([0.0] * 9, abs=1e-3)
    assert "nats/document" in figures[names[1]].series[0].hover[-1][2]
    page = page_of(report)
    assert "<h2>Best possible reader</h2>" in page
    assert '<a href="#regret">' in page


def test_there_is_no_such_chapter_on_texts(tmp_path: Path) -> None:
    store_run(tmp_path / "g")
    report = build_report(load_group(tmp_path / "g"), reopen=refuse)
    assert report.settings[0].regret == ()
    assert "Best possible reader" not in page_of(report)


def test_the_reason_stands_where_the_chapter_would(tmp_path: Path) -> None:
    store_oracle_run(tmp_path / "g", "none", lambda i, known, _: known + 2.0, sha256="f" * 64)
    report = build_report(load_group(tmp_path / "g"), reopen=refuse)
    assert report.settings[0].regret == ()
    assert any(text.startswith("No regret: document it/0") for text in report.left_out)


def test_a_cumulative_curve_ends_with_all_tokens() -> None:
    buckets = cumulative([np.ones(6), np.full(3, 2.0)], ["a", "b"])
    assert [bucket.low for bucket in buckets] == [1, 2, 4, 6]
    assert [bucket.estimate.value for bucket in buckets] == [1.5, 3.0, 4.0, 6.0]
    assert [bucket.estimate.documents for bucket in buckets] == [2, 2, 1, 1]
