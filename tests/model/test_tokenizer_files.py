"""A model's folder without a tokenizer, or with a damaged one, is told as that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tta_bench.errors import ModelError
from tta_bench.model.load import load_model, load_tokenizer
from tta_bench.model.locate import built_in_folder
from tta_bench.model.shape import load_shape


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The built-in model without its tokenizer."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(built_in_folder("tiny") / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("load", [load_model, load_tokenizer, load_shape])
def test_no_tokenizer(folder: Path, load: object) -> None:
    assert callable(load)
    words = r"has no tokenizer: name .* --tokenizer, .*tokenizer\.json"
    with pytest.raises(ModelError, match=words):
        load(str(folder))


def test_an_empty_tokenizer_that_transformers_makes_up(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("content", ["{", "", '{"a": 1}'])
def test_a_damaged_tokenizer(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"the tokenizer of .* \(tokenizer.json\) cannot be read"):
        load_tokenizer(str(folder))


def test_the_configuration_is_not_blamed_on_the_tokenizer(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded") as told:
        load_model(str(folder))
    assert "tokenizer" not in str(told.value)
