"""Jobs are plain data, planned without a model; what they will cost is what `eval` then stores."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from slow import slow

from tta_bench.errors import BenchError, ModelError, UsageError
from tta_bench.evaluation.estimate import estimate
from tta_bench.evaluation.execute import run_suite
from tta_bench.evaluation.executor import ThisProcess
from tta_bench.evaluation.plan import by_model, choose_methods, plan
from tta_bench.evaluation.progress import Progress
from tta_bench.evaluation.suite import Suite
from tta_bench.store import load_run

TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. "
METHODS = ["none", "dynamic-eval:subset=mlp", "window:context=40", "neural-cache", "fwl"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three documents, the last of which is too short to be scored."""
    folder = tmp_path_factory.mktemp("texts")
    for number, times in enumerate((4, 9)):
        (folder / f"{number}.txt").write_text(f"Number {number}. {TEXT * times}")
    (folder / "2.txt").write_text("a")
    return folder


def suite_of(texts: Path, **changes: Any) -> Suite:
    values: dict[str, Any] = {"datasets": [str(texts)], "protocol": {"chunk": 32}, "device": "cpu"}
    values |= {"audit": "off"}
    return Suite(**values | changes)


# Jobs


def test_a_plan_has_every_model_dataset_and_method_in_that_order(texts: Path) -> None:
    suite = suite_of(texts, models=["a", "b"], datasets=["x", "y"], methods=["none", "fwl"])
    jobs = plan(suite)
    names = [(job.setting.model, job.setting.dataset, job.method.name) for job in jobs]
    assert names == [(m, d, n) for m in "ab" for d in "xy" for n in ("none", "fwl")]
    assert [len(group) for group in by_model(jobs)] == [4, 4]


def test_jobs_travel_to_another_process(tmp_path: Path, texts: Path) -> None:
    """A plugin's parameters included, whose class that process has yet to import."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from dataclasses import dataclass\nfrom tta_bench import Method, register\n"
        '@register("planned")\nclass Planned(Method):\n'
        "    @dataclass\n    class Params:\n        rate: float = 0.5\n"
        "        parts: tuple[str, ...] = ('a', 'b')\n"
        "    def score(self, window):\n        return self.model.logits(window)\n"
    )
    suite = suite_of(texts, methods=["planned:rate=0.1,parts=[c]", "dynamic-eval"])
    jobs = plan(suite, plugins=[plugin])
    assert pickle.loads(pickle.dumps(jobs)) == jobs
    code = (
        "import pickle, sys\n"
        "jobs = pickle.load(sys.stdin.buffer)\n"
        "assert 'transformers' not in sys.modules\n"
        "print([job.method.choice().spec for job in jobs])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(jobs), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == str(["planned:rate=0.1,parts=[c]", "dynamic-eval"])


@pytest.mark.parametrize("spec", [*METHODS, "dynamic-eval:subset=lora,targets=[q_proj,v_proj]"])
def test_a_method_comes_back_as_it_was(texts: Path, spec: str) -> None:
    (job,) = plan(suite_of(texts, methods=[spec]))
    (wanted,) = choose_methods([spec])
    assert job.method.choice() == wanted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datasets": []}, "no documents are named"),
        ({"methods": ["nine"]}, "there is no method"),
        ({"methods": ["none", "none"]}, "asked for 2 times"),
        ({"protocol": {"chunk": 0}}, "--chunk must be"),
        ({"limit": 0}, "--limit must be at least 1"),
    ],
)
def test_mistakes_are_told_by_the_plan(texts: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(suite_of(texts, **changes))


# The executor


def stored(suite: Suite, results: Path, **options: Any) -> list[Any]:
    with Progress(quiet=True) as progress:
        return [load_run(p) for p in list(run_suite(suite, progress, results=results, **options))]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ["builtin:tiny", "./no-such-model"]}, "no model folder"),
        ({"datasets": ["TEXTS", "./no-such-text"]}, "no-such-text"),
        ({"protocol": {"chunk": 2000}}, "has 64 positions"),
        ({"protocol": {"name": "krause", "window": 2000}}, "fills a window of 2000 tokens"),
        ({"methods": ["none", "window:context=40"]}, "window:context=40 reads 72 tokens at once"),
        (
            {"methods": ["none", "dynamic-eval:subset=last-9"]},
            "^dynamic-eval:subset=last-9: config:.* has 7 layers",
        ),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"methods": ["none", "dynamic-eval:optimizer=rms19,stats=TEXTS"]}, "must come from other"),
    ],
)
def test_mistakes_anywhere_are_told_before_anything_runs(
    tmp_path: Path, texts: Path, changes: dict[str, Any], words: str
) -> None:
    """Those of later models, too, whose weights have not been loaded."""
    config = json.loads((tiny_folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    values: dict[str, Any] = {"models": ["builtin:tiny", f"config:{tmp_path}"]}
    values |= {"protocol": {"chunk": 32}} | changes
    for name in ("datasets", "methods"):
        named = values.get(name, ["TEXTS"] if name == "datasets" else ["none"])
        values[name] = [word.replace("TEXTS", str(texts)) for word in named]
    with pytest.raises(BenchError, match=words):
        stored(suite_of(texts, **values), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def tiny_folder() -> Path:
    import tta_bench

    return Path(tta_bench.__file__).parent / "data" / "tiny"


def test_consecutive_jobs_share_a_model(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tta_bench.evaluation import executor
    from tta_bench.model.load import load_model

    loaded: list[str] = []

    def load(spec: str, *rest: Any) -> Any:
        loaded.append(spec)
        return load_model(spec, *rest)

    monkeypatch.setattr(executor, "load_model", load)
    process = ThisProcess(Progress(quiet=True))
    (job,) = plan(suite_of(texts))
    first = process.load(job.setting)
    assert process.load(replace(job.setting, dataset="another", seed=3)) is first
    assert process.load(replace(job.setting, dtype="float64")) is not first
    assert loaded == ["builtin:tiny"] * 2


# Estimates


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param({"chunk": 32}, id="chunks"),
        pytest.param({"chunk": 16, "context": 24, "context_mode": "cache"}, id="cache", marks=slow),
        pytest.param(
            {"chunk": 16, "context": 24, "context_mode": "recompute", "prefix": "none"},
            id="recompute",
            marks=slow,
        ),
        pytest.param({"name": "llama.cpp", "window": 32}, id="llama.cpp", marks=slow),
    ],
)
def test_estimates_are_what_eval_stores(tmp_path: Path, texts: Path, protocol: Any) -> None:
    methods = METHODS if protocol == {"chunk": 32} else ["none", "dynamic-eval:subset=mlp"]
    suite = suite_of(texts, methods=methods, protocol=protocol)
    before = list(estimate(plan(suite), results=tmp_path))
    assert [one.stored for one in before] == [0] * len(methods)
    assert not list(tmp_path.iterdir())
    runs = stored(suite, tmp_path)
    assert [one.run for one in before] == [run.path for run in runs]
    for one, run in zip(before, runs, strict=True):
        tokens = sum(row.tokens for row in run.rows)
        assert (one.method, one.documents, one.tokens) == (run.spec, len(run.rows), tokens)
        assert one.flops_per_token == run.cost("flops_per_token")
        assert one.flops == run.cost("flops_per_token") * tokens
    after = list(estimate(plan(suite), results=tmp_path))
    assert [replace(one, stored=0, shards=before[0].shards) for one in after] == before
    assert [one.shards for one in after] == [0] * len(methods)
    assert [one.stored for one in after] == [one.documents for one in after]


def test_what_has_no_figure_says_why(tmp_path: Path, texts: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from tta_bench import Method, register\n"
        '@register("formless")\nclass Formless(Method):\n'
        "    def score(self, window):\n        return self.model.logits(window)\n"
    )
    methods = ["formless", "fwl-untrained"]
    methods += ["dynamic-eval:optimizer=rms19,stats=builtin:stdlib"]
    found = list(estimate(plan(suite_of(texts, methods=methods), plugins=[plugin]), results=texts))
    assert [one.flops for one in found] == [None] * 3
    reasons = [one.reason or "" for one in found]
    words = ["has no formula", "needs the model's weights", "reads builtin:stdlib"]
    assert all(word in reason for word, reason in zip(words, reasons, strict=True)), reasons


def test_weights_are_hashed_and_never_loaded(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of weights that hold none: a model that loads them fails, a plan does not care."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_folder(), folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    suite = suite_of(texts, models=[str(folder)])
    (one,) = estimate(plan(suite), results=tmp_path)
    (other,) = estimate(plan(suite_of(texts)), results=tmp_path)
    assert one.flops == other.flops
    assert one.run != other.run, "other weights are another run"
    with pytest.raises(ModelError, match="cannot be loaded"):
        stored(suite, tmp_path / "results")


def test_an_estimate_is_json(tmp_path: Path, texts: Path) -> None:
    (one,) = estimate(plan(suite_of(texts)), name="mine", results=tmp_path)
    found = json.loads(json.dumps(one.to_dict()))
    assert found == {**asdict(one), "run": one.run.as_posix(), "flops": one.flops}
    assert Path(found["run"]).parent == tmp_path / "mine"
