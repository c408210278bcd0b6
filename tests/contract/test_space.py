"""Sets of values in specs: `name:key=a|b`, and methods as YAML has them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_bench.contract.choice import choose
from tta_bench.contract.mapping import spec_of
from tta_bench.contract.space import Space, SpacePart
from tta_bench.errors import UsageError
from tta_bench.evaluation.plan import choose_methods

names = st.from_regex(r"[a-z][a-z0-9]{0,4}(-[a-z0-9]{1,3})?", fullmatch=True)
keys = st.from_regex(r"[a-z][a-z_]{0,5}", fullmatch=True)
plain = st.from_regex(r"[A-Za-z0-9.][A-Za-z0-9.e-]{0,6}", fullmatch=True)
listed = st.lists(plain, min_size=1, max_size=3).map(lambda items: f"[{'|'.join(items)},x]")
members = st.lists(plain | listed, min_size=1, max_size=3).map(tuple)
parts = st.builds(SpacePart, names, st.dictionaries(keys, members, max_size=3))


@settings(max_examples=25)
@given(st.lists(parts, min_size=1, max_size=3).map(tuple))
def test_a_space_and_its_spec_are_each_others_inverse(parts):
    space = Space(parts)
    assert Space.of(space.spec) == space
    assert len(list(space.combinations())) == math.prod(map(len, space.sets.values()))


def test_the_last_parameter_changes_fastest():
    found = choose_methods(["dynamic-eval:lr=1e-5|3e-5,subset=all|mlp", "none"])
    assert [choice.spec for choice in found] == [
        "dynamic-eval:lr=1e-05",
        "dynamic-eval:lr=1e-05,subset=mlp",
        "dynamic-eval:lr=3e-05",
        "dynamic-eval:lr=3e-05,subset=mlp",
        "none",
    ]


def test_a_set_may_be_in_any_part_of_a_stack():
    space = Space.of("window:context=8|16+neural-cache:weight=0.1|0.2,theta=3")
    assert space.sets == {"0.context": ("8", "16"), "1.weight": ("0.1", "0.2")}
    assert space.label("1.weight") == "neural-cache.weight"
    assert (space.kind("0.context"), space.kind("1.weight")) == (int, float)
    choice = space.choice({"0.context": "16", "1.weight": "0.2"})
    assert choice.spec == choose("window:context=16+neural-cache:weight=0.2,theta=3").spec
    assert Space.of("dynamic-eval:subset=all|mlp").kind("subset") is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dynamic-eval:lr=1e-5|", "has an empty value in it"),
        ("dynamic-eval:lr=1e-5|0.00001", "two combinations of .* are the same method"),
        ("dynamic-eval:lr=1e-5|fast", "'lr' must be a number"),
        ("dynamic-eval:lr=1|2,lr=3", "given twice"),
    ],
)
def test_a_wrong_set_gets_one_sentence(spec, words):
    with pytest.raises(UsageError, match=words):
        choose_methods([spec])


def test_where_one_method_goes_a_set_is_refused():
    with pytest.raises(UsageError, match="names several methods, and here goes one"):
        choose("dynamic-eval:lr=1e-5|1e-4")


@pytest.mark.parametrize(
    ("method", "spec"),
    [
        ({"none": None}, "none"),
        (
            {"dynamic-eval": {"lr": [1e-5, "3e-5"], "subset": "mlp"}},
            "dynamic-eval:lr=1e-05|3e-5,subset=mlp",
        ),
        ({"window": {"context": 8}, "ngram": {}}, "window:context=8+ngram"),
        (
            {"m": {"verbose": [True, False], "targets": [["q", "v"], ["q"]], "clip": None}},
            "m:verbose=true|false,targets=[q,v]|[q],clip=none",
        ),
    ],
)
def test_a_mapping_names_a_method(method, spec):
    assert spec_of(method) == spec


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({}, "empty name"),
        ({"a+b": {}}, "a method's name must be text without"),
        ({1: {}}, "a method's name must be text without"),
        ({"m": [1]}, "the parameters of m must be a mapping"),
        ({"m": {"lr": []}}, "'lr' has an empty list of values"),
        ({"m": {"lr": {"a": 1}}}, "a value of 'lr' must be a number"),
        ({"m": {"lr": "1,x=2"}}, "a value of 'lr' must be a number"),
        ({"m": {"lr": 10**5000}}, "a number of so many digits"),
        ({"m": {2: 1}}, "a parameter of m must have text for a name"),
    ],
)
def test_a_wrong_mapping_gets_one_sentence(method, words):
    with pytest.raises(UsageError, match=words):
        spec_of(method)
