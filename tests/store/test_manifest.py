"""What a manifest says, what it keeps to itself, and what changes the key of a run."""

from __future__ import annotations

import json
import math
import subprocess
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import PROTOCOL, make_manifest

import tta_bench
from tta_bench.store import environment, manifest
from tta_bench.store.jsonable import jsonable, without_private_paths
from tta_bench.store.key import run_key


@dataclass
class Params:
    lr: float = 1e-4
    clip: float = math.inf
    targets: tuple[str, ...] = ("q", "v")


def test_manifest_is_json_and_complete() -> None:
    method = {"name": "x", "spec": "x", "params": Params(), "source_sha256": "ab", "family": "head"}
    manifest = make_manifest(method=method)
    assert json.loads(json.dumps(manifest, allow_nan=False)) == manifest
    assert manifest["method"]["params"] == {"lr": 1e-4, "clip": "inf", "targets": ["q", "v"]}
    assert manifest["protocol"]["prefix_id"] == 1
    assert manifest["software"]["tta_bench"]["version"] == tta_bench.__version__
    assert manifest["software"]["packages"]["numpy"]
    assert manifest["platform"]["cores"] >= 1
    assert manifest["device"] == {"type": "cpu"}
    assert manifest["key"].startswith("k1-")
    assert len(manifest["key"]) == 3 + 16


def test_no_private_path_and_no_host_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "zoltan"
    work = home / "thesis"
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    manifest = make_manifest(
        command=[str(home / "bin" / "tta-bench"), "eval", f"--plugin={work}/p.py", str(work)],
        config={"models": [f"config:{work}/shape.json"], "cache": f"{home}/.cache", str(work): 1},
        dataset={"spec": f"{work}/books/*.txt", "fingerprint": "f"},
    )
    text = json.dumps(manifest)
    assert "zoltan" not in text  # letters that no hash has
    assert "thesis" not in text
    assert manifest["command"] == ["tta-bench", "eval", "--plugin=p.py", "."]
    assert manifest["config"] == {
        "models": ["config:shape.json"],
        "cache": "~/.cache",
        ".": 1,
    }
    assert manifest["dataset"]["spec"] == "books/*.txt"


def test_other_paths_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for text in (f"{work}-2/file", f"{work}2", f"/mnt{work}/file", "builtin:stdlib", "a/b"):
        assert without_private_paths(text) == text


def test_variables_that_set_precision_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.precision_overrides():
        monkeypatch.delenv(name)
    plain = make_manifest()
    assert "precision_overrides" not in plain
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    fewer = make_manifest()
    assert fewer["precision_overrides"] == {"NVIDIA_TF32_OVERRIDE": "1"}
    assert fewer["key"] != plain["key"]


CHANGES: dict[str, dict[str, Any]] = {
    "weights": {"model": {"name": "smollm2-135m", "sha256": "other"}},
    "revision": {"model": {"name": "smollm2-135m", "commit": "1234"}},
    "own code": {"model": {"name": "smollm2-135m", "sha256": "ab12", "code_sha256": "ef"}},
    "dtype": {"dtype": "bfloat16"},
    "documents": {"dataset": {"spec": "builtin:stdlib", "fingerprint": "other"}},
    "limit": {"dataset": {"spec": "builtin:stdlib", "fingerprint": "f00d", "limit": 3}},
    "chunk": {"protocol": PROTOCOL | {"chunk": 512}},
    "prefix": {"prefix_id": 2},
    "seed": {"seeds": {"torch": 1}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_key_changes_with_what_moves_numbers(name: str) -> None:
    assert make_manifest(**CHANGES[name])["key"] != make_manifest()["key"]


@pytest.mark.parametrize("field", ["name", "params", "source_sha256"])
def test_key_changes_with_the_method(field: str) -> None:
    manifest = make_manifest()
    manifest["method"][field] = "other"
    assert run_key(manifest) != manifest["key"]


def test_key_changes_with_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_manifest()["key"]
    monkeypatch.setattr(manifest, "ENGINE_VERSION", manifest.ENGINE_VERSION + 1)
    assert make_manifest()["key"] != key


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cuda:0"},
        {"lanes": 1},
        {"config": {"results": "elsewhere"}},
        {"command": ["tta-bench", "eval", "--json"]},
        {"dtype": "torch.float32"},
        {"protocol": PROTOCOL | {"prefix": "bos"}},  # the same token id
        {"model": {"name": "copy/of/it", "sha256": "ab12", "source": "folder"}},
        {"dataset": {"spec": "copy/*.py", "fingerprint": "f00d", "limit": None, "min_tokens": 0}},
    ],
)
def test_key_is_the_same_for_what_does_not(change: dict[str, Any]) -> None:
    assert make_manifest(**change)["key"] == make_manifest()["key"]


def test_key_is_pinned() -> None:
    """A change of this value orphans every stored run: raise KEY_VERSION with it."""
    assert make_manifest()["key"] == "k1-7418ee471561dee7"


def test_key_of_a_model_without_hashes_is_its_name_and_revision() -> None:
    keys = {
        make_manifest(model={"name": name, "revision": revision})["key"]
        for name in ("org/a", "org/b")
        for revision in ("main", "v2")
    }
    assert len(keys) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(json_values)
def test_anything_becomes_strict_json(value: Any) -> None:
    before = deepcopy(value)
    text = json.dumps(jsonable(value), allow_nan=False)
    assert jsonable(json.loads(text)) == jsonable(value)
    assert repr(value) == repr(before)


def test_checkout_state_is_of_the_package_not_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    file = tmp_path / "tta_bench" / "store" / "environment.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(environment, "__file__", str(file))
    assert environment.checkout_state() == {"commit": None, "dirty": None}
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    commit = (tmp_path / ".git" / "refs" / "heads").rglob("*")
    expected = next(path.read_text().strip() for path in commit if path.is_file())
    assert environment.checkout_state() == {"commit": expected, "dirty": False}
    (tmp_path / "README.md").write_text("documentation")
    assert environment.checkout_state()["dirty"] is False
    (file.parent / "new.py").write_text("")
    assert environment.checkout_state()["dirty"] is True


def test_a_cuda_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        class version:
            cuda = "13.0"

        class cuda:
            @staticmethod
            def get_device_properties(device: str) -> Any:
                class Properties:
                    name, total_memory, major, minor = "NVIDIA H100", 80 * 2**30, 9, 0

                return Properties

    monkeypatch.setattr(environment, "_output", lambda *command: "580.1\n580.1")
    assert environment.describe_device("cuda:0", Torch) == {
        "type": "cuda",
        "name": "NVIDIA H100",
        "memory_bytes": 80 * 2**30,
        "capability": "9.0",
        "driver": "580.1",
        "cuda": "13.0",
    }
    monkeypatch.setattr(environment, "_output", lambda *command: None)
    assert environment.describe_device("cuda", Torch)["driver"] is None
