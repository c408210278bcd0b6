"""On a GPU: steps replayed as a CUDA graph train as steps that Python launches."""

import csv
import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from tta_bench.contract.registry import load
from tta_bench.contract.spec import split_spec
from tta_bench.training.recipe import Recipe, Schedule
from tta_bench.training.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SCHEDULE = Schedule(
    steps=6,
    lanes=8,
    segment=512,
    windows=(128, 256),
    chunk=128,
    learning_rate=1e-3,
    warmup_steps=1,
    log_every=1,
    workers=0,
    compile=False,
)


def trained(recipe, folder, said):
    """Losses of the steps, and what was trained."""
    train(recipe, folder, "cuda", said.append)
    with (folder / "log.csv").open(newline="") as log:
        losses = [float(row["loss"]) for row in csv.DictReader(log)]
    return losses, load_file(folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("method", "body", "changes"),
    [
        ("fwl", "joint", {}),
        ("fwl", "joint", {"batch": 4}),  # two replays a step, whose gradients add up
        ("fwl", "frozen", {"compile": True}),
        ("fwl:fast=no", "joint", {}),
        ("ttt-mlp", "frozen", {}),
        ("mesa", "frozen", {}),
        ("titans", "frozen", {}),
        ("in-place-ttt", "frozen", {}),
        ("ttt-e2e", "frozen", {"windows": (128,)}),
        ("compressed-memory", "frozen", {"windows": (128,)}),
        ("generative-adapter", "frozen", {"reconstruction": True, "windows": (128,)}),
        ("knn-adapter", "frozen", {"windows": (128,)}),
    ],
)
def test_a_replayed_step_is_the_step(method, body, changes, tmp_path, monkeypatch):
    cls = load(split_spec(method)[0])
    schedule = dataclasses.replace(SCHEDULE, **changes)
    recipe = Recipe("short", method, "builtin:tiny", body, "builtin:pydoc", train=schedule)
    said: list[str] = []
    replayed, graph = trained(recipe, tmp_path / "graph", said)
    monkeypatch.setattr(cls, "graphs", False)
    launched, plain = trained(recipe, tmp_path / "plain", said)
    assert not [line for line in said if "not captured" in line]
    print(method, replayed, launched)
    assert replayed == pytest.approx(launched, rel=2e-3)  # in bfloat16
    assert graph.keys() == plain.keys()
    for name, value in plain.items():
        # Adam makes full steps of gradients that are all rounding, so that single entries differ.
        apart = (graph[name].float() - value.float()).abs().mean()
        assert apart <= 0.25 * SCHEDULE.steps * SCHEDULE.learning_rate, name
