"""One device a process, lanes dealt to processes, and numbers that do not depend on how many."""

import csv
import os
import signal
import subprocess
import sys
import time
from itertools import chain

import pytest
import torch
from command import ENVIRONMENT
from safetensors.torch import load_file
from slow import slow
from torch.utils.data import BatchSampler, SequentialSampler

from tta_bench import UsageError
from tta_bench.training.checkpoint import load_state, save_state
from tta_bench.training.processes import Processes, own_device
from tta_bench.training.recipe import Schedule, load_recipe
from tta_bench.training.spread import spread_lanes
from tta_bench.training.train import train


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "local_rank", "device"),
    [("auto", None, "cuda:0"), ("cuda", None, "cuda:0"), ("auto", 1, "cuda:1"), ("cpu", 1, "cpu")],
)
def test_a_process_has_one_device(two_gpus, name, local_rank, device):
    assert own_device(name, local_rank) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "local_rank", "sentence"),
    [("cuda:1", None, "set CUDA_VISIBLE_DEVICES=1"), ("auto", 2, "use --nproc-per-node 2")],
)
def test_a_device_that_training_would_not_take_is_refused(two_gpus, name, local_rank, sentence):
    with pytest.raises(UsageError, match=sentence):
        own_device(name, local_rank)


@pytest.mark.parametrize(("batch", "count"), [(0, 1), (0, 2), (2, 2), (4, 1)])
def test_lanes_are_those_that_accelerate_gives_a_process(batch, count):
    """Each lane belongs to one process, at every step."""
    from accelerate.data_loader import BatchSamplerShard

    spread = spread_lanes(Schedule(lanes=8, batch=batch), count)
    assert sorted(chain(*map(spread.lanes_of, range(count)))) == list(range(8))
    items = BatchSampler(SequentialSampler(range(3 * 8)), spread.batch, drop_last=False)
    for rank in range(count):
        batches = list(BatchSamplerShard(items, num_processes=count, process_index=rank))
        for step in range(3):
            read = chain(*batches[step * spread.rounds : (step + 1) * spread.rounds])
            assert list(read) == [step * 8 + lane for lane in spread.lanes_of(rank)]


@pytest.mark.parametrize(
    ("schedule", "count", "sentence"),
    [
        ({"lanes": 3}, 2, "3 lanes cannot be divided evenly among 2 processes: .* --lanes 4"),
        ({"lanes": 1}, 2, "--lanes 2"),
        ({"lanes": 6, "batch": 4}, 1, "in batches of 4: choose a multiple of 4"),
        ({"lanes": 4, "batch": 1, "windows": (16, 32)}, 1, "a multiple of 2"),
    ],
)
def test_lanes_that_cannot_be_dealt_evenly_are_refused(schedule, count, sentence):
    with pytest.raises(UsageError, match=sentence):
        spread_lanes(Schedule(**schedule), count)


def test_the_state_of_two_processes_is_taken_up_by_one(tmp_path):
    whole = {"S": torch.randn(4, 3), "n": torch.arange(4)}
    spread = spread_lanes(Schedule(lanes=4, batch=1), 2)
    for rank in range(2):
        lanes = spread.lanes_of(rank)
        others = [lane for lane in range(4) if lane not in lanes]
        own = {name: value.clone() for name, value in whole.items()}
        for value in own.values():
            value[others] = 0  # a process knows nothing of lanes that it does not read
        save_state(tmp_path, own, lanes, rank)
    found = {name: torch.zeros_like(value) for name, value in whole.items()}
    load_state(tmp_path, found)
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_one_process_agrees_with_itself():
    alone = Processes(torch.device("cpu"))
    assert alone.agree(1.5, True) == (1.5, True)
    assert alone.total(3.0) == (3.0,)
    with alone.first_alone():
        alone.wait()


# --- real processes -------------------------------------------------------------------------

RECIPE = """
method: fwl:rates=2
base: builtin:tiny
dataset: {dataset}
train:
  steps: {steps}
  lanes: 4
  segment: 64
  windows: [32]
  chunk: 16
  warmup_steps: 1
"""


def recipe_of(folder, steps):
    texts = folder / "texts"
    texts.mkdir()
    for i in range(5):
        lines = [f"def number_{j}(x):\n    return x + {i}\n" for j in range(4 + i)]
        (texts / f"{i}.txt").write_text("\n".join(lines))
    file = folder / "small.yaml"
    file.write_text(RECIPE.format(dataset=texts, steps=steps))
    return file


def two_processes(recipe, output):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "tta_bench", "train", "--config", recipe, "--output", output]
    return subprocess.Popen(
        [sys.executable, *map(str, words), "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
        # A shell's background job ignores SIGINT, and so would everything it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def losses_of(folder):
    with (folder / "log.csv").open(newline="") as log:
        return {row["step"]: float(row["loss"]) for row in csv.DictReader(log)}


@slow
def test_two_processes_train_as_one_does(tmp_path):
    """They meet once, and read each recipe of a folder together.

    Compared are their weights after 20 steps, as the optimizer holds them, in float32.
    """
    recipe = recipe_of(tmp_path, steps=20)
    (tmp_path / "all").mkdir()
    for name in "ab":
        (tmp_path / "all" / f"{name}.yaml").write_text(recipe.read_text())
    process = two_processes(tmp_path / "all", tmp_path / "two")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert said.count("step 20 of 20") == said.count("evaluate it with") == 2, said
    facts = train(load_recipe(recipe), tmp_path / "one", "cpu", lambda _: None)
    assert facts["training"]["devices"] == 1
    expected = load_file(tmp_path / "one/checkpoints/checkpoint-20/model.safetensors")
    alone = losses_of(tmp_path / "one")
    for name in "ab":
        folder = tmp_path / "two" / name
        weights = load_file(folder / "checkpoints/checkpoint-20/model.safetensors")
        assert weights.keys() == expected.keys()
        for key, value in expected.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-4)
        together = losses_of(folder)
        both = together.keys() & alone.keys()  # which steps are logged depends on their times
        assert {"1", "20"} <= both
        for step in both:
            assert together[step] == pytest.approx(alone[step], rel=1e-4)


@slow
def test_what_two_processes_began_one_can_end(tmp_path):
    recipe = recipe_of(tmp_path, steps=24)
    process = two_processes(recipe, tmp_path / "begun")
    deadline = time.monotonic() + 200
    while not (tmp_path / "begun" / "log.csv").is_file():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode != 0
    assert said.count("steps are kept in") == 1, said
    lines = []
    train(load_recipe(recipe), tmp_path / "begun", "cpu", lines.append)
    assert any("going on from step" in line for line in lines)
    train(load_recipe(recipe), tmp_path / "one", "cpu", lambda _: None)
    weights, expected = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("begun", "one")
    )
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=2**-6, atol=1e-3)
