"""On a machine with several GPUs: `train` takes one of them, torchrun one a process.

Both commands train the same steps, whose losses they must agree on (`pytest -s` prints them).
"""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from command import ENVIRONMENT

from tta_bench import SlowWeights

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

RECIPE = """
method: {method}
body: {body}
dataset: builtin:pydoc
train:
  steps: 6
  lanes: 8
  segment: 512
  windows: [128, 256]
  chunk: 128
  learning_rate: 1.0e-3
  warmup_steps: 1
  log_every: 1
  checkpoint_every: 3
  workers: 2
  compile: {compile}
"""
ONE = ("-m", "tta_bench", "train")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *ONE)


def losses(launcher, recipe, output):
    """Losses of the steps of one training, once it has ended well and left what it should."""
    words = [*launcher, "--config", str(recipe), "--output", str(output)]
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("evaluate it with") == done.stderr.count("step 6 of 6") == 1
    SlowWeights.describe(output / "weights.safetensors")
    with (output / "log.csv").open(newline="") as log:
        return [float(row["loss"]) for row in csv.DictReader(log)]


@pytest.mark.parametrize(
    ("method", "body", "compiles"),
    [("fwl", "frozen", "no"), ("fwl", "joint", "no"), ("fwl", "joint", "yes")],
)
def test_one_gpu_and_two_train_alike(method, body, compiles, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(method=method, body=body, compile=compiles))
    found = {}
    for devices, launcher in ((1, ONE), (2, TWO)):
        output = tmp_path / str(devices)
        found[devices] = losses(launcher, recipe, output)
        facts = json.loads((output / "training.json").read_text())["training"]
        assert facts["devices"] == devices
        assert facts["steps"] == len(found[devices]) == 6
        print(method, body, compiles, devices, facts["tokens_per_second"], found[devices])
    assert found[1] == pytest.approx(found[2], rel=0.02)  # in bfloat16


def test_a_second_gpu_is_named_by_what_is_visible(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(method="fwl", body="frozen", compile="no"))
    words = [*ONE, "--config", str(recipe), "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *words, "--device", "cuda:1"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 2
    assert "CUDA_VISIBLE_DEVICES=1" in done.stderr
