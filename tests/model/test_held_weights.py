"""Weights in memory are those that were hashed, whatever becomes of their file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from tta_bench.errors import ModelError
from tta_bench.files import file_sha256
from tta_bench.heads.slow_weights import SlowWeights
from tta_bench.model import load as loading
from tta_bench.model.load import load_model
from tta_bench.model.locate import built_in_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The built-in model as a folder of one's own, whose weights are kept as float32."""
    target = tmp_path / "model"
    shutil.copytree(built_in_folder("tiny"), target)
    weights = load((target / "model.safetensors").read_bytes())
    as_float32 = {name: value.float() for name, value in weights.items()}
    save_file(as_float32, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("cut", [False, True], ids=["overwritten", "cut short"])
def test_a_file_that_changes_does_not_reach_the_model(folder: Path, cut: bool) -> None:
    model = load_model(str(folder), "float32", "cpu")
    before = {name: value.clone() for name, value in model.net.named_parameters()}
    file = folder / "model.safetensors"
    with file.open("r+b") as weights:
        if cut:
            weights.truncate(4096)  # what lies behind would end the process
        else:
            weights.seek(4096)
            weights.write(bytes(file.stat().st_size - 4096))
    assert all(torch.equal(value, before[n]) for n, value in model.net.named_parameters())
    assert model.net.get_input_embeddings().weight is model.net.get_output_embeddings().weight


def test_weights_that_change_while_they_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loading._from_pretrained

    def saved_meanwhile(*arguments: Any) -> Any:
        found = whole(*arguments)
        shutil.copy(built_in_folder("tiny") / "model.safetensors", folder / "another")
        (folder / "another").replace(folder / "model.safetensors")
        return found

    monkeypatch.setattr(loading, "_from_pretrained", saved_meanwhile)
    with pytest.raises(ModelError, match="was changed while it was being loaded"):
        load_model(str(folder), "float32", "cpu")


def test_slow_weights_do_not_follow_their_file(tmp_path: Path) -> None:
    model = load_model("builtin:tiny", "float32", "cpu")
    file = tmp_path / "head.safetensors"
    base = {"name": "builtin:tiny", "identity": {"weights": model_identity_of(model)}}
    tensors = {"weight": torch.ones(4096)}
    SlowWeights("mine", {}, "frozen", base, {}, tensors).save(file)
    hashed = file_sha256(file)
    found = SlowWeights.load(file, "mine", model)
    with file.open("r+b") as written:
        written.seek(-8192, 2)
        written.write(bytes(8192))
    assert file_sha256(file) != hashed
    assert torch.equal(found.tensors["weight"], tensors["weight"])


def model_identity_of(model: Any) -> dict[str, Any]:
    from tta_bench.model.identity import describe_model, model_identity

    identity: dict[str, Any] = json.loads(json.dumps(model_identity(describe_model(model))))
    return identity
