"""Labels of methods: paths cut to what tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_runs import store_run

from tta_bench.tables import labels_of, summary_rows, summary_tables
from tta_bench.tables.compare import compare_tables
from tta_bench.tables.slices import slice_tables
from tta_bench.tables.terminal import grid

LONG = "/data/experiments/2031/runs/slow/best.safetensors"


@pytest.mark.parametrize(
    ("specs", "labels"),
    [
        ([f"fwl:weights={LONG}", "none"], ["fwl:weights=…/best.safetensors", "none"]),
        ([f"fwl:weights={LONG},step=0"], ["fwl:weights=…/best.safetensors,step=0"]),
        (
            ["fwl:weights=results/a/w.safetensors", "fwl:weights=results/b/w.safetensors"],
            ["fwl:weights=…/a/w.safetensors", "fwl:weights=…/b/w.safetensors"],
        ),
        (["fwl:weights=a/b", "fwl:weights=a/b"], ["fwl:weights=a/b"] * 2),
        (
            ["fwl:weights=control", "window:context=256"],
            ["fwl:weights=control", "window:context=256"],
        ),
        (["fwl:weights=x/same", "fwl:weights=same"], ["fwl:weights=x/same", "fwl:weights=same"]),
        ([], []),
    ],
)
def test_paths_keep_what_tells_them_apart(specs: list[str], labels: list[str]) -> None:
    assert labels_of(specs) == labels


def test_tables_and_notes_show_labels_and_json_the_specs(tmp_path: Path) -> None:
    spec = f"fwl:weights={LONG}"
    costs = {"offline_seconds": 75, "offline_flops": 1.2e15}
    runs = [store_run(tmp_path), store_run(tmp_path, spec, 0.1, summary=costs)]
    (table,) = summary_tables(runs)
    label = "fwl:weights=…/best.safetensors"
    assert label in table.to_markdown()
    assert LONG not in table.to_markdown()
    assert any(note.startswith(f"{label}: trained offline once") for note in table.notes)
    assert [row["method"] for row in summary_rows(runs)] == ["none", spec]
    assert spec in table.to_csv()


def test_a_baseline_with_a_path_is_found_and_called_by_its_label(tmp_path: Path) -> None:
    specs = [f"fwl:weights=results/train/{name}/weights.safetensors" for name in ("a", "control")]
    runs = [store_run(tmp_path), *(store_run(tmp_path, spec, 0.1) for spec in specs)]
    (table,) = compare_tables(runs, specs[1])
    (by_document,) = slice_tables(runs, "document", specs[1])
    label = "fwl:weights=…/control/weights.safetensors"
    for text in (table.to_markdown(), by_document.to_markdown()):
        assert f"vs {label}" in text
        assert specs[1] not in text
    assert not any("not run under this protocol" in note for note in table.notes)
    columns = [column for column in table.columns if column.title]
    _, left_out = grid(columns, table.rows, table.is_best, 80)
    assert not any("Δ" in note or " p," in note for note in left_out)
