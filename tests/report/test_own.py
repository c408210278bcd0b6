"""Figures that methods have of their own, in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stored_runs import COSTS, make_losses, make_manifest, make_row, store_run

from tta_bench.errors import DocumentError
from tta_bench.report import build_report
from tta_bench.report.own import own_figures, short_names
from tta_bench.report.page import page_of
from tta_bench.store import Row, RunWriter, load_group


def refuse(manifest: dict[str, Any]) -> Any:
    raise DocumentError("there is no network.")


def store_rows(group: Path, spec: str, *rows: Row) -> None:
    """A finished run of these documents."""
    with RunWriter.create(group, make_manifest(spec)) as writer:
        for row in rows:
            writer.append(row, make_losses(row.index, 0.2))
        writer.finish({"status": "complete", "reason": None} | COSTS)


def names_of(*blocks: int) -> list[str]:
    return [f"added/model.layers.{block}.mlp.down_proj" for block in blocks]


def test_what_is_added_to_each_projection_is_drawn_as_the_mean_over_documents(
    tmp_path: Path,
) -> None:
    zero, six = names_of(0, 6)
    store_run(tmp_path / "g", "none", 0.0, 3)
    store_rows(
        tmp_path / "g",
        "in-place-ttt",
        make_row(0, figures={zero: 0.1, six: 0.4}),
        make_row(1, figures={zero: 0.3, six: None}),  # it was not finite
        make_row(2),
    )
    report = build_report(load_group(tmp_path / "g"), reopen=refuse)
    (figure,) = [one for one in report.figures if one.name.startswith("own-")]
    assert (figure.name, figure.title) == ("own-added", "Of the methods themselves: added")
    assert figure.ticks == ("0", "6")
    assert figure.x_title == "model.layers.*.mlp.down_proj"
    (series,) = figure.series
    assert series.label == "in-place-ttt"
    assert series.y == pytest.approx((0.2, 0.4))
    assert series.hover[0][-1] == "210 tokens in 2 documents"
    assert 'data-figure="own-added"' in page_of(report)


def test_parts_of_stacks_and_single_figures_are_told_apart(tmp_path: Path) -> None:
    figures = {"in-place-ttt: added/a.b": 0.5, "steps": 3.0}
    store_rows(tmp_path / "g", "in-place-ttt", make_row(0, figures=figures))
    found = own_figures(load_group(tmp_path / "g"), {"in-place-ttt": 1})
    assert [(one.name, one.ticks) for one in found] == [
        ("own-in-place-ttt-added", ("a.b",)),
        ("own-steps", ("steps",)),
    ]


def test_methods_without_any_have_no_plot(tmp_path: Path) -> None:
    store_run(tmp_path / "g")
    assert own_figures(load_group(tmp_path / "g"), {"none": 0}) == []


def test_blocks_whose_numbers_begin_alike_keep_them() -> None:
    names = [name.removeprefix("added/") for name in names_of(10, 12)]
    assert short_names(names) == (["10", "12"], "model.layers.*.mlp.down_proj")
    assert short_names(["a.b", "c"]) == (["a.b", "c"], "name")
