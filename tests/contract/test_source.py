"""The identity of a method's source: what it covers, and that nothing else moves it."""

import sys
from pathlib import Path

import pytest

from tta_bench.contract import registry, source
from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.modules import parsed
from tta_bench.contract.source import imported_names, source_files, source_hash
from tta_bench.errors import ChangedError, MethodError

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
    forget_what_lies_beside()


def forget_what_lies_beside():
    for name in ("beside_it", "further_of_it"):
        sys.modules.pop(name, None)


def hash_anew(cls):
    """The hash that another process would take."""
    source._TAKEN.clear()
    return source_hash(cls)


@pytest.mark.parametrize("name", ["fwl", "dynamic-eval"])
def test_the_source_of_a_method_covers_what_it_imports(name):
    cls = registry.load(name)
    package = cls.__module__.rpartition(".")[0]
    folder = Path(sys.modules[cls.__module__].__file__).parent
    own = {file.stem for file in folder.glob("*.py")} - {"__init__", "untrained"}
    found = set(source_files(cls)) - {"tta_bench_methods.head.block.scale"}  # of all heads
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
    before = hash_anew(cls)
    (folder / "unused_of_it.py").write_text("y = 2\n")
    assert hash_anew(cls) == before
    for name in ("further_of_it.py", "inner_of_it/deeper.py", "inner_of_it/__init__.py"):
        (folder / name).write_text("x = 2\n")
        assert hash_anew(cls) != before, name
        before = hash_anew(cls)


def test_the_same_plugin_elsewhere_is_the_same(plugin, tmp_path_factory):
    cls, folder = plugin
    before = source_hash(cls)
    forget_what_lies_beside()
    sys.path.remove(str(folder))
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
    before = hash_anew(cls)
    for name in [name for name in sys.modules if "dynamic_eval" in name and name != cls.__module__]:
        monkeypatch.delitem(sys.modules, name)
    assert hash_anew(cls) == before


@pytest.mark.parametrize(
    "line",
    [
        "import further_of_it",
        "def later():\n    from further_of_it import x",
        "import importlib\nfound = importlib.import_module('further_of_it')",
        "from importlib import import_module\nfound = import_module('further_of_it')",
        "found = __import__('further_of_it')",
        "from of_no_init.further import x",
    ],
)
def test_however_a_plugin_imports_what_lies_beside_it(tmp_path, monkeypatch, line):
    monkeypatch.setattr(registry, "_plugin_files", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(f"{line}\n{PLUGIN.replace('import beside_it', '')}")
    (tmp_path / "of_no_init").mkdir()
    helpers = tmp_path / "further_of_it.py", tmp_path / "of_no_init" / "further.py"
    for helper in helpers:
        helper.write_text("x = 1\n")
    registry.add_plugin(tmp_path / "mine.py")
    cls = registry.load("mine")
    before = source_hash(cls)
    for helper in helpers:
        helper.write_text("x = 2\n")
    for name in ("further_of_it", "of_no_init.further", "of_no_init"):
        sys.modules.pop(name, None)
    assert hash_anew(cls) != before


def test_relative_imports_by_call_are_found(tmp_path):
    (tmp_path / "m.py").write_text("import_module('.other', __package__)\nimport_module(name)\n")
    module = parsed("package.m", tmp_path / "m.py")
    assert module.imports == [("package.other", None, None)]


def test_an_edit_after_the_import_is_not_what_runs(plugin):
    cls, folder = plugin
    before = source_hash(cls)
    chosen = MethodSpec.of(MethodChoice("mine", cls, cls.Params()))
    (folder / "further_of_it.py").write_text("x = 2\n")
    assert source_hash(cls) == before
    assert chosen.choice().cls is cls
    source._TAKEN.clear()  # as in the process of an isolated method, which imports it anew
    with pytest.raises(ChangedError, match="The source of mine was changed"):
        chosen.choice()


def test_two_plugins_with_files_of_one_name_beside_them(plugin, tmp_path_factory):
    _, folder = plugin
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "further_of_it.py").write_text("x = 2\n")
    text = PLUGIN.replace("beside_it", "further_of_it").replace('"mine"', '"another"')
    (elsewhere / "another.py").write_text(text)
    with pytest.raises(MethodError, match=f"Python finds {folder}/further_of_it by that name"):
        registry.add_plugin(elsewhere / "another.py")
