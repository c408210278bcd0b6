"""The suite of methods inside the body: its rows, their weights, and their controls."""

from __future__ import annotations

from importlib.resources import files

import pytest

from tta_bench.contract.spec import split_spec
from tta_bench.evaluation.plan import plan
from tta_bench.evaluation.suite import load_suite
from tta_bench.training.recipe import load_recipe

SUITE = load_suite("inside")
RECIPES = {
    path.stem: load_recipe(path)
    for path in (files("tta_bench_suites") / "train" / "inside").iterdir()
}
WITH_FILE = [spec for spec in SUITE.methods if "/" in split_spec(spec)[1].get("weights", "")]


def test_every_row_becomes_a_job_on_the_texts_of_the_headline() -> None:
    assert len(plan(SUITE)) == len(SUITE.methods) * len(SUITE.datasets)
    assert SUITE.datasets == load_suite("headline").datasets


def test_what_every_gain_is_held_against_is_there() -> None:
    for name in ("none", "window", "dynamic-eval", "regression", "output-correction"):
        assert any(split_spec(spec)[0] == name for spec in SUITE.methods)


@pytest.mark.parametrize("spec", WITH_FILE)
def test_the_weights_of_a_row_are_what_a_recipe_writes(spec: str) -> None:
    name, values = split_spec(spec)
    folder, recipe, file = values["weights"].rsplit("/", 2)
    assert (folder, file) == ("results/train", "weights.safetensors")
    assert split_spec(RECIPES[recipe].method)[0] == name
    assert (RECIPES[recipe].base, RECIPES[recipe].body) == (SUITE.models[0], "frozen")


@pytest.mark.parametrize("name", sorted({split_spec(r.method)[0] for r in RECIPES.values()}))
def test_a_trained_method_stands_beside_its_control(name: str) -> None:
    rows = [split_spec(spec)[1] for spec in SUITE.methods if split_spec(spec)[0] == name]
    controls = [
        row for row in rows if "-control/" in row["weights"] or row.get("tokens") == "shuffled"
    ]
    assert controls
    assert len(controls) < len(rows)
