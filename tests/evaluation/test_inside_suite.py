"""The suite of methods inside the body: its rows, their weights, and their controls."""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files

import pytest

from tta_bench.contract.registry import load
from tta_bench.contract.spec import split_spec
from tta_bench.evaluation.plan import plan
from tta_bench.evaluation.suite import load_suite
from tta_bench.heads.slow_weights import SlowWeights
from tta_bench.model.load import load_model
from tta_bench.training.recipe import load_recipe

SUITE = load_suite("inside")
RECIPES = {
    path.stem: load_recipe(path)
    for path in (files("tta_bench_suites") / "train" / "inside").iterdir()
}
BY_THE_CLOCK = {"compressed-memory"}
"""Trained with `--minutes`, which was time for all of the recipe's steps (docs/inside.md)."""

TRAINED = sorted({split_spec(recipe.method)[0] for recipe in RECIPES.values()})


def test_every_row_becomes_a_job_on_the_texts_of_the_headline() -> None:
    assert len(plan(SUITE)) == len(SUITE.methods) * len(SUITE.datasets)
    assert SUITE.datasets == load_suite("headline").datasets


def test_what_every_gain_is_held_against_is_there() -> None:
    for name in ("none", "window", "dynamic-eval", "regression", "output-correction"):
        assert any(split_spec(spec)[0] == name for spec in SUITE.methods)


@pytest.mark.parametrize("name", TRAINED)
def test_the_weights_of_a_row_are_what_its_recipe_writes(name: str) -> None:
    file = load(name).weights_file("trained", load_model("builtin:tiny"))
    about = SlowWeights.describe(file)
    (recipe,) = (r for stem, r in RECIPES.items() if stem == f"tiny-{name}")
    assert about.facts["recipe"]["method"] == recipe.method
    schedule = asdict(recipe.train) | {"windows": list(recipe.train.windows)}
    used = dict(about.facts["recipe"]["train"])
    if name in BY_THE_CLOCK:
        assert used.pop("minutes") > schedule.pop("minutes") == 0
    assert used == schedule


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_method_stands_beside_its_control(name: str) -> None:
    rows = [split_spec(spec)[1] for spec in SUITE.methods if split_spec(spec)[0] == name]
    controls = [
        row for row in rows if row.get("weights") == "control" or row.get("tokens") == "shuffled"
    ]
    assert controls
    assert len(controls) < len(rows)
