"""From mappings to dataclasses: YAML values are held to their types, text is parsed into them."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tta_bench.convert import Converter
from tta_bench.errors import UsageError


@dataclass
class Inner:
    steps: int = 1
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1.")


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    layers: list[Inner] = field(default_factory=list)
    compile: bool = False
    rule: Literal["sgd", "adam", 3] = "sgd"
    clip: float | None = None
    either: int | str = 0
    names: tuple[str, ...] = ()
    windows: tuple[int, ...] = ()
    free: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    label: str = ""


STRICT = Converter("the file f.yaml", line=lambda at: len(at))
TEXT = Converter("method 'm'", noun="parameter", text=True)


def test_yaml_values_become_what_is_declared():
    found = STRICT.make(
        Outer,
        {
            "inner": {"steps": 3, "rate": 2},
            "layers": [{"rate": 0.5}, {}],
            "compile": True,
            "rule": 3,
            "clip": None,
            "either": "text",
            "names": "one",
            "windows": [4, 8],
            "free": {"a": [1]},
            "counts": {"b": 2},
            "label": 5,
        },
    )
    inner = Inner(3, 2.0)
    layers = [Inner(1, 0.5), Inner()]
    assert found == Outer(
        inner, layers, True, 3, None, "text", ("one",), (4, 8), {"a": [1]}, {"b": 2}, "5"
    )
    assert type(found.inner.rate) is float


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"compile": "no"}, "the file f.yaml, line 1: 'compile' must be true or false, not 'no'."),
        ({"compile": 1}, "'compile' must be true or false, not 1."),
        ({"inner": {"steps": 1.9}}, "line 2: 'steps' must be a whole number, not 1.9."),
        ({"inner": {"steps": True}}, "'steps' must be a whole number, not True."),
        ({"inner": {"steps": 2**70}}, "not a number of so many digits."),
        ({"inner": {"rate": "1e-4"}}, "'rate' must be a number, not '1e-4'."),
        ({"inner": {"step": 3}}, "line 2: there is no key 'step'; did you mean 'steps'?"),
        ({"inner": {"steps": 0}}, "the file f.yaml, line 1: steps must be at least 1."),
        ({"inner": [3]}, "'inner' must be a mapping, not a list."),
        ({"layers": [{"steps": "x"}]}, "line 3: 'steps' must be a whole number, not 'x'."),
        ({"rule": "adm"}, "'rule' must be one of sgd, adam, 3 (did you mean 'adam'?), not 'adm'."),
        ({"clip": "none"}, "'clip' must be a number, not 'none'."),
        ({"label": None}, "'label' must be text, not None."),
        ({"names": [1.5]}, "'names' must be a text or a list of texts, not a list with 1.5 in it."),
        ({"names": [{"a": 3}]}, "a list of texts, not a list with a mapping in it."),
        ({"windows": ["a"]}, "each item a whole number, not a list with 'a' in it."),
        ({"counts": {"a": "b"}}, "'counts' must be a whole number, not a mapping."),
        ({"free": [1]}, "'free' must be a mapping, not a list."),
        ({16**5000: 1}, "there is no key a number of so many digits; keys: inner, layers,"),
        ({3: 1}, "there is no key 3; keys: inner, layers,"),
    ],
)
def test_a_wrong_yaml_value_is_one_sentence_with_its_line(values, sentence):
    with pytest.raises(UsageError) as caught:
        STRICT.make(Outer, values)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_is_parsed_into_what_is_declared():
    texts = {"compile": "no", "rule": "3", "clip": "1e-4", "names": "[a,b]", "windows": "4"}
    found = TEXT.make(Outer, {**texts, "either": "x", "label": "5"})
    assert (found.compile, found.rule, found.clip) == (False, 3, 1e-4)
    assert (found.names, found.windows, found.either) == (("a", "b"), (4,), "x")
    assert found.label == "5"
    assert TEXT.make(Outer, {"clip": "None"}).clip is None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"compile": "perhaps"}, "method 'm': 'compile' must be true or false, not 'perhaps'."),
        ({"windows": "[1,b]"}, "'windows' must be a list, each item a whole number, not '[1,b]'."),
        ({"inner": "x"}, "'inner' must be a mapping, not 'x'."),
        ({"lable": "x"}, "there is no parameter 'lable'; did you mean 'label'?"),
    ],
)
def test_wrong_text_is_one_sentence(values, sentence):
    with pytest.raises(UsageError) as caught:
        TEXT.make(Outer, values)
    assert sentence in str(caught.value)
