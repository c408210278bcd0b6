"""`name:key=value` specs."""

from dataclasses import dataclass
from typing import Literal

import pytest

from tta_bench.contract.spec import build, split_spec, to_spec
from tta_bench.errors import UsageError


@dataclass
class Params:
    lr: float = 0.1
    steps: int = 1
    rule: Literal["sgd", "adam"] = "sgd"
    clip: float | None = None
    targets: tuple[str, ...] = ("mlp",)
    verbose: bool = False


def test_values_are_parsed_to_their_declared_types():
    name, raw = split_spec("m:lr=1e-3,steps=4,rule=adam,clip=2,targets=[q,v],verbose=yes")
    params = build(Params, raw, name)
    assert params == Params(1e-3, 4, "adam", 2.0, ("q", "v"), True)


def test_a_spec_and_its_parameters_are_each_others_inverse():
    params = Params(lr=0.5, clip=1.0, targets=("a", "b"), verbose=True)
    spec = to_spec("m", params)
    assert spec == "m:lr=0.5,clip=1,targets=[a,b],verbose=true"
    assert build(Params, split_spec(spec)[1], "m") == params
    assert to_spec("m", Params()) == "m"


def test_none_stands_for_an_optional_value():
    assert build(Params, {"clip": "none"}, "m").clip is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("m:learning=3", "there is no parameter 'learning'; parameters: lr"),
        ("m:step=3", "did you mean 'steps'"),
        ("m:lr=fast", "must be a number, not 'fast'"),
        ("m:steps=1.5", "must be a whole number"),
        ("m:rule=adm", "did you mean 'adam'"),
        ("m:verbose=perhaps", "must be true or false"),
        ("m:lr", "is not key=value"),
        ("m:lr=1,lr=2", "given twice"),
    ],
)
def test_wrong_values_get_one_sentence(spec, words):
    def parse():
        name, raw = split_spec(spec)
        return build(Params, raw, name)

    with pytest.raises(UsageError, match=words):
        parse()
