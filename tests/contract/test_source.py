"""The identity of a method's source: what it covers, and that nothing else moves it."""

import sys
from pathlib import Path

import pytest

from tta_bench.contract import registry
from tta_bench.contract.modules import parsed
from tta_bench.contract.source import imported_names, source_files, source_hash

PLUGIN = """
from tta_bench import Method, SlowWeights, register
import beside_it
@register("mine")
class Mine(Method):
    def score(self, window):
        from inner_of_it import deep
        return self.model.logits(window)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A plugin's class and its folder; what lies beside it is forgotten afterwards."""
    monkeypatch.setattr(registry, "_plugin_files", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "beside_it.py").write_text("import torch\nfrom further_of_it import x\n")
    (tmp_path / "further_of_it.py").write_text("x = 1\n")
    (tmp_path / "unused_of_it.py").write_text("y = 1\n")
    (tmp_path / "inner_of_it").mkdir()
    (tmp_path / "inner_of_it" / "__init__.py").write_text('"""Nothing."""\n')
    (tmp_path / "inner_of_it" / "deep.py").write_text("from . import deeper\n")
    (tmp_path / "inner_of_it" / "deeper.py").write_text("")
    registry.add_plugin(tmp_path / "mine.py")
    yield registry.load("mine"), tmp_path
    for name in ("beside_it", "further_of_it"):
        sys.modules.pop(name)


@pytest.mark.parametrize("name", ["fwl", "dynamic-eval"])
def test_the_source_of_a_method_covers_what_it_imports(name):
    cls = registry.load(name)
    package = cls.__module__.rpartition(".")[0]
    folder = Path(sys.modules[cls.__module__].__file__).parent
    own = {file.stem for file in folder.glob("*.py")} - {"__init__", "untrained"}
    found = set(source_files(cls))
    assert len(own) >= 4
    assert {part for part in found if not part.startswith("tta_bench.heads")} == {
        f"{package}.{part}" for part in own
    }
    heads = {part for part in found if part.startswith("tta_bench.heads")}
    assert bool(heads) == (name == "fwl")


def test_a_plugin_is_what_it_imports_from_its_own_folder(plugin):
    cls, folder = plugin
    found = source_files(cls)
    assert {name for name in found if not name.startswith("tta_bench.heads")} == {
        "mine",
        "beside_it",
        "further_of_it",
        "inner_of_it.deep",
        "inner_of_it.deeper",
    }
    assert "tta_bench.heads.slow_weights" in found
    before = source_hash(cls)
    (folder / "unused_of_it.py").write_text("y = 2\n")
    assert source_hash(cls) == before
    for name in ("further_of_it.py", "inner_of_it/deeper.py", "inner_of_it/__init__.py"):
        (folder / name).write_text("x = 2\n")
        assert source_hash(cls) != before, name
        before = source_hash(cls)


def test_the_same_plugin_elsewhere_is_the_same(plugin, tmp_path_factory):
    cls, folder = plugin
    before = source_hash(cls)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    folder.rename(elsewhere)
    registry._plugin_files.clear()
    registry.add_plugin(elsewhere / "mine.py")
    moved = registry.load("mine")
    assert moved is not cls
    assert source_hash(moved) == before


def test_an_import_from_the_public_heads_counts_as_one_from_where_it_is_defined(tmp_path):
    import tta_bench.heads

    file = Path(tta_bench.heads.__file__)
    homes = {module for module, _, _ in parsed("tta_bench.heads", file).imports}
    for line, expected in (
        ("import tta_bench.heads", homes),
        ("from tta_bench import SlowWeights", {"tta_bench.heads.slow_weights"}),
        ("from tta_bench import Method", set()),
    ):
        (tmp_path / "m.py").write_text(line)
        found = imported_names(parsed("m", tmp_path / "m.py"))
        assert {name for name in found if name.startswith("tta_bench.heads")} == expected


def test_what_happens_to_be_loaded_does_not_matter(monkeypatch):
    cls = registry.load("dynamic-eval")
    before = source_hash(cls)
    for name in [name for name in sys.modules if "dynamic_eval" in name and name != cls.__module__]:
        monkeypatch.delitem(sys.modules, name)
    assert source_hash(cls) == before
