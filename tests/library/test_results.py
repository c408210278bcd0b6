"""`Results`: tables, frames, curves and figures of runs, in a terminal and in a notebook."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from stored_runs import make_losses, store_run

from tta_bench import Results, load_results
from tta_bench.errors import UsageError
from tta_bench.library.results import CURVES
from tta_bench.store.frame import COLUMNS
from tta_bench.tables import summary_tables


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    group = tmp_path_factory.mktemp("runs") / "mine"
    return Results([store_run(group), store_run(group, "neural-cache:<b>=1", gain=0.1)])


def test_the_table_is_that_of_the_command(results: Results, monkeypatch: pytest.MonkeyPatch):
    (table,) = summary_tables(results.runs)
    monkeypatch.setenv("COLUMNS", "160")
    console = Console(width=160, no_color=True)
    with console.capture() as capture:
        console.print(table)
    shown = results.table()
    assert repr(shown) == str(results)
    assert str(results).split() == capture.get().split()
    assert repr(results) == (
        "<Results: 2 runs of smollm2-135m on builtin:stdlib; .table() shows them>"
    )


def test_a_notebook_gets_html_in_which_nothing_is_markup_of_a_run(results: Results):
    for html in (results._repr_html_(), results.table()._repr_html_()):
        assert html.count("<tr>") == 3
        assert "neural-cache:&lt;b&gt;=1" in html
        assert "<b>" not in html
        assert "<strong>" in html


def test_a_baseline_can_be_chosen(results: Results, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "160")
    frame = results.frame(baseline="neural-cache:<b>=1")
    assert frame["delta_nats_per_token"][0] > 0
    assert "vs neural-cache" in str(results.table("neural-cache:<b>=1"))
    with pytest.raises(UsageError):
        results.plot("gain-by-frequency")


def test_a_row_of_the_frame_is_a_method(results: Results):
    frame = results.frame()
    (table,) = summary_tables(results.runs)
    assert list(frame.columns) == [column.key for column in table.columns]
    assert list(frame["method"]) == [run.spec for run in results.runs]
    lost = sum(make_losses(index, 0.1).sum(dtype=np.float64) for index in range(4))
    assert frame["nll"][1] == pytest.approx(lost)
    assert frame["perplexity"][1] == pytest.approx(np.exp(lost / frame["tokens"][1]))
    assert frame["delta_ci95_low"][1] < frame["delta_nats_per_token"][1] < 0


def test_a_row_of_the_documents_is_a_document_of_a_method(results: Results):
    frame = results.documents()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 8
    assert frame.equals(load_results(results.folder).sort_values("created", kind="stable")) or set(
        frame["key"]
    ) == set(load_results(results.folder)["key"])


def test_curves_hold_losses_and_gains_by_position(results: Results):
    frame = results.curves()
    assert list(frame.columns) == list(CURVES)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == CURVES
    none, cache = (frame[frame["method"] == run.spec] for run in results.runs)
    vectors = [make_losses(index) for index in range(4)]
    assert none["tokens"].sum() == sum(map(len, vectors))
    assert list(none["first"])[:4] == [1, 2, 4, 8]
    assert list(none["last"])[:3] == [1, 3, 7]
    second = np.mean([vector[1:3] for vector in vectors], dtype=np.float64)
    assert none["nll_per_token"].iloc[1] == pytest.approx(second, rel=1e-6)
    assert none["gain_per_token"].isna().all()
    gains = [0.1 * (1 + 0.1 * index) for index in range(4)]
    assert cache["gain_per_token"].iloc[0] == pytest.approx(np.mean(gains), rel=1e-5)
    assert (cache["gain_ci95_low"] < cache["gain_per_token"]).all()
    assert (cache["gain_per_token"] < cache["gain_ci95_high"]).all()


def test_curves_of_one_document_have_no_intervals(tmp_path: Path):
    frame = Results([store_run(tmp_path, documents=1)]).curves()
    assert frame["nll_ci95_low"].isna().all()
    assert frame["nll_per_token"].notna().all()


def test_a_plot_is_a_figure_that_a_notebook_shows(results: Results):
    figure = results.plot()
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert figure.axes[0].get_title(loc="left") == "Gain by position in the document"
    assert results.figures()[:2] == ["loss-by-position", "gain-by-position"]
    with pytest.raises(UsageError, match=r"no figure 'x' here; there are: loss-by-position, gain"):
        results.plot("x")
    alone = Results(results.runs[:1])
    assert alone.plot().axes[0].get_title(loc="left") == "Loss by position in the document"


def test_without_matplotlib_a_sentence_says_how_to_get_it(results: Results, monkeypatch):
    monkeypatch.setattr("tta_bench.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^plot needs the package matplotlib; run `pip install"):
        results.plot()


def test_saved_runs_are_the_same_and_never_overwrite(results: Results, tmp_path: Path):
    target = results.save(tmp_path / "kept")
    for run in results.runs:
        for file in run.path.rglob("*.*"):
            if file.is_file() and file.name != ".lock":
                copy = target / run.path.name / file.relative_to(run.path)
                assert copy.read_bytes() == file.read_bytes()
    with pytest.raises(UsageError, match=r"already holds none-\w+; choose another folder."):
        results.save(target)


def test_nothing_of_it_needs_ipython(results: Results, monkeypatch):
    found = builtins.__import__

    def imported(name, *rest):
        assert name.partition(".")[0] not in ("IPython", "ipywidgets"), name
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", imported)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert results._repr_html_()
    assert str(results)
