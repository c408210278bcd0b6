"""An adapter of PEFT is read on its base, merged or beside it, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import adapter_folder, base_folder, change_config
from tiny import make_method, random_document, run_method

from tta_bench import extras
from tta_bench.errors import BenchError, ModelError, UsageError
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.load import load_model, load_tokenizer, tried_model
from tta_bench.model.loading import PLAIN, Loading
from tta_bench.model.shape import load_shape

BESIDE, MERGED = Loading(adapter="beside"), Loading(adapter="merged")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter on it, and what PEFT itself makes of both."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    home = tmp_path_factory.mktemp("adapters")
    base = base_folder(home / "base")
    adapter = adapter_folder(home / "adapter", base)
    net = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(net, adapter).merge_and_unload()
    merged.save_pretrained(home / "merged")
    shutil.copy(base / "tokenizer.json", home / "merged")
    shutil.copy(base / "tokenizer_config.json", home / "merged")
    return home


def load(folder: Path | str, loading: Loading = PLAIN) -> Any:
    return load_model(str(folder), "float32", "cpu", loading=loading)


def losses(model: Any, name: str = "none", **params: str) -> torch.Tensor:
    documents = [random_document("a", 90, 0)]
    return torch.from_numpy(run_method(make_method(model, name, **params), documents)["a"])


@pytest.mark.parametrize(("method", "params"), [("none", {}), ("dynamic-eval", {"lr": "1e-4"})])
def test_an_adapter_has_the_numbers_of_the_merged_model(
    home: Path, method: str, params: dict[str, str]
) -> None:
    wanted = losses(load(home / "merged"), method, **params)
    merged = load(home / "adapter")
    assert torch.equal(losses(merged, method, **params), wanted)
    assert not torch.allclose(losses(load(home / "base"), method, **params), wanted, atol=1e-2)
    assert merged.provenance["adapter"] == "merged"
    if method == "none":
        beside = load(home / "adapter", BESIDE)
        torch.testing.assert_close(losses(beside), wanted, rtol=0, atol=1e-5)


def test_beside_the_base_its_own_weights_can_be_adapted(home: Path) -> None:
    beside = load(home / "adapter", BESIDE)
    assert any("lora_A" in name for name, _ in beside.net.named_parameters())
    assert not any(value.requires_grad for value in beside.net.parameters())
    frozen, adapted = losses(beside), losses(beside, "dynamic-eval", lr="1e-3")
    assert (frozen - adapted)[:16].abs().max() == 0  # the first chunk comes before any learning
    assert (frozen - adapted)[16:].abs().max() > 1e-3


def test_the_identity_is_of_adapter_and_base(home: Path, tmp_path: Path) -> None:
    def identity(folder: Path | str, loading: Loading = PLAIN) -> str:
        return json.dumps(model_identity(describe_model(load(folder, loading))), sort_keys=True)

    merged = identity(home / "adapter")
    seen = {merged, identity(home / "adapter", BESIDE), identity(home / "base")}
    assert len(seen) == 3
    assert identity(home / "adapter", MERGED) == merged
    moved = shutil.copytree(home / "adapter", tmp_path / "adapter")
    assert identity(moved) == merged
    other = base_folder(tmp_path / "other", seed=5)
    text = (moved / "adapter_config.json").read_text().replace(str(home / "base"), str(other))
    (moved / "adapter_config.json").write_text(text)
    assert identity(moved) not in seen


@pytest.mark.parametrize("loading", [Loading(), BESIDE])
def test_without_its_weights_it_is_the_same_model(home: Path, loading: Loading) -> None:
    """So that `plan` finds stored runs, and counts as `eval` does."""
    model = load(home / "adapter", loading)
    shape = load_shape(str(home / "adapter"), "float32", "cpu", loading=loading)
    then, now = describe_model(model), describe_model(shape)
    then.pop("acceptance")
    now.pop("acceptance", None)
    assert then == now
    assert then["base"]["name"] == str(home / "base")
    assert then["source"] == then["base"]["source"] == "folder"


def test_check_model_says_what_it_is(home: Path) -> None:
    found = tried_model(str(home / "adapter"), "float32", "cpu", loading=BESIDE).acceptance
    (detail,) = [one.detail for one in found.findings if one.name == "adapter"]
    assert detail == f"has an adapter (LORA) beside {home / 'base'}"


@pytest.mark.parametrize("named", ["../base", "base-inside", "builtin:tiny"])
def test_a_base_may_be_named_in_several_ways(home: Path, tmp_path: Path, named: str) -> None:
    base = shutil.copytree(home / "base", tmp_path / "base")
    if named == "builtin:tiny":
        from tta_bench.model.locate import built_in_folder

        base = built_in_folder("tiny")
    adapter = adapter_folder(tmp_path / "adapter", base, named)
    if named == "base-inside":
        base.rename(adapter / named)
    model = load(adapter)
    assert model.provenance["base"]["sha256"]
    with torch.no_grad():
        other = load(named if named == "builtin:tiny" else home / "base")
    assert not torch.allclose(losses(model), losses(other), atol=1e-3)


def test_the_tokenizer_beside_an_adapter_comes_first(home: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(home / "adapter", tmp_path / "adapter")
    assert "<mine>" not in load_tokenizer(str(adapter)).get_vocab()
    shutil.copy(home / "base" / "tokenizer_config.json", adapter)
    file = home / "base" / "tokenizer.json"
    (adapter / "tokenizer.json").write_text(file.read_text().replace("<unused>", "<mine>"))
    assert "<mine>" in load_tokenizer(str(adapter)).get_vocab()
    named = Loading(tokenizer=str(home / "base"))
    assert "<mine>" not in load_tokenizer(str(adapter), loading=named).get_vocab()


# The hub, by files that were fetched from it before


@pytest.fixture
def hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub, with a base at two revisions and an adapter of the second."""
    from huggingface_hub import constants

    def keep(name: str, folder: Path, commit: str) -> Path:
        kept = tmp_path / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, kept / "snapshots" / commit)
        (kept / "refs").mkdir(exist_ok=True)
        (kept / "refs" / "main").write_text(commit)
        return kept / "snapshots" / commit

    keep("some/base", home / "base", "a" * 40)
    keep("some/base", base_folder(tmp_path / "newer", seed=3), "b" * 40)
    adapter = keep("some/adapter", home / "adapter", "c" * 40)
    change_config(adapter, base_model_name_or_path="some/base", revision="a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_an_adapter_of_the_hub_with_a_base_at_a_revision(home: Path, hub: Path) -> None:
    model = load("some/adapter")
    found = model.provenance
    assert (found["source"], found["commit"]) == ("hub", "c" * 40)
    assert found["base"]["commit"] == found["base"]["revision"] == "a" * 40
    assert torch.equal(losses(model), losses(load(home / "merged")))
    shape = describe_model(load_shape("some/adapter", "float32", "cpu"))
    assert model_identity(shape) == model_identity(describe_model(model))


# Refusals


def broken(home: Path, folder: Path, how: str) -> Path:
    """An adapter that is none, in one of many ways."""
    adapter = shutil.copytree(home / "adapter", folder / "adapter")
    weights = adapter / "adapter_model.safetensors"
    changes: dict[str, dict[str, Any]] = {
        "a base that is gone": {"base_model_name_or_path": "/gone/base"},
        "a base of the hub that is not here": {"base_model_name_or_path": "gone/base"},
        "no base": {"base_model_name_or_path": None},
        "a base of random weights": {"base_model_name_or_path": "config:x.json"},
        "an adapter as base": {"base_model_name_or_path": str(home / "adapter")},
        "no kind": {"peft_type": None},
        "an unknown kind": {"peft_type": "NINE"},
        "prompt tuning": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
        "modules that the base lacks": {"target_modules": ["c_attn"]},
        "another rank": {"r": 2},
        "more modules": {"target_modules": ["q_proj", "v_proj", "down_proj", "up_proj"]},
        "fewer modules": {"target_modules": ["q_proj"]},
    }
    if how in changes:
        change_config(adapter, **changes[how])
    elif how == "another base":
        other = base_folder(folder / "other", hidden_size=32, intermediate_size=48)
        change_config(adapter, base_model_name_or_path=str(other))
    elif how == "a pickle":
        weights.rename(adapter / "adapter_model.bin")
    elif how == "no weights":
        weights.unlink()
    elif how == "no configuration":
        (adapter / "adapter_config.json").unlink()
    elif how == "no JSON":
        (adapter / "adapter_config.json").write_text("{")
    elif how == "damaged weights":
        weights.write_bytes(weights.read_bytes()[:900])
    return adapter


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("a base that is gone", r"names no model that can be had: .*no model folder /gone/base \("),
        ("a base of the hub that is not here", r"^gone/base \(the base of .*\) cannot be loaded"),
        ("no base", "names no base: write it into base_model_name_or_path"),
        ("a base of random weights", "which has random weights"),
        ("an adapter as base", "is an adapter itself: merge it"),
        ("no kind", "names no peft_type"),
        ("an unknown kind", "does not fit .*NINE"),
        ("prompt tuning", "kind PROMPT_TUNING, which puts tokens of its own into the context"),
        ("modules that the base lacks", "does not fit .*c_attn"),
        ("another rank", "does not fit .*size mismatch"),
        ("more modules", "does not fit .*it lacks .*up_proj"),
        ("fewer modules", "does not fit .*there is no place for"),
        ("another base", "does not fit .*size mismatch"),
        ("a pickle", r"weights in adapter_model\.bin: .*pickle can run code"),
        ("no weights", r"has an adapter_config\.json and no adapter_model\.safetensors"),
        ("no configuration", r"weights of an adapter .* and no adapter_config\.json"),
        ("no JSON", "cannot be read"),
        ("damaged weights", "cannot be loaded|does not fit"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=words) as told:
        load(broken(home, tmp_path, how))
    assert "\n" not in str(told.value)


def test_a_kind_that_cannot_be_merged_can_stand_beside(home: Path, tmp_path: Path) -> None:
    from peft.tuners.lora import LoraModel

    with pytest.MonkeyPatch.context() as here:

        def cannot(*_: object, **__: object) -> None:
            raise NotImplementedError

        here.setattr(LoraModel, "merge_and_unload", cannot)
        with pytest.raises(ModelError, match="PEFT cannot merge; use --adapter beside"):
            load(home / "adapter")
        load(home / "adapter", BESIDE)


def test_the_missing_package_is_named_with_its_extra(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(UsageError, match=r"an adapter needs the package peft; run .*\[peft\]"):
        load(home / "adapter")
    load_shape(str(home / "adapter"), "float32", "cpu")  # what is merged has the base's shape


def test_a_change_while_it_is_loaded_is_seen(home: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(home / "adapter", tmp_path / "adapter")
    from tta_bench.model.adapters import Adapter

    own = Adapter.put_on

    def meanwhile(self: Adapter, net: Any, loading: Loading) -> Any:
        change_config(adapter, lora_alpha=1)
        return own(self, net, loading)

    with pytest.MonkeyPatch.context() as here:
        here.setattr(Adapter, "put_on", meanwhile)
        with pytest.raises(BenchError, match="was changed while it was being loaded"):
            load(adapter)
