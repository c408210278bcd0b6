"""`tta-bench train` as a user has it: flags, Ctrl-C, what it says last, and bad input."""

import csv
import json
import shlex
import signal
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slow import slow

from tta_bench.cli import new_method
from tta_bench.contract.registry import load
from tta_bench.training.budget import LONGEST_SILENCE, Budget
from tta_bench.training.folder import how_to_use
from tta_bench.training.interrupt import Interrupt
from tta_bench.training.log import TrainingLog
from tta_bench.training.processes import Processes
from tta_bench.training.recipe import Recipe, Schedule, load_recipe

RECIPE = """
method: fwl:rates=2
dataset: texts
train:
  windows: [32]
  chunk: 16
"""
SMALL = ("--config", "small.yaml", "--device", "cpu", "--lanes", "2", "--segment", "64")

Room = namedtuple("Room", "free")


@pytest.fixture
def home(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(4):
        lines = [f"def number_{j}(x):\n    return x + {i}\n" for j in range(8)]
        (tmp_path / "texts" / f"{i}.txt").write_text("\n".join(lines))
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


@slow
def test_flags_override_the_recipe_and_the_last_line_evaluates(home, tta_bench):
    flags = ("--steps", 12, "--learning-rate", "2e-3", "--warmup-steps", 5, "--output", "out")
    done = tta_bench("train", *SMALL, *flags, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["folder"] == "out"
    schedule = facts["recipe"]["train"]
    wanted = {"lanes": 2, "segment": 64, "learning_rate": 2e-3, "warmup_steps": 5, "steps": 12}
    assert {key: schedule[key] for key in wanted} == wanted
    said = done.stderr.splitlines()
    steps = [line for line in said if line.startswith("step ")]
    assert steps[0].startswith("step 1 of 12 ")
    assert 10 <= len(steps) <= 15
    with (home / "out" / "log.csv").open(newline="") as log:
        assert max(float(row["learning_rate"]) for row in csv.DictReader(log)) > 1.4e-3
    assert said[0].startswith("loading ")
    assert said[1].startswith("tokenising ")
    last = said[-1]
    command = shlex.split(last.removeprefix("evaluate it with: tta-bench "))
    assert command[-1] == "fwl:weights=out/weights.safetensors"
    found = tta_bench("plan", *command[1:], "--limit", 1, cwd=home)  # it takes eval's options
    assert found.returncode == 0, found.stderr
    assert tta_bench("train", *SMALL, *flags, cwd=home).stderr.splitlines()[-1] == last


@slow
def test_the_last_line_runs_when_it_is_pasted(home, tta_bench):
    """A head in a file of the user's own, in folders whose names a shell would tear apart."""
    plugin, folder = home / "my heads" / "small block.py", "what I $trained; 'twice'"
    plugin.parent.mkdir()
    plugin.write_text(new_method.source("small-block", trained=True))
    words = ("small-block:width=8", "--plugin", plugin, "--steps", 1, "--lr", "1e-4")
    done = tta_bench("train", *SMALL, *words, "--warmup", 0, "--output", folder, cwd=home)
    assert done.returncode == 0, done.stderr
    stored = json.loads((home / folder / "training.json").read_text())["recipe"]
    assert stored["method"] == "small-block:width=8"
    assert (stored["train"]["learning_rate"], stored["train"]["warmup_steps"]) == (1e-4, 0)
    bench, *command = shlex.split(done.stderr.splitlines()[-1].removeprefix("evaluate it with: "))
    assert bench == "tta-bench"
    less = ("--limit", 1, "--max-tokens", 64, "--audit", "off", "--json")
    found = tta_bench(*command, *less, cwd=home)
    assert found.returncode == 0, found.stderr
    rows = json.loads(found.stdout)["rows"]
    assert [row["status"] for row in rows] == ["complete", "complete"]
    assert rows[1]["method"] == f"small-block:weights={folder}/weights.safetensors"


def test_what_was_trained_on_is_not_what_is_evaluated():
    for dataset, other in (("builtin:pydoc", "stdlib"), ("texts", "pydoc")):
        recipe = Recipe("mine", "fwl", dataset=dataset)
        words = shlex.split(how_to_use(load("fwl"), recipe, Path("out")))
        assert words[words.index("--dataset") + 1] == f"builtin:{other}"


@pytest.fixture
def pressed(monkeypatch):
    """Presses Ctrl-C so many times when the log has come to a step."""
    row = TrainingLog.row

    def press(times, at=2):
        def pressing(self, step, *rest):
            row(self, step, *rest)
            for _ in range(times if step == at else 0):
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(TrainingLog, "row", pressing)

    # pytest itself may have been started with Ctrl-C ignored, as a background job is.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield press
    signal.signal(signal.SIGINT, usual)


@slow
def test_ctrl_c_keeps_a_checkpoint_that_ends_as_if_undisturbed(home, tta_bench, pressed):
    command = ("train", *SMALL, "--steps", 6, "--warmup-steps", 1, "--output")
    assert tta_bench(*command, "whole", cwd=home).returncode == 0
    before = signal.getsignal(signal.SIGINT)
    for at, kept in ((2, "3 steps"), (4, "5 steps")):
        pressed(1, at)
        done = tta_bench(*command, "parts", cwd=home)
        assert done.returncode == 130
        assert "stopping after this step" in done.stderr
        assert done.stderr.endswith(
            f"Interrupted: {kept} are kept in parts; the same command goes on from there.\n"
        )
        assert signal.getsignal(signal.SIGINT) is before
    pressed(0)
    done = tta_bench(*command, "parts", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "going on from step 5" in done.stderr
    found, expected = (
        load_file(home / name / "weights.safetensors") for name in ("parts", "whole")
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    logs = [[*csv.DictReader((home / name / "log.csv").open())] for name in ("parts", "whole")]
    for mine, its in zip(*logs, strict=True):
        assert mine | {"seconds": ""} == its | {"seconds": ""}


def test_ctrl_c_stays_ignored_where_it_was(home, tta_bench, pressed):
    """A shell starts a background job so, and what the job starts inherits it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pressed(1)
    done = tta_bench("train", *SMALL, "--steps", 3, "--output", "out", cwd=home)
    assert done.returncode == 0, done.stderr
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_twice_keeps_nothing_and_says_so(home, tta_bench, pressed):
    pressed(2)
    done = tta_bench("train", *SMALL, "--steps", 6, "--output", "out", cwd=home)
    assert done.returncode == 130
    assert done.stderr.endswith("nothing is kept; the same command begins anew.\n")


# --- several recipes ------------------------------------------------------------------------


@pytest.fixture
def recipes(home):
    """A folder of two recipes and one that cannot be trained, as words of the command."""
    folder = home / "heads"
    folder.mkdir()
    for name, method in (("b", "delta"), ("a", "linear-attention"), ("c", "fwl:rates=9")):
        text = RECIPE.replace("fwl:rates=2", method)
        (folder / f"{name}.yaml").write_text(text)
    return ("--config", "heads", *SMALL[2:], "--steps", 2)


@slow
def test_a_folder_of_recipes_is_trained_by_one_command(home, tta_bench, recipes, monkeypatch):
    """What the body gives is kept, so that it rests in the second training, of equal weights."""
    from tta_bench.training.loss import SegmentLoss

    read, bodies = SegmentLoss._hidden, []
    monkeypatch.setattr(
        SegmentLoss, "_hidden", lambda self, *given: bodies.append(1) or read(self, *given)
    )
    recipes = (*recipes, "--seed", 3)
    words = ("train", *recipes, "--output", "out", "--hidden", "hidden")
    done = tta_bench(*words, cwd=home)
    assert done.returncode == 2
    assert len(bodies) == 1 + 2 + 1  # FLOPs are counted once in each training; two steps
    said = done.stderr
    assert said.startswith("3 recipes, 6 steps; 768 tokens at most are still to be read; how long")
    assert all(f"--- {n} of 3: {name}" in said for n, name in ((1, "a"), (2, "b"), (3, "c")))
    assert "--- 2 of 3: b; about 0:" in said
    assert said.count("at most 0 GiB are still to be added") == 1
    assert "c failed: " in said
    assert "1 of 3 recipes failed (c)" in said
    alone = tta_bench("train", "--config", "heads/b.yaml", *recipes[2:], "--output", "b", cwd=home)
    assert alone.returncode == 0, alone.stderr
    found, expected = (load_file(home / of / "weights.safetensors") for of in ("out/b", "b"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    (home / "heads" / "c.yaml").unlink()
    again = tta_bench(*words, "--json", cwd=home)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("nothing to do") == 2
    told = json.loads(again.stdout)
    assert [Path(of["folder"]).name for of in told] == ["a", "b"]
    assert {of["recipe"]["train"]["seed"] for of in told} == {3}


def test_recipes_that_cannot_be_told_apart_are_refused(home, tta_bench, recipes):
    for words, sentence in (
        ((*recipes, "--config", "heads/a.yaml"), "have the same name"),
        (("fwl", *recipes), "is for one recipe"),
        ((*recipes, "--config", "texts"), "the folder texts holds no recipe"),
    ):
        done = tta_bench("train", *words, cwd=home)
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


@slow
def test_hidden_states_that_cannot_be_kept_are_refused(home, tta_bench, monkeypatch):
    words = ("train", *SMALL, "--steps", 1, "--hidden", "hidden")
    done = tta_bench(*words, "--body", "joint", cwd=home)
    assert (done.returncode, "leave the option out" in done.stderr) == (2, True)
    monkeypatch.setattr("tta_bench.training.hidden.shutil.disk_usage", lambda _: Room(free=1000))
    done = tta_bench(*words, cwd=home)
    assert (done.returncode, "choose a folder with more room" in done.stderr) == (2, True)


# --- the budget -----------------------------------------------------------------------------


def budget_of(**schedule):
    alone, undisturbed = Processes(torch.device("cpu")), Interrupt(lambda _: None)
    return Budget(Schedule(**schedule), None, alone, None, undisturbed, False)


def test_the_rate_has_risen_after_a_quarter_of_the_steps():
    short, long = budget_of(steps=40), budget_of(steps=1000)
    assert short.rate(10) == pytest.approx(30 / 40)
    assert all(short.rate(step) < short.rate(step + 1) for step in range(9))
    assert [long.rate(step) for step in (0, 49, 99)] == pytest.approx(
        [0.01, 0.5 * 951 / 1000, 901 / 1000]
    )


def test_the_rate_has_risen_after_a_quarter_of_the_minutes():
    budget = budget_of(steps=1000, minutes=10)
    budget.spent = 150.0
    assert budget.rate(3) == pytest.approx(0.75)


def test_a_slow_training_is_never_silent_for_long():
    from transformers import TrainerControl, TrainerState

    budget, control = budget_of(steps=100), TrainerControl()
    for spent, says in ((LONGEST_SILENCE - 1, False), (LONGEST_SILENCE + 1, True)):
        budget.spent = spent
        budget.on_step_end(None, TrainerState(global_step=3, max_steps=100), control)
        assert control.should_log is says


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("--steps", 0), "steps"),
        (("--lanes", 0), "lanes"),
        (("--minutes", -1), "the command line: minutes must be 0 or more, not -1.0."),
        (("--learning-rate", 0), "the command line: learning_rate must be above 0, not 0.0."),
        (("--learning-rate", "nan"), "learning_rate must be above 0, not nan."),
        (("--segment", 40), "the segment (40) must be a multiple of every window (32)"),
        (("--dataset", "missing.txt"), "missing.txt"),
        (("--dataset", "empty.jsonl"), "There is no text in empty.jsonl"),
        (("--config", "missing.yaml"), "there is no recipe missing.yaml."),
        (("--config", "zero.yaml"), "zero.yaml, line 3: steps must be at least 1, not 0."),
        (("--config", "wide.yaml"), "longer than the"),
        (("--output", "small.yaml"), "small.yaml is a file; give another --output"),
        (("--output", "a,b"), "a,b could not be named as the weights of a method"),
        (("--output", "texts"), "texts holds files of something else; give another --output."),
        (("--prepared", "texts"), "texts holds no prepared texts"),
        (("--prepare-only",), "--prepare-only is for a recipe that lists a corpus"),
        (("--base", "missing-model"), "missing-model"),
        (("--device", "abacus"), "'abacus' is not a device"),
        (("--plugin", "missing.py"), "missing.py"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(home, tta_bench, changes, sentence):
    (home / "empty.jsonl").write_text("")
    (home / "zero.yaml").write_text("method: fwl\ndataset: texts\ntrain:\n  steps: 0\n")
    wide = "dataset: texts\nmethod: fwl\ntrain: {windows: [8192], segment: 8192, chunk: 64}\n"
    (home / "wide.yaml").write_text(wide)
    small = SMALL[2:4] if "wide.yaml" in changes else SMALL  # instead of the recipe, not after it
    done = tta_bench("train", *small, "--output", "out", *changes, cwd=home)
    assert done.returncode == 2, done.stderr
    assert sentence in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "out").exists()
    assert not (home / "texts" / "recipe.json").exists()


def test_a_training_that_diverges_ends_in_a_sentence(home, tta_bench, monkeypatch):
    from tta_bench.training.loss import SegmentLoss

    monkeypatch.setattr(SegmentLoss, "take_sums", lambda self: (float("nan"), 64))
    done = tta_bench("train", *SMALL, "--steps", 2, "--output", "out", cwd=home)
    assert done.returncode == 2
    assert "the loss is no finite number at step 1" in done.stderr


def test_memory_that_runs_out_is_one_sentence(home, tta_bench, monkeypatch):
    from tta_bench.training.loss import SegmentLoss

    def full(self, **_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SegmentLoss, "forward", full)
    done = tta_bench("train", *SMALL, "--steps", 2, "--output", "out", cwd=home)
    assert done.returncode == 2
    assert "--lanes" in done.stderr


def test_a_recipe_with_an_impossible_number_names_its_line(home):
    from tta_bench import UsageError

    (home / "bad.yaml").write_text("method: fwl\ndataset: texts\ntrain:\n  windows: []\n")
    with pytest.raises(UsageError, match=r"bad\.yaml, line 3: windows must be"):
        load_recipe(home / "bad.yaml")
