"""Weights that are missing or cut are named, with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from tta_bench.errors import ModelError
from tta_bench.model import locate
from tta_bench.model.incomplete import INDEX, incomplete_weights
from tta_bench.model.load import load_model
from tta_bench.model.shape import load_shape


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of two files of weights and their index."""
    names = {f"w{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    for weight, file in names.items():
        save_file({weight: torch.ones(100)}, tmp_path / file)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": names}))
    return tmp_path


def test_all_there_is_nothing_to_say(shards: Path) -> None:
    assert incomplete_weights(shards) is None


def test_a_missing_file_is_named(shards: Path) -> None:
    (shards / "model-00002-of-00002.safetensors").unlink()
    found = f"model-00002-of-00002.safetensors is missing, which {INDEX} names"
    assert incomplete_weights(shards) == found


@pytest.mark.parametrize("change", [slice(0, -8), slice(0, 4), None])
def test_a_file_of_another_length_is_named(change: slice | None, shards: Path) -> None:
    file = shards / "model-00001-of-00002.safetensors"
    data = file.read_bytes()
    file.write_bytes(data + b"\0" * 8 if change is None else data[change])
    assert incomplete_weights(shards) == f"{file.name} is damaged or incomplete"


def test_an_unreadable_index_leaves_the_files(shards: Path) -> None:
    (shards / INDEX).write_text("[]")
    assert incomplete_weights(shards) is None


@pytest.mark.parametrize("load", [load_model, load_shape])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("config.json", "the folder has no config.json; name the folder that has one"),
        ("model.safetensors", "the folder has no weights; put model.safetensors beside"),
        ("t5", "it is no causal language model, .* choose a causal one"),
    ],
)
def test_what_is_no_model_is_told_in_a_sentence(
    name: str, sentence: str, load: Callable[[str], object], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(locate.built_in_folder("tiny"), folder)
    if name == "t5":
        transformers.T5Config(vocab_size=4096).save_pretrained(folder)
    else:
        (folder / name).unlink()
    if (name, load) == ("model.safetensors", load_shape):
        return  # a shape needs no weights
    with pytest.raises(ModelError, match=rf"model cannot be loaded: {sentence}"):
        load(str(folder))


def test_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(locate.built_in_folder("tiny"), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    sentence = r"model\.safetensors is damaged or incomplete; copy or download it again\.$"
    with pytest.raises(ModelError, match=sentence):
        load_model(str(folder))
