"""`tta-bench tune`, `tune:` in a suite and `--tuned-from`, as a user runs them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slow import slow
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.evaluation.suite import load_suite
from tta_bench.store import load_group, load_run
from tta_bench.store.tuning import TUNING, read_choices, tuning_of

PLUGIN = str(Path(__file__).parents[1] / "support" / "toy_scaled.py")
WORDS = ("fox", "dog", "cat", "hen", "cow", "ant", "bee", "elk")
FAST = ("--device", "cpu", "--chunk", "16", "--max-tokens", "32", "--plugin", PLUGIN)
SETS = "scaled:scale=0.5|1"


def write_texts(folder: Path, numbers: range) -> None:
    folder.mkdir()
    for number in numbers:
        chance = random.Random(number)
        words = (f"{chance.choice(WORDS)}{chance.randrange(30)}" for _ in range(150))
        (folder / f"{number}.txt").write_text(" ".join(words))


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert code == 2, done.exception
        return str(done.exception)
    assert done.exit_code == code, done.output
    return done.output


def tune(folder: Path, *words: object) -> tuple[dict, str]:
    output = run("tune", "--dataset", "mine", *FAST, "--method", SETS, *words, "--json")
    return json.loads(output.splitlines()[-1]), output


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, and a group `it-tuning` of trials on some of them."""
    folder = tmp_path_factory.mktemp("tune")
    write_texts(folder / "mine", range(1))
    write_texts(folder / "theirs", range(10, 11))
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        tune(folder, "--name", "it", "--quiet")
    return folder


def test_the_best_lies_inside_and_every_trial_is_a_stored_run(tuned: Path, monkeypatch) -> None:
    monkeypatch.chdir(tuned)
    (one,) = read_choices(tuned / "results" / "it-tuning")
    assert [trial.values["scale"] for trial in one.trials][:2] == ["0.5", "1"]
    (scale,) = one.parameters
    assert (scale.edge, scale.given) == (None, ("0.5", "1"))
    assert one.values["scale"] not in (scale.values[0], scale.values[-1])
    runs = load_group(tuned / "results" / "it-tuning")
    assert {f"it-tuning/{run.path.name}" for run in runs} == {t.runs[0] for t in one.trials}
    assert all(trial.valid and trial.tokens == 32 for trial in one.trials)
    assert one.flops == pytest.approx(sum(trial.flops for trial in one.trials))
    assert one.best.loss == min(trial.loss for trial in one.trials)
    listed = run("runs", "it-tuning")
    assert listed.count("complete") == len(runs)


def test_the_same_command_again_reads_what_is_stored(tuned: Path, monkeypatch) -> None:
    monkeypatch.chdir(tuned)
    group = tuned / "results" / "it-tuning"
    before = {path: path.read_bytes() for path in group.rglob("*.json*")}
    said, output = tune(tuned, "--name", "it")
    assert said["group"] == "it-tuning"
    assert output.count("nothing to do") == len(said["methods"][0]["trials"])
    assert {path: path.read_bytes() for path in group.rglob("*.json*")} == before


@slow
def test_a_choice_is_taken_over_to_other_documents(tuned: Path, monkeypatch) -> None:
    monkeypatch.chdir(tuned)
    (one,) = read_choices(tuned / "results" / "it-tuning")
    words = ("eval", "--dataset", "theirs", *FAST, "--method", "scaled", "--name", "new")
    output = run(*words, "--tuned-from", "it-tuning")
    assert "tuned over" in output
    (stored,) = load_group(tuned / "results" / "new")
    assert stored.spec == one.chosen
    assert tuning_of(stored.manifest) == one
    plain = run("plan", *words[1:-4], "--method", one.chosen, "--name", "new", "--json")
    (job,) = json.loads(plain.splitlines()[-1])["jobs"]
    assert job["run"] == f"results/new/{stored.path.name}"  # tuning is no part of the key
    (row,) = json.loads(run("show", "new", "--json"))["rows"]
    assert row["tuning"]["chosen"] == one.chosen


def test_text_that_was_tuned_on_is_refused(tuned: Path, monkeypatch) -> None:
    monkeypatch.chdir(tuned)
    words = ("--method", "scaled", "--name", "bad", "--tuned-from", "it-tuning")
    sentence = run("eval", "--dataset", "mine", *FAST, *words, code=2)
    assert "0.txt of mine and 0.txt of mine are the same text" in sentence
    shutil.copytree("mine", "near")
    text = Path("near/0.txt").read_text()
    Path("near/0.txt").write_text(f"{text} and more")
    long = ("--device", "cpu", "--plugin", PLUGIN, "--chunk", "64")
    suite = "datasets: near\nmethods: 'scaled:scale=0.5|1'\ntune: {datasets: mine}\n"
    Path("s.yaml").write_text(suite)
    sentence = run("eval", "--suite", "s.yaml", *long, "--name", "bad", code=2)
    assert "0.txt of mine and 0.txt of near on the tuning" in sentence
    assert not Path("results/bad").exists()
    assert not Path("results/bad-tuning").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "none"], "no method has a set of values to choose from"),
        (["--method", SETS, "--audit", "off"], "only audited trials can be chosen"),
        (["--method", "scaled:scale=1|1.0"], "two combinations of"),
        (["--method", "scaled:scale=1|-1"], "scale must be above 0"),
        (["--method", "scaled:scale=1|"], "has an empty value in it"),
        (["--method", "scaled:scales=1|2"], "did you mean 'scale'"),
    ],
)
def test_what_cannot_be_tuned_gets_one_sentence(tuned, monkeypatch, words, sentence) -> None:
    monkeypatch.chdir(tuned)
    assert sentence in run("tune", "--dataset", "mine", *FAST, *words, code=2)


def test_more_than_three_sets_need_an_extra(tuned, monkeypatch) -> None:
    monkeypatch.chdir(tuned)
    monkeypatch.setattr("tta_bench.extras.find_spec", lambda module: None)
    four = "ngram+neural-cache:weight=0.1|0.2,theta=1|2,window=8|16+scaled:scale=1|2"
    sentence = run("tune", "--dataset", "mine", *FAST, "--method", four, code=2)
    assert "tuning more than 3 parameters at once needs the package optuna" in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tune: {}", "names either datasets or a share"),
        ("tune: {share: 0.2, datasets: a}", "names either datasets or a share"),
        ("tune: {share: 1}", "'share' must be between 0 and 1"),
        ("tune: {shares: 1}", "did you mean 'share'"),
        ("tune: 3", "'tune' must be a mapping"),
        ("tune: {datasets: a, limit: 0}", "must be at least 1"),
        ("methods: [{m: {lr: []}}]", "line 1: 'lr' has an empty list"),
    ],
)
def test_a_wrong_suite_gets_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.yaml").write_text(f"{text}\n")
    with pytest.raises(Exception, match=words):
        load_suite(str(tmp_path / "s.yaml"))


def test_a_set_in_yaml_is_a_list(tmp_path: Path) -> None:
    text = "methods: [none, {scaled: {scale: [0.5, 1e-1]}}, 'scaled:scale=3|4']\n"
    (tmp_path / "s.yaml").write_text(text)
    suite = load_suite(str(tmp_path / "s.yaml"))
    assert suite.methods == ["none", "scaled:scale=0.5|0.1", "scaled:scale=3|4"]


@slow
def test_a_suite_tunes_on_a_share_and_reports_the_rest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "texts", range(6))
    suite = f"datasets: texts\nmethods: [none, '{SETS},most=1.5']\ntune: {{share: 0.5}}\n"
    Path("s.yaml").write_text(suite)
    words = ("--suite", "s.yaml", *FAST, "--name", "it")
    planned = json.loads(run("plan", *words, "--json").splitlines()[-1])["jobs"]
    assert [job["dataset"] for job in planned] == 2 * ["share:0.5:texts"] + ["rest:0.5:texts"]
    output = run("eval", *words)
    none, best = load_group("results/it")
    tuning = tuning_of(best.manifest)
    assert tuning.chosen == best.spec
    assert tuning_of(none.manifest) is None
    mine, theirs = set(tuning.documents[0].sha256), {row.sha256 for row in best.rows}
    assert mine
    assert not mine & theirs
    assert len(mine | theirs) == 6
    assert f"{best.spec}: tuned over" in output.replace("\n", " ")
    planned = json.loads(run("plan", *words, "--json").splitlines()[-1])["jobs"]
    assert all(job["stored"] == job["documents"] for job in planned)
    before = load_run(best.path).manifest
    run("eval", *words)
    assert load_run(best.path).manifest == before
    untuned = run("eval", *words, "--method", "none")  # flags left nothing to tune
    assert "rest:0.5:texts" in untuned
    assert "tuned over" not in untuned
    run("report", "it", "-o", "it.html", "--png", "png")
    assert Path("png/tuning-scale.png").is_file()
    assert "Tuning of scale" in Path("it.html").read_text()
    run("rm", "it-tuning", "--yes")
    assert not Path("results/it-tuning").exists()


@slow
def test_a_tuning_that_was_killed_goes_on_and_chooses_the_same(
    tuned: Path, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(tuned / "mine", tmp_path / "mine")
    words = ["tune", "--dataset", "mine", *FAST, "--method", SETS, "--name", "it", "--quiet"]
    command = [sys.executable, "-m", "tta_bench", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    group = tmp_path / "results" / "it-tuning"
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as child:
        while not list(group.glob("*/summary.json")):  # the first trial has ended
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    first = {path: path.read_bytes() for path in group.glob("*/rows.jsonl")}
    assert not (group / TUNING).exists()
    monkeypatch.chdir(tmp_path)
    run(*words)
    (again,), (whole,) = read_choices(group), read_choices(tuned / "results" / "it-tuning")
    assert again.values == whole.values
    assert [t.values for t in again.trials] == [t.values for t in whole.trials]
    assert len(list(group.glob("*/manifest.json"))) == len(whole.trials)
    ended = [path for path in first if (path.parent / "summary.json").exists() and first[path]]
    assert ended[0].read_bytes() == first[ended[0]]


@slow
def test_optuna_tunes_four_sets(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "mine", range(1))
    four = "scaled:scale=0.5|1,a=x|y,b=x|y,c=x|y"
    words = ("--dataset", "mine", *FAST, "--method", four, "--trials", "2", "--name", "four")
    output = run("tune", *words, "--json")
    (one,) = json.loads(output.splitlines()[-1])["methods"]
    assert one["sampler"] == {"name": "TPE", "trials": 2, "seed": 0}
    assert [p["label"] for p in one["parameters"]] == ["scale", "a", "b", "c"]
    assert 4 < len(one["trials"]) < 16
    losses = [trial["nll_per_token"] for trial in one["trials"]]
    chosen = next(trial for trial in one["trials"] if trial["spec"] == one["chosen"])
    assert chosen["nll_per_token"] == min(losses)
