"""Finding methods, and the identity of their source."""

import pytest

from tta_bench.contract import registry
from tta_bench.errors import MethodError, UsageError

METHOD = '''
from tta_bench import Method, register
@register("{name}")
class Mine(Method):
    """Mine."""
    def score(self, window):
        return self.model.logits(window)
'''


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_plugin_files", {})


def test_a_method_can_be_listed_before_it_is_imported(tmp_path):
    infos = registry.available()
    assert {"none", "dynamic-eval", "fwl", "neural-cache"} <= set(infos)
    assert infos["neural-cache"].family == "output"
    assert any(p.name == "theta" and p.help for p in infos["neural-cache"].params)


def test_unknown_names_get_the_closest_one():
    with pytest.raises(UsageError, match="did you mean 'neural-cache'"):
        registry.load("neural-cach")


def test_two_methods_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(METHOD.format(name="mine"))
    registry.add_plugin(tmp_path / "a" / "mine.py")
    with pytest.raises(MethodError, match="defined twice"):
        registry.add_plugin(tmp_path / "b" / "mine.py")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere_at_all\n", "cannot be imported"),
        ("x = 1\n", "registers no method"),
        ("def broken(:\n", "not valid Python"),
        (METHOD.format(name="mine").replace("(Method)", ""), "must derive from"),
        (METHOD.format(name="mine").replace("score", "scores"), "lacks score"),
        (METHOD.format(name="mine") + "    class Params:\n        lr = 1\n", "put @dataclass"),
        (METHOD.format(name="mine") + '    family = "heads"\n', "family 'heads' is unknown"),
    ],
)
def test_a_broken_plugin_gets_one_sentence(tmp_path, source, words):
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(MethodError, match=words):
        registry.add_plugin(tmp_path / "mine.py")


@pytest.mark.parametrize("name", ["fwl", "dynamic-eval"])
def test_the_source_of_a_method_covers_what_it_imports(name):
    files = {file.stem for file in registry._source_files(registry.load(name))}
    expected = {
        "fwl": {"fwl", "fwl_head", "fwl_layer", "fwl_forget", "fwl_inner_loss", "fwl_writes"},
        "dynamic-eval": {f"dynamic_eval{part}" for part in ("", "_rules", "_step", "_subsets")},
    }
    assert files == expected[name]
