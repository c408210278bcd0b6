"""Code that a model brings: an edit of it is another model, as a run's key sees it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, dynamic_module_utils

from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.load import load_model
from tta_bench.model.locate import built_in_folder
from tta_bench.model.shape import load_shape

CONFIGURATION = """
from transformers import LlamaConfig

class Config(LlamaConfig):
    model_type = "of-its-own"
"""
MODEL = """
from transformers import LlamaForCausalLM
from .configuration import Config
from .scale import SCALE

class Model(LlamaForCausalLM):
    config_class = Config

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * SCALE
        return output
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The built-in model with code of its own, which transformers copies into a folder here."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    forget_code()
    target = tmp_path / "model"
    shutil.copytree(built_in_folder("tiny"), target)
    config = json.loads((target / "config.json").read_text())
    names = {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "modeling.Model"}
    config |= {"model_type": "of-its-own", "auto_map": names}
    (target / "config.json").write_text(json.dumps(config))
    (target / "configuration.py").write_text(CONFIGURATION)
    (target / "modeling.py").write_text(MODEL)
    (target / "scale.py").write_text("SCALE = 1.0\n")
    yield target
    forget_code()


def forget_code() -> None:
    """As in another process: transformers keeps the classes that it has imported once."""
    CONFIG_MAPPING._extra_content.clear()
    MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.clear()
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def described_anew(folder: Path) -> dict[str, Any]:
    forget_code()
    return describe_model(load_model(str(folder), "float32", "cpu", True))


def test_an_edit_of_a_models_own_code_is_another_model(folder: Path) -> None:
    before = described_anew(folder)
    assert before["architecture"] == "Model"
    shape = load_shape(str(folder), "float32", "cpu", True)
    assert model_identity(describe_model(shape)) == model_identity(before)
    for name in ("modeling.py", "scale.py", "configuration.py"):
        (folder / name).write_text((folder / name).read_text() + "# an edit\n")
        after = described_anew(folder)
        assert after["sha256"] == before["sha256"]
        assert after["code_sha256"] != before["code_sha256"], name
        assert model_identity(after) != model_identity(before)
        before = after


def test_the_hash_is_of_the_code_that_was_imported(folder: Path) -> None:
    before = described_anew(folder)
    (folder / "modeling.py").write_text(MODEL + "# an edit, which this process does not import\n")
    again = describe_model(load_model(str(folder), "float32", "cpu", True))
    assert again["code_sha256"] == before["code_sha256"]


def test_the_same_code_elsewhere_is_the_same(folder: Path) -> None:
    before = described_anew(folder)
    (folder / "unused.py").write_text("")
    moved = folder.rename(folder.with_name("moved"))
    after = described_anew(moved)
    assert after["code_sha256"] == before["code_sha256"]


def test_a_model_without_code_of_its_own_has_no_such_hash() -> None:
    trusted = describe_model(load_model("builtin:tiny", "float32", "cpu", True))
    assert trusted == describe_model(load_model("builtin:tiny", "float32", "cpu"))
    assert "code_sha256" not in trusted
