"""Weights in 4 or 8 bits: who may run on them, and what bitsandbytes is told.

bitsandbytes computes on a CPU, too, slowly and for few shapes; the bench refuses that, and these
tests go around the refusal, so that the rest is tried on what people really have.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from slow import slow
from small_models import TEXT, adapter_folder, base_folder
from tiny import make_method, random_document, run_method, tiny_model

from tta_bench import Method, Needs, extras
from tta_bench.contract.choice import MethodChoice
from tta_bench.cost.model_flops import ModelCost
from tta_bench.engine.loop import Engine
from tta_bench.engine.preflight import check_needs
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import ModelError, UsageError
from tta_bench.evaluation.plan import choose_methods
from tta_bench.model import load as loading_module
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.load import load_model
from tta_bench.model.loading import Loading
from tta_bench.model.quantisation import bits_and_bytes, check_load_in
from tta_bench.model.step_shape import StepShape

STEP = StepShape(16, 16, 0)
needs_package = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


def check(spec: str, model: Any) -> None:
    (choice,) = choose_methods([spec])
    check_needs(choice, model, STEP, 100)


@pytest.fixture
def quantised() -> Any:
    """A model that says of itself what one of GPTQ says, and is whole."""
    model = tiny_model("llama")
    model.net.is_quantized = True
    model.net.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    return model


@pytest.mark.parametrize(
    "spec", ["dynamic-eval", "dynamic-eval:subset=lora", "tint", "window:context=9+dynamic-eval"]
)
def test_methods_that_change_weights_are_refused(spec: str, quantised: Any) -> None:
    words = r"^\S+: random-llama holds its weights in 4 bits \(gptq\), so that methods that change"
    with pytest.raises(ModelError, match=words):
        check(spec, quantised)


@pytest.mark.parametrize(
    "spec", ["none", "window:context=9", "neural-cache", "fwl-untrained", "regression", "slot"]
)
def test_the_others_run(spec: str, quantised: Any) -> None:
    check(spec, quantised)


def test_a_plugin_says_that_it_takes_gradients(quantised: Any) -> None:
    head = type("Odd", (Method,), {"family": "head"})
    check_needs(MethodChoice("odd", head, head.Params()), quantised, STEP, 100)
    needs = classmethod(lambda *_: Needs(weights=True))
    odd = type("Odd", (Method,), {"family": "head", "needs": needs})
    with pytest.raises(ModelError, match="odd: random-llama holds its weights in 4 bits"):
        check_needs(MethodChoice("odd", odd, odd.Params()), quantised, STEP, 100)


def test_it_is_not_compiled(quantised: Any) -> None:
    method = make_method(quantised, "none")
    assert not Engine(method, Protocol(chunk=16), None, compile=True).compile


def test_what_was_dequantised_is_whole(quantised: Any) -> None:
    for told in ({"quant_method": "gguf"}, {"quant_method": "mxfp4", "dequantize": True}):
        quantised.net.config.quantization_config = told
        assert quantised.fixed is None
        check("dynamic-eval", quantised)


@pytest.mark.parametrize(
    ("load_in", "told"),
    [
        ("4bit", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}),
        # Outliers are found over a whole batch, so that later tokens would change predictions.
        ("8bit", {"load_in_8bit": True, "llm_int8_threshold": 0.0}),
    ],
)
def test_what_bitsandbytes_is_told(load_in: str, told: dict[str, Any]) -> None:
    config = bits_and_bytes(load_in, torch.bfloat16)
    assert {name: getattr(config, name) for name in told} == told
    assert config.load_in_4bit == (load_in == "4bit")


def test_it_takes_a_gpu_and_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for load in (load_model, loading_module.tried_model):
        with pytest.raises(UsageError, match="--load-in 4bit needs a CUDA GPU"):
            load("builtin:tiny", device="cpu", loading=Loading(load_in="4bit"))
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the packages bitsandbytes and .*\[bitsandbytes\]"):
        check_load_in(Loading(load_in="8bit"), torch.device("cuda"))
    check_load_in(Loading(), torch.device("cuda"))


# The package itself


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("few-bits") / "base")


@pytest.fixture
def load(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(loading_module, "check_load_in", lambda *_: None)

    def load(load_in: str | None, folder: Path = home, **loading: Any) -> Any:
        return load_model(str(folder), "float32", "cpu", False, Loading(load_in=load_in, **loading))

    return load


@needs_package
@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_a_rounded_model_reads_as_the_protocol_relies_on(load: Any, load_in: str) -> None:
    whole, rounded = load(None), load(load_in)
    remark = f"the model holds its weights in {load_in[0]} bits"
    assert remark in rounded.acceptance.remarks[0]
    assert {f.outcome for f in rounded.acceptance.findings} == {"ok"}
    documents = [random_document(str(i), 60, i) for i in range(3)]
    one, three = (run_method(make_method(rounded, "none", n), documents) for n in (1, 3))
    full = run_method(make_method(whole, "none"), documents)
    for key in full:
        assert abs(one[key] - three[key]).max() < 1e-4
        assert 1e-3 < abs(one[key] - full[key]).mean() < 0.5
    for name in ("neural-cache", "fwl-untrained", "regression", "slot"):
        run_method(make_method(rounded, name), documents[:1])
    identities = [model_identity(describe_model(model)) for model in (whole, rounded)]
    assert identities[1] == identities[0] | {"load_in": load_in}
    assert describe_model(rounded)["parameters"] == describe_model(whole)["parameters"]
    assert ModelCost(rounded).forward(STEP) == ModelCost(whole).forward(STEP)
    with pytest.raises(ModelError, match=f"holds its weights in {load_in[0]} bits"):
        check("dynamic-eval", rounded)


@needs_package
def test_an_adapter_stands_beside_a_rounded_base(load: Any, home: Path, tmp_path: Path) -> None:
    adapter = adapter_folder(tmp_path / "adapter", home)
    model = load("4bit", adapter)
    assert model.provenance["adapter"] == "beside"
    documents = [random_document("a", 60, 0)]
    with_it, without = (
        run_method(make_method(m, "none"), documents)["a"] for m in (model, load("4bit"))
    )
    assert abs(with_it - without).mean() > 1e-2


@slow
@needs_package
@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_a_run_on_it_is_valid(load: Any, load_in: str, home: Path, tmp_path: Path) -> None:
    from tta_bench.evaluation.execute import run_suite
    from tta_bench.evaluation.progress import Progress
    from tta_bench.evaluation.suite import Suite
    from tta_bench.store import load_run

    (tmp_path / "a.txt").write_text(TEXT * 4)
    suite = Suite(
        models=[str(home)],
        datasets=[str(tmp_path / "a.txt")],
        methods=["none", "neural-cache"],
        protocol={"chunk": 32},
        load_in=load_in,
        device="cpu",
    )
    with Progress(quiet=True) as progress:
        runs = [load_run(p) for p in list(run_suite(suite, progress, results=tmp_path))]
    for run in runs:
        assert run.summary["valid"] is True, run.summary
        assert run.summary["flops_agree"] is True
        assert run.manifest["model"]["load_in"] == load_in
        assert f"holds its weights in {load_in[0]} bits" in " ".join(run.summary["notes"])
