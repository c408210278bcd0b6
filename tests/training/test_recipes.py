"""The recipes that ship: each is whole, and those of one folder differ in their method alone."""

import dataclasses
from pathlib import Path

import pytest

from tta_bench.contract.registry import load
from tta_bench.contract.spec import build, split_spec
from tta_bench.training.recipe import load_recipe, recipe_files
from tta_bench.training.spread import spread_lanes

RECIPES = Path(__file__).resolve().parents[2] / "suites" / "train"
FOLDERS = ("heads", "heads-smollm2", "fwl")


def recipes_of(folder):
    return [load_recipe(file) for file in recipe_files([RECIPES / folder])]


@pytest.mark.parametrize("folder", [*FOLDERS, "inside"])
def test_every_recipe_can_be_trained(folder):
    for recipe in recipes_of(folder):
        name, values = split_spec(recipe.method)
        build(load(name).Slow, values, name)
        schedule = recipe.train
        spread_lanes(schedule, 1)
        assert all(schedule.segment % window == 0 for window in schedule.windows)
        assert all(window % schedule.chunk == 0 for window in schedule.windows)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_recipes_of_a_folder_read_the_same_tokens_under_one_schedule(folder):
    alike = set()
    for recipe in recipes_of(folder):
        schedule = recipe.train
        tokens = schedule.steps * schedule.lanes * schedule.segment
        rest = dataclasses.replace(schedule, lanes=1, segment=1)
        assert recipe.corpus is not None
        alike.add((recipe.base, recipe.body, recipe.corpus.digest, tokens, rest))
    assert len(alike) == 1


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_recipe_has_a_control_of_its_size(folder):
    wide = {}
    for recipe in recipes_of(folder):
        name, values = split_spec(recipe.method)
        slow = build(load(name).Slow, values, name)
        wide.setdefault((name, slow.width), set()).add(slow.fast)
    wide.pop(("linear-attention", 256), None)  # a control itself
    assert all(kinds == {True, False} for kinds in wide.values())
