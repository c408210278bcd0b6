"""A model whose parts accelerate keeps in several places reads as the whole one does.

There is no second GPU here: memory of the CPU and a disk are the places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from slow import slow
from small_models import TEXT, base_folder
from tiny import make_method, random_document, run_method

from tta_bench import extras
from tta_bench.engine.loop import Engine
from tta_bench.engine.preflight import check_needs
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import ModelError, UsageError
from tta_bench.evaluation.plan import choose_methods
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.load import load_model
from tta_bench.model.loading import Loading
from tta_bench.model.placement import reading_device, spread_over
from tta_bench.model.step_shape import StepShape

DOCUMENTS = [random_document(str(i), length, i) for i, length in enumerate((70, 50, 33))]
SPREAD = Loading(device_map="auto")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("spread") / "base", tie_word_embeddings=False)


@pytest.fixture(params=["first", "last", "all"])
def load(request: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a model of which some parts are on the disk, as if memory had held no more."""
    names = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1")
    names += ("model.norm", "lm_head")
    kept = {"first": names[3:], "last": names[:3], "all": ()}[request.param]
    where = {name: "cpu" if name in kept else "disk" for name in names}
    from transformers import AutoModelForCausalLM

    own = AutoModelForCausalLM.from_pretrained

    def spread(path: str, **options: Any) -> Any:
        if options.get("device_map") == "auto":
            options |= {"device_map": where, "offload_folder": str(tmp_path / "disk")}
        return own(path, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spread)
    return lambda loading=SPREAD: load_model(str(home), "float32", loading=loading)


def test_it_reads_as_the_whole_model_does(load: Any) -> None:
    whole, spread = load(Loading()), load()
    assert spread.device == torch.device("cpu")
    assert whole.fixed is None
    assert "disk" in spread.spread_over
    assert {f.outcome for f in spread.acceptance.findings} == {"ok"}
    for name in ("none", "window", "neural-cache", "fwl-untrained"):
        ours, theirs = (
            run_method(make_method(model, name, 2), DOCUMENTS) for model in (spread, whole)
        )
        for key in theirs:
            assert abs(ours[key] - theirs[key]).max() < 1e-4, name
    protocol = Protocol(chunk=16, context=32, context_mode="cache")
    ours, theirs = (
        run_method(make_method(model, "none", 2), DOCUMENTS, protocol) for model in (spread, whole)
    )
    assert all(abs(ours[key] - theirs[key]).max() < 1e-4 for key in theirs)


def test_it_is_the_same_model_and_says_where_it_lay(load: Any) -> None:
    whole, spread = (describe_model(load(loading)) for loading in (Loading(), SPREAD))
    assert model_identity(spread) == model_identity(whole)
    assert spread["parameters"] == whole["parameters"]
    assert "disk" in spread["spread_over"]
    assert "spread_over" not in whole


def test_methods_that_change_weights_and_compiling_are_refused(load: Any) -> None:
    spread = load()
    (choice,) = choose_methods(["dynamic-eval"])
    with pytest.raises(ModelError, match=r"^dynamic-eval: .* is spread over .*disk.*, so that"):
        check_needs(choice, spread, StepShape(16, 16, 0), 100)
    assert not Engine(make_method(spread, "none"), Protocol(chunk=16), None, compile=True).compile


def test_what_fits_into_one_place_is_a_model_like_any_other(home: Path) -> None:
    """As all do on a machine without GPUs, or with one that is large enough."""
    model = load_model(str(home), "float32", loading=SPREAD)
    assert not model.spread_over
    assert model.fixed is None
    run_method(make_method(model, "dynamic-eval"), DOCUMENTS[:1])


def test_one_device_and_all_of_them_contradict(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="takes all GPUs there are; leave out --device cpu"):
        load_model("builtin:tiny", device="cpu", loading=SPREAD)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--device-map auto needs the package accelerate; .*acc"):
        load_model("builtin:tiny", loading=SPREAD)


def test_the_names_of_places() -> None:
    net = torch.nn.Module()
    net.hf_device_map = {"a": 0, "b": 1, "c": 1, "d": "cpu"}  # type: ignore[assignment]
    assert spread_over(net) == ["cuda:0", "cuda:1", "cpu"]
    net.get_input_embeddings = lambda: net  # type: ignore[assignment]
    net._hf_hook = type("Hook", (), {"execution_device": 1})()  # type: ignore[assignment]
    assert reading_device(net) == torch.device("cuda", 1)


@slow
@pytest.mark.parametrize("load", ["all"], indirect=True)
def test_a_run_on_it_is_valid(load: Any, home: Path, tmp_path: Path) -> None:
    from tta_bench.evaluation.execute import run_suite
    from tta_bench.evaluation.progress import Progress
    from tta_bench.evaluation.rerun import suite_of
    from tta_bench.evaluation.suite import Suite
    from tta_bench.store import load_run

    (tmp_path / "a.txt").write_text(TEXT * 4)
    suite = Suite(
        models=[str(home)],
        datasets=[str(tmp_path / "a.txt")],
        methods=["none", "neural-cache"],
        protocol={"chunk": 32},
        device_map="auto",
    )
    with Progress(quiet=True) as progress:
        runs = [load_run(p) for p in list(run_suite(suite, progress, results=tmp_path))]
    for run in runs:
        assert run.summary["valid"] is True, run.summary
        assert run.manifest["config"]["device_map"] == "auto"
        assert suite_of(run).device_map == "auto"
