"""Training: streams, the loss that is trained, exact resume after a kill, and the file it makes."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method, tiny_model

from tta_bench import BenchError, MethodError, SlowWeights, UsageError
from tta_bench.engine.protocol import Protocol
from tta_bench.heads.slow_weights import base_identity
from tta_bench.model.load import load_model
from tta_bench.training.interrupt import Interrupt
from tta_bench.training.loss import SegmentLoss
from tta_bench.training.processes import Processes
from tta_bench.training.recipe import Schedule, load_recipe
from tta_bench.training.streams import LaneSegments, TokenArray
from tta_bench.training.train import train
from tta_bench_methods.head.fwl.head import FastWeightHead, FastWeightOptions

RECIPE = """
method: fwl:rates=2
base: builtin:tiny
dataset: {dataset}
train:
  steps: 6
  lanes: 2
  segment: 64
  windows: [32]
  chunk: 16
  learning_rate: 3.0e-3
  warmup_steps: 1
  log_every: 1
  checkpoint_every: 2
"""


def token_array(lengths, seed=0):
    """Documents whose tokens are all different, so that each can be found again."""
    sizes = [length + 1 for length in lengths]
    starts = np.cumsum([0, *sizes])
    return TokenArray(np.arange(starts[-1], dtype=np.int32), starts)


@given(data=st.data())
@settings(max_examples=40)
def test_lanes_read_every_document_as_evaluation_does(data):
    """In its windows, from its start, once before any is read again."""
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    windows = data.draw(st.sampled_from([(4,), (8,), (4, 8)]))
    lanes = len(windows) * data.draw(st.integers(1, 2))
    documents = token_array(lengths)
    segments = LaneSegments(documents, lanes, windows, 8, 4, steps=12, seed=1)
    batch = segments.collate(range(len(segments)))
    read = [[] for _ in range(lanes)]
    for row in range(len(segments)):
        lane, window = int(batch["lane"][row]), segments.window_of(row % lanes)
        for k in range(8 // window):
            part = slice(k * window, (k + 1) * window)
            mask = batch["mask"][row, part]
            ids = batch["input_ids"][row, part][mask].tolist()
            labels = batch["labels"][row, part][mask].tolist()
            assert labels == [i + 1 for i in ids]
            fresh = batch["fresh"][row, k * window // 4 : (k + 1) * window // 4].tolist()
            assert not any(fresh[1:])
            read[lane].append((fresh[0], ids))
    begun = []
    for lane in range(lanes):
        place = None
        for fresh, ids in read[lane]:
            if fresh:
                document = documents.starts.tolist().index(ids[0])
                begun.append(document)
                place = ids[0]
            end = int(documents.starts[document + 1]) - 1
            window = segments.window_of(lane)
            assert ids == list(range(place, min(place + window, end)))
            place += len(ids)
    if len(begun) <= len(lengths):
        assert len(set(begun)) == len(begun)


def test_lengths_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="multiple"):
        LaneSegments(token_array([9]), 2, (6,), 8, 2, 1, 0)
    with pytest.raises(UsageError, match="evenly"):
        LaneSegments(token_array([9]), 3, (4, 8), 8, 2, 1, 0)


def random_head(model, seed=0, **slow):
    """A head whose block matters."""
    torch.manual_seed(seed)
    head = FastWeightHead(model.hidden_size, FastWeightOptions(**slow))
    with torch.no_grad():
        head.layer.alpha.normal_()
        for steps in head.layer.log_steps.values():
            steps.fill_(3.0)
        for value in head.layer.preconditioners.parameters():
            value.normal_(std=0.3)
    return head


def segment_loss(model, head, lanes, rows, window=16, chunk=8):
    return SegmentLoss(model, head, False, (window,), chunk, lanes, rows)


@pytest.mark.parametrize(
    "slow",
    [
        {"rates": 2},
        {"residual": False},
        {"forget": "off"},
        {"fast": False},
        {"precondition": "running"},
        {"precondition": "learned"},
    ],
    ids=lambda slow: next(iter(slow)),
)
def test_what_is_trained_is_what_is_evaluated(slow, tmp_path):
    """The training loss over segments is the sum of the losses that the engine records."""
    model = tiny_model()
    head = random_head(model, **slow)
    documents = [random_document(f"d{i}", n, i) for i, n in enumerate((70, 33, 64))]
    ids = np.concatenate([[PREFIX, *d.token_ids] for d in documents])
    starts = np.cumsum([0, *(len(d.token_ids) + 1 for d in documents)])
    lanes = LaneSegments(TokenArray(ids, starts), 1, (16,), 32, 8, steps=6, seed=0)
    loss = segment_loss(model, head, 1, 1.0)
    nats = 0.0
    with torch.no_grad():
        for step in range(6):
            nats += float(loss(**lanes.collate([step]))["loss"])
    file = tmp_path / "w.safetensors"
    weights_of(head, model, slow).save(file)
    method = make_method(model, "fwl", weights=str(file))
    losses = run_method(method, documents, Protocol(chunk=16))
    assert nats == pytest.approx(sum(float(v.sum()) for v in losses.values()), rel=1e-5)


def weights_of(head, model, slow, method="fwl"):
    base = {"name": model.name, "identity": base_identity(model, "frozen")}
    return SlowWeights(method, slow, "frozen", base, {}, head.state_dict())


def test_gradients_do_not_depend_on_how_lanes_are_spread():
    model = tiny_model()
    documents = token_array([40, 25, 60, 31])
    ids = TokenArray(documents.ids % 97, documents.starts)
    lanes = LaneSegments(ids, 4, (16,), 32, 8, steps=2, seed=3)
    found = []
    for batch in (4, 2):
        head = random_head(model, rates=2)
        loss = segment_loss(model, head, 4, 32.0)
        for step in range(2):
            head.zero_grad()
            for first in range(0, 4, batch):
                rows = range(4 * step + first, 4 * step + first + batch)
                (loss(**lanes.collate(rows))["loss"] * batch / 4).backward()
        found.append({name: p.grad.clone() for name, p in head.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_a_residual_block_begins_as_the_model_itself():
    model = tiny_model()
    head = FastWeightHead(model.hidden_size, FastWeightOptions(rates=2))
    hidden = torch.randn(2, 8, model.hidden_size)
    labels, fresh = torch.randint(97, (2, 8)), torch.zeros(2, 1, dtype=torch.bool)
    mask = torch.ones(2, 8, dtype=torch.bool)
    y, _ = head.segment(hidden, labels, mask, model.unembedding, 8, fresh, head.fresh_state(2))
    assert torch.equal(y, hidden)


# --- whole trainings ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(4):
        lines = [f"def number_{j}(x):\n    return x + {i}\n" for j in range(8)]
        (folder / f"{i}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def recipe_file(texts):
    file = texts / "small.yaml"
    file.write_text(RECIPE.format(dataset=texts))
    return file


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(load_recipe(recipe_file), folder, "cpu", lambda _: None)
    return folder


def test_training_writes_weights_log_and_facts(undisturbed, recipe_file):
    with open(undisturbed / "log.csv", newline="") as log:
        rows = list(csv.DictReader(log))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "steps.w1.0", "half_lives.second.1"} <= set(rows[0])
    assert all(0 < float(row["loss"]) < 9 for row in rows)
    facts = json.loads((undisturbed / "training.json").read_text())
    assert facts["training"]["steps"] == 6
    assert facts["training"]["flops"] > 0
    assert facts["training"]["timed_steps"] == 6  # nothing is compiled on a CPU
    about = SlowWeights.describe(undisturbed / "weights.safetensors")
    assert (about.method, about.trained_body) == ("fwl", "frozen")
    assert about.options == {**about.options, "rates": 2, "residual": True, "fast": True}
    assert about.facts["recipe"] == load_recipe(recipe_file).to_dict()
    assert all(
        value.dtype == torch.bfloat16
        for value in load_file(undisturbed / "weights.safetensors").values()
    )
    assert not list(undisturbed.rglob("*.bin"))


def test_what_was_trained_predicts_the_training_text_better(undisturbed, texts):
    from tta_bench.documents import tokenized

    model = load_model("builtin:tiny", "float32", "cpu")
    documents = list(tokenized(str(texts / "0.txt"), model.tokenizer))
    found = {}
    for name, params in (
        ("none", {}),
        ("fwl", {"weights": str(undisturbed / "weights.safetensors")}),
    ):
        losses = run_method(make_method(model, name, **params), documents, Protocol(chunk=32))
        found[name] = sum(float(v.sum()) for v in losses.values())
    assert found["fwl"] < found["none"]


def test_the_same_again_does_nothing_and_another_recipe_is_refused(undisturbed, recipe_file):
    said = []
    facts = train(load_recipe(recipe_file), undisturbed, "cpu", said.append)
    assert facts["training"]["steps"] == 6
    done, use = said
    assert "nothing to do" in done
    assert str(undisturbed) in done
    assert f"--method fwl:weights={undisturbed / 'weights.safetensors'}" in use
    with pytest.raises(UsageError, match=r"another training \(steps: 6, now 7\); give another"):
        train(load_recipe(recipe_file, steps=7), undisturbed, "cpu", said.append)


PLUGIN = """
import torch
from tta_bench import register
from tta_bench.heads import Head, TrainedHead

class Scale(Head):
    adapts = False

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def fresh_state(self, lanes):
        return {}

    def forward(self, hidden, labels, mask, unembedding, state):
        return RETURNED

@register("NAME")
class Scaled(TrainedHead):
    \"\"\"Scales what the body gives.\"\"\"

    family = "head"

    @classmethod
    def slow_weights(cls, model, slow):
        return Scale()
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a plugin of a head and registers it; returns its file."""
    from tta_bench.contract import registry

    monkeypatch.setattr(registry, "_plugin_files", {})

    def write(name, returned):
        file = tmp_path / f"{name.replace('-', '_')}.py"
        file.write_text(PLUGIN.replace("NAME", name).replace("RETURNED", returned))
        registry.add_plugin(file)
        return file

    return write


def test_another_source_of_the_method_is_another_training(
    plugin, recipe_file, tmp_path, monkeypatch
):
    plugin("toy-scale", "hidden * self.scale, state")
    recipe = load_recipe(recipe_file, method="toy-scale", steps=1)
    train(recipe, tmp_path / "out", "cpu", lambda _: None)
    # As a later process finds it, in which the file was edited before it was imported.
    monkeypatch.setattr("tta_bench.training.train.source_hash", lambda cls: "0" * 64)
    with pytest.raises(UsageError, match=r"\(the source of toy-scale has changed\)"):
        train(recipe, tmp_path / "out", "cpu", lambda _: None)


def test_a_short_training_is_timed_and_logged_from_its_first_step_to_its_last(
    recipe_file, tmp_path
):
    recipe = load_recipe(recipe_file, steps=23)
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, log_every=50))
    said = []
    began = time.monotonic()
    took = train(recipe, tmp_path, "cpu", said.append)["training"]
    assert took["timed_steps"] == 23
    assert 0 < took["seconds"] < time.monotonic() - began
    assert took["tokens_per_second"] == pytest.approx(took["tokens"] / took["seconds"])
    with open(tmp_path / "log.csv", newline="") as log:
        rows = list(csv.DictReader(log))
    assert [int(row["step"]) for row in rows] == [1, *range(2, 23, 2), 23]
    assert 0 < float(rows[0]["seconds"]) < float(rows[1]["seconds"]) <= took["seconds"] + 0.01
    assert any(line.startswith("23 steps, ") for line in said)
    assert re.search(
        r"^step 1 of 23  loss .* tokens/s  0:\d\d left$", "\n".join(said), re.MULTILINE
    )


@pytest.mark.parametrize(("compiles", "timed"), [(True, [0, 1, 2]), (False, [1, 2, 3])])
def test_the_clock_leaves_out_the_step_that_compiles_and_no_other(compiles, timed):
    from transformers import TrainerControl, TrainerState

    from tta_bench.training.budget import Budget

    alone, undisturbed = Processes(torch.device("cpu")), Interrupt(lambda _: None)
    budget = Budget(Schedule(steps=10), None, alone, None, undisturbed, compiles)
    state, control = TrainerState(max_steps=10), TrainerControl()
    budget.on_train_begin(None, state, control)
    for step, steps in enumerate(timed, start=1):
        time.sleep(0.01)
        state.global_step = step
        budget.on_optimizer_step(None, state, control)
        budget.on_step_end(None, state, control)
        assert budget.timed_steps == steps
        assert (budget.left(step) is None) == (steps == 0)
        assert budget.seconds >= 0.01 * steps
    assert 0.05 < budget.left(3) < 5
    assert not control.should_log


def test_no_rate_is_said_where_the_only_step_compiled():
    from tta_bench.training.trainer import Trained

    assert Trained(1, 640, 0, None, 1.0).tokens_per_second is None
    assert Trained(5, 640, 4, 2.0, 1.0).tokens_per_second == 640 * 4 / 5 / 2


@pytest.mark.parametrize(
    ("returned", "kind"),
    [("hidden * self.scale", "not Tensor"), ("(hidden, state, None)", "Tensor, dict, NoneType")],
)
def test_a_head_that_returns_no_state_is_one_sentence(
    returned, kind, plugin, recipe_file, tmp_path
):
    name = f"toy-wrong-{len(returned)}"
    plugin(name, returned)
    recipe = load_recipe(recipe_file, method=name, steps=1)
    with pytest.raises(
        MethodError, match=r"Scale\.forward must return \(outputs, state\)"
    ) as error:
        train(recipe, tmp_path / "out", "cpu", lambda _: None)
    assert kind in str(error.value)
    plugin(name, f"({returned})")  # edited: what has trained nothing does not stand in the way
    with pytest.raises(MethodError, match="must return"):
        train(recipe, tmp_path / "out", "cpu", lambda _: None)
    method = make_method(tiny_model(), name, weights="random")
    with pytest.raises(MethodError, match=r"Scale\.forward must return \(outputs, state\)"):
        run_method(method, [random_document("d", 40, 1)], Protocol(chunk=16))


def test_the_remedy_for_missing_weights_is_a_whole_command(plugin):
    file = plugin("toy-remedy", "hidden * self.scale, state")
    command = "tta-bench train toy-remedy --base random-llama --dataset builtin:stdlib"
    with pytest.raises(UsageError) as error:
        make_method(tiny_model(), "toy-remedy")
    assert f"{command} --plugin {file}" in str(error.value)


@slow
def test_killed_and_taken_up_it_ends_with_the_same_weights(undisturbed, recipe_file, tmp_path):
    """The real command, killed without warning after its second checkpoint."""
    command = [sys.executable, "-m", "tta_bench", "train", "--config", str(recipe_file)]
    command += ["--output", str(tmp_path), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoints" / "checkpoint-4" / "budget.json").is_file():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "weights.safetensors").exists()
    said = []
    train(load_recipe(recipe_file), tmp_path, "cpu", said.append)
    assert any("going on from step" in line for line in said)
    found, expected = (
        load_file(folder / "weights.safetensors") for folder in (tmp_path, undisturbed)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    rows = [(folder / "log.csv").read_text().splitlines() for folder in (tmp_path, undisturbed)]
    assert len(rows[0]) == len(rows[1])


def test_a_body_from_scratch_comes_with_its_weights(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, method="fwl:residual=no", body="scratch", steps=2)
    train(recipe, tmp_path, "cpu", lambda _: None)
    model = load_model("builtin:tiny", "float32", "cpu")
    method = make_method(model, "fwl", weights=str(tmp_path / "weights.safetensors"))
    assert method.model is not model
    name, value = next(iter(model.net.named_parameters()))
    assert not torch.equal(method.model.parameter(name), value)
    run_method(method, [random_document("d", 40, 1)], Protocol(chunk=16))
    assert method.offline_flops > 0
    assert method.offline_seconds > 0


def test_the_body_alone_is_a_model(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, method="none", body="scratch", steps=2)
    said = []
    train(recipe, tmp_path, "cpu", said.append)
    assert said[-1].endswith(f"--model {tmp_path} --method none")
    model = load_model(str(tmp_path), "float32", "cpu")
    assert model.config.tie_word_embeddings
    text = "def f(x):\n\treturn  x + 12345  # naïve 漢字\r\n"
    assert (
        model.tokenizer.decode(model.tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    )


# --- files that do not fit ------------------------------------------------------------------


def test_weights_of_another_base_or_method_are_refused(tmp_path):
    llama, qwen = tiny_model("llama"), tiny_model("qwen2")
    file = tmp_path / "w.safetensors"
    weights_of(FastWeightHead(32, FastWeightOptions()), llama, {}).save(file)
    make_method(llama, "fwl", weights=str(file))
    with pytest.raises(UsageError, match="trained on random-llama, and random-qwen2 is another"):
        make_method(qwen, "fwl", weights=str(file))
    weights_of(FastWeightHead(32, FastWeightOptions()), llama, {}, method="other").save(file)
    with pytest.raises(UsageError, match="of other, not of fwl"):
        make_method(llama, "fwl", weights=str(file))


def test_eval_refuses_weights_of_another_method_before_any_method_runs(tmp_path):
    from typer.testing import CliRunner

    from tta_bench.cli.main import app

    file = tmp_path / "w.safetensors"
    weights_of(FastWeightHead(32, FastWeightOptions()), tiny_model(), {}, method="other").save(file)
    arguments = ["eval", "--model", "builtin:tiny", "--dataset", "builtin:pydoc", "--limit", "1"]
    arguments += ["--method", "none", "--method", f"fwl:weights={file}"]
    result = CliRunner().invoke(app, [*arguments, "--results", str(tmp_path / "results")])
    assert isinstance(result.exception, UsageError)
    assert "of other, not of fwl" in str(result.exception)
    assert not (tmp_path / "results").exists()


def test_a_file_that_is_none_is_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="no readable safetensors"):
        make_method(tiny_model(), "fwl", weights=str(file))
    with pytest.raises(UsageError, match="there is no file"):
        make_method(tiny_model(), "fwl", weights=str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="no trained weights for random-llama"):
        make_method(tiny_model(), "fwl")
    plain = Path(load_tiny_folder()) / "model.safetensors"
    with pytest.raises(UsageError, match="holds no slow weights"):
        make_method(tiny_model(), "fwl", weights=str(plain))


def load_tiny_folder():
    from importlib.resources import files

    return str(files("tta_bench") / "data" / "tiny")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a method"),
        (["fwl"], "either a dataset"),
        (["neural-cache", "--dataset", "builtin:pydoc"], "has no slow weights to train"),
        (["fwl:rates=9", "--dataset", "builtin:pydoc"], "rates must be 1 to 4"),
        (["none", "--dataset", "builtin:pydoc"], "nothing to train beside the body"),
        (["fwl", "--config", "missing.yaml"], "no recipe"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path):
    from typer.testing import CliRunner

    from tta_bench.cli.main import app

    result = CliRunner().invoke(app, ["train", *arguments, "--output", str(tmp_path / "out")])
    assert isinstance(result.exception, BenchError)
    assert sentence in str(result.exception)
    assert not (tmp_path / "out" / "recipe.json").exists()
