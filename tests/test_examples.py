"""The notebook runs as it is, and shows what a notebook shows."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from slow import slow

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_small_and_holds_no_output(notebook):
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 20_000
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not re.search(r"(?<![\w.)])/(?:home|root|work|tmp|usr|Users)\b", cell.source)


@slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [
        {kind: text for output in cell.outputs for kind, text in output.get("data", {}).items()}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    evaluated, frame, figure, curves, _, own = shown
    assert "<td" in evaluated["text/html"]
    assert "neural-cache" in evaluated["text/html"]
    assert "delta_ci95_low" in frame["text/html"]
    assert "image/png" in figure
    assert "gain_per_token" in curves["text/html"]
    assert "unigram" in own["text/html"]
    assert "NOT VALID" not in own["text/html"]
    said = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "neural-cache: complete, 2/2 documents" in said  # progress, without a terminal
    assert "\x1b" not in said
    assert {path.name for path in tmp_path.iterdir()} <= {"ipython"}  # nothing is left behind
