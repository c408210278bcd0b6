"""docs/library.md: its code runs as written, and its tables name what there is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from in_memory import saved
from slow import slow

import tta_bench
from tta_bench import Results
from tta_bench.library.options import Options

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_option_is_in_the_table():
    (table,) = re.findall(r"\| \| keyword arguments \|\n(.*?)\n\n", PAGE, re.DOTALL)
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(Options.__annotations__)


def test_everything_of_results_is_in_the_table():
    shown = set(re.findall(r"`results\.(\w+)\b", PAGE))
    made = {name for name in vars(Results) if not name.startswith("_")} - {"tables", "folder"}
    assert made | {"runs"} == shown


def test_every_function_of_the_library_is_on_the_page():
    homes = {name for name, home in tta_bench._HOME.items() if home.startswith("library.")}
    assert all(f"tta_bench.{name}" in PAGE or f"`{name}`" in PAGE for name in homes)


@slow
def test_the_code_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As written, but a small model stands in for the one that has to be downloaded."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(BLOCKS).replace("HuggingFaceTB/SmolLM2-135M", str(saved(tmp_path / "small")))
    (tmp_path / "page.py").write_text(code)
    spec = importlib.util.spec_from_file_location("page_of_library", tmp_path / "page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "page_of_library", module)
    spec.loader.exec_module(module)
    assert len(module.results) == 2
    assert (tmp_path / "gain.png").stat().st_size > 10_000
    assert len(list((tmp_path / "results" / "mine").iterdir())) == 2
