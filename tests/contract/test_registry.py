"""Finding methods, what their source says of them, and what their classes say."""

import dataclasses
import sys

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
    monkeypatch.setattr(sys, "path", list(sys.path))


def plugin(folder, source, **beside):
    """The one method of a plugin, as it is listed; `beside` are modules in the same folder."""
    for name, text in beside.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "mine.py").write_text(source)
    (name,) = registry.add_plugin(folder / "mine.py")
    return registry.available()[name]


def test_a_method_can_be_listed_before_it_is_imported():
    infos = registry.available()
    assert {"none", "dynamic-eval", "fwl", "neural-cache"} <= set(infos)
    assert infos["neural-cache"].family == "output"
    assert any(p.name == "theta" and p.help for p in infos["neural-cache"].params)


@pytest.mark.parametrize("name", registry.available())
def test_what_is_listed_is_what_the_class_says(name):
    info, cls = registry.available()[name], registry.load(name)
    assert info.family == cls.family
    assert [param.name for param in info.params] == [f.name for f in dataclasses.fields(cls.Params)]


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


BASE = """
from dataclasses import dataclass, field
from typing import ClassVar
from tta_bench import Method, register
DEFAULT = 0.5
class Base(Method):
    family: ClassVar[str] = "head"
    @dataclass
    class Params:
        rate: float = field(default=DEFAULT, metadata={"help": "a rate"})
        names: tuple[str, ...] = ("a", "b")
        limit: int | None = None
    def score(self, window):
        return self.model.logits(window)
"""


@pytest.mark.parametrize(
    ("source", "beside"),
    [
        (BASE + '@register("mine")\nclass Mine(Base):\n    pass\n', {}),
        (
            "from tta_bench import register\nfrom base_of_it import Base as Other\n"
            '@register("mine")\nclass Mine(Other):\n    pass\n',
            {"base_of_it": BASE},
        ),
        (  # the nearest base is not the first in depth: Method has parameters, too
            BASE + "class First(Method):\n    pass\nclass Both(First, Base):\n    pass\n"
            '@register("mine")\nclass Mine(Both):\n    pass\n',
            {},
        ),
        (
            "import tta_bench\nimport middle_of_it\n"
            '@tta_bench.register("mine")\nclass Mine(middle_of_it.Base):\n    pass\n',
            {"base_of_it": BASE, "middle_of_it": "from base_of_it import *\n"},
        ),
        (
            "from tta_bench import Method, register as known_as\nimport base_of_it as base\n"
            'NAME = "mine"\nFAMILY: str = "head"\n@known_as(name=NAME)\nclass Mine(Method):\n'
            "    family = FAMILY\n    Params = base.Base.Params\n"
            "    def score(self, window): return self.model.logits(window)\n",
            {"base_of_it": BASE},
        ),
    ],
    ids=["same file", "beside", "two bases", "through a module", "constants"],
)
def test_family_and_parameters_are_followed_to_where_they_stand(
    tmp_path, monkeypatch, source, beside
):
    for name in beside:
        monkeypatch.delitem(sys.modules, name, raising=False)
    info = plugin(tmp_path, source, **beside)
    cls = registry.load("mine")
    assert (info.family, cls.family) == ("head", "head")
    assert [(param.name, param.default) for param in info.params] == [
        ("rate", "0.5"),
        ("names", "[a,b]"),
        ("limit", "none"),
    ]
    assert info.params[0].help == "a rate"
    for name in beside:
        sys.modules.pop(name, None)


def test_parameters_of_a_derived_dataclass_come_after_those_of_its_base(tmp_path):
    more = (
        '@register("mine")\nclass Mine(Base):\n    @dataclass\n    class Params(Base.Params):\n'
        "        more: int = 3\n        rate: float = 2.0\n"
    )
    info = plugin(tmp_path, BASE + more)
    assert [(p.name, p.default) for p in info.params] == [
        ("rate", "2.0"),
        ("names", "[a,b]"),
        ("limit", "none"),
        ("more", "3"),
    ]


PLAIN = METHOD.format(name="mine")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere_at_all\n", "cannot be imported"),
        ("x = 1\n", "registers no method"),
        ("def broken(:\n", "not valid Python"),
        (PLAIN.replace("(Method)", ""), "must derive from"),
        (PLAIN.replace("score", "scores"), "lacks score"),
        (PLAIN + "    class Params:\n        lr = 1\n", "put @dataclass"),
        (PLAIN + '    family = "heads"\n', "family 'heads' is unknown"),
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n"
            + PLAIN
            + "    @dataclass\n    class Params:\n        lr: Rate = 1\n",
            "a type in its class Params: name 'Rate' is not defined",
        ),
        (PLAIN + '    off = {"lr": 0}\n', "off names 'lr', which is no parameter"),
        (
            PLAIN.replace('"mine"', '"mi" + "ne"'),
            r'which has .mi. \+ .ne.; write @register\("name"',
        ),
        (PLAIN.replace('"mine"', ""), "the name of Mine cannot be read"),
        (PLAIN.replace('"mine"', "NAME"), "which has NAME; write"),
        (PLAIN + '    family = "out" + "put"\n', "the family of Mine cannot be read"),
        (PLAIN.replace("(Method)", "(base())"), r"which has the base class base\(\)"),
        (PLAIN + "    Params = Method.make()\n", "the parameters of Mine cannot be read"),
        (PLAIN + "    Params = Params\n", "the parameters of Mine cannot be read"),
        (
            "from tta_bench import Method, register\nclass Outer:\n"
            '    @register("mine")\n    class Mine(Method): pass\n',
            "move Mine, a method, to the top level",
        ),
    ],
)
def test_a_broken_plugin_gets_one_sentence(tmp_path, source, words):
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(MethodError, match=words) as caught:
        registry.add_plugin(tmp_path / "mine.py")
    assert "\n" not in str(caught.value)


def test_another_library_s_register_is_none_of_ours(tmp_path):
    source = PLAIN + '\nfrom elsewhere import register as keep\n@keep("x" + "y")\nclass Y: pass\n'
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(MethodError, match="No module named 'elsewhere'"):
        registry.add_plugin(tmp_path / "mine.py")
    assert plugin(tmp_path, source, elsewhere="register = lambda name: lambda cls: cls").name
    sys.modules.pop("elsewhere")
