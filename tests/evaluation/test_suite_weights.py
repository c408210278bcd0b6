"""Suites run as they come: the weights that their rows ask for come with the bench."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from tta_bench.contract.registry import load
from tta_bench.contract.spec import split_spec, split_stack
from tta_bench.evaluation.suite import load_suite
from tta_bench.heads import TrainedMethod
from tta_bench.heads.slow_weights import SlowWeights

ROOT = Path(__file__).parents[2]
SHIPPED = [SlowWeights.describe(file) for file in (ROOT / "methods/weights").iterdir()]
SUITES = sorted(
    file.name.removesuffix(".yaml")
    for file in files("tta_bench_suites").iterdir()
    if file.name.endswith(".yaml")
)


@pytest.mark.parametrize("name", SUITES)
def test_every_row_has_its_weights(name: str) -> None:
    suite = load_suite(name)
    for spec in suite.methods:
        for part in split_stack(spec):
            method, values = split_spec(part)
            cls = load(method)
            asked = values.get("weights", "trained")
            if not issubclass(cls, TrainedMethod) or asked not in ("trained", "control"):
                continue
            for model in suite.models:
                assert any(
                    about.method == method
                    and about.base["name"] == model
                    and cls.Slow(**about.options).fast == (asked == "trained")
                    for about in SHIPPED
                ), f"{name}: {part} on {model}"
