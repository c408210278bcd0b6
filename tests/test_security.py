"""Suites, documents and models come from others: none of them runs code or leaves its place."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Command
from stored_runs import make_row, store_run
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.documents.sources import load_documents
from tta_bench.errors import DocumentError, ModelError, UsageError
from tta_bench.evaluation.suite import load_suite
from tta_bench.fetch import packages
from tta_bench.model import locate, parts
from tta_bench.model.load import load_model
from tta_bench.store import create_group

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m[red]name[/red][link=x]\u202e.txt"
"""Steers a terminal, and is markup to Rich."""


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


class Marker:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


# Suites are data


@pytest.mark.parametrize("tag", ["object/apply:os.mkdir", "object/new:pathlib.Path", "name:os.sep"])
def test_a_suite_runs_no_code(tmp_path: Path, tag: str) -> None:
    made = tmp_path / "made"
    path = tmp_path / "suite.yaml"
    path.write_text(f"limit: 2\ndatasets: !!python/{tag} ['{made}']\n")
    with pytest.raises(UsageError, match="not valid YAML in line 2"):
        load_suite(str(path))
    assert not made.exists()


def test_the_wrong_key_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"

    def sentence(text: str) -> str:
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            load_suite(str(path))
        return str(caught.value)

    assert "line 3: there is no key 'modles'; did you mean 'models'?" in sentence(
        "# comment\nlimit: 3\nmodles: a\n"
    )
    assert "line 4: there is no key 'chunks'" in sentence(
        "limit: 3\nprotocol:\n  context: 8\n  chunks: 4\n"
    )
    assert "line 2: 'limit' must be a whole number" in sentence("seed: 1\nlimit: many\n")
    assert "line 3: 'limit' stands in line 1 already" in sentence("limit: 1\nseed: 2\nlimit: 3\n")
    assert "not valid YAML in line 3" in sentence("seed: 1\nlimit: [1\n")


def test_aliases_that_stand_for_gigabytes_stay_small(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "suite.yaml"
    path.write_text("limit: &b\n  " + "\n  ".join(lines) + "\n")
    with pytest.raises(UsageError) as caught:
        load_suite(str(path))
    assert len(str(caught.value)) < 500


# What documents are called and what errors quote


def test_names_of_documents_do_not_steer_the_terminal(tmp_path: Path) -> None:
    extra = (make_row(4, "error", key=HOSTILE, reason=HOSTILE),)
    run = store_run(tmp_path / "group", extra=extra)
    for command in (["show", "--documents"], ["compare"], ["compare", "--format", "json"]):
        done = CliRunner().invoke(app, [*command, str(run.path)], catch_exceptions=False)
        assert done.exit_code == 0
        assert harmless(done.stdout), command
        if "--documents" in command:
            assert "[red]" in done.stdout.replace("\n", ""), "markup is shown, not obeyed"


def test_errors_quote_files_without_steering_the_terminal(
    tta_bench: Command, tmp_path: Path
) -> None:
    row = {HOSTILE: 1}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    done = tta_bench("eval", "--dataset", "rows.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "[red]name" in done.stderr
    assert harmless(done.stderr)


# Paths stay where they are told


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked package whose links lead out of it, beside a file that is none of its own."""
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path))
    folder = tmp_path / "packages/pypi/thing"
    folder.mkdir(parents=True)
    (tmp_path / "packages/pypi/thing.json").write_text("{}")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "own.txt").write_text("own")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert packages.fetch_package("pypi:thing") == folder
    return folder


@pytest.mark.parametrize("pattern", ["../../../secret.txt", "//{}/secret.txt", "*/../../*/*.txt"])
def test_a_pattern_cannot_leave_its_package(package: Path, tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DocumentError, match="leads out of the package"):
        list(load_documents("pypi:thing/" + pattern.format(tmp_path)))


def test_a_link_cannot_leave_its_package(package: Path) -> None:
    assert [document.text for document in load_documents("pypi:thing")] == ["own"]
    with pytest.raises(DocumentError, match="No text file"):
        list(load_documents("pypi:thing/link.txt"))


def test_runs_stay_in_the_folder_of_results(tta_bench: Command, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Some words to read, and some more words to read. " * 8)
    (tmp_path / "....yaml").write_text("datasets: text.txt\nmax_tokens: 20\n")
    done = tta_bench("eval", "--suite", "....yaml", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results").iterdir())) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["....yaml", "results", "text.txt"]
    for name in ("../out", "/tmp/out", "a/b", "..", ""):
        with pytest.raises(UsageError, match="plain name"):
            create_group(name, base="x", digest="0", results=tmp_path)


# Weights and code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The built-in model as a folder of one's own."""
    target = tmp_path / "model"
    shutil.copytree(locate.built_in_folder("tiny"), target)
    return target


def test_a_folder_with_a_pickle_alone_is_refused_and_not_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Marker(folder / "ran")))
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: weights are read from safetensors"):
        load_model(str(folder))
    assert not (folder / "ran").exists()


def test_a_pickle_beside_safetensors_is_not_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Marker(folder / "ran")))
    assert load_model(str(folder)).net.dtype == torch.float32
    assert not (folder / "ran").exists()


def test_a_model_of_the_hub_without_safetensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    asked: dict[str, Any] = {}

    def refuse(location: str, **options: Any) -> None:
        asked.update(options)
        raise OSError(f"{location} does not appear to have a file named model.safetensors")

    monkeypatch.setattr(locate, "_hub_answers", lambda: True)
    monkeypatch.setattr(parts, "read_tokenizer", lambda *_: None)
    for asks_the_hub in ("find_adapter", "hub_commit"):
        monkeypatch.setattr(parts, asks_the_hub, lambda *_: None)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(ModelError, match="a pickle can run code"):
        load_model("some/model")
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


def test_damaged_weights_are_one_sentence(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))


@pytest.mark.parametrize("kind", ["llama", "of-its-own"])
def test_code_that_a_model_brings_is_not_run(folder: Path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    config |= {"model_type": kind, "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(
        f"from pathlib import Path\nPath({str(folder / 'ran')!r}).touch()\n"
    )
    if kind == "llama":  # transformers has its own: nothing else is needed
        assert type(load_model(str(folder)).net).__name__ == "LlamaForCausalLM"
    else:
        with pytest.raises(ModelError, match="--trust-remote-code") as caught:
            load_model(str(folder))
        assert "\n" not in str(caught.value)
    assert not (folder / "ran").exists()


def test_code_that_a_dataset_brings_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    script = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (folder / "data.py").write_text(script)
    with pytest.raises(DocumentError):
        list(load_documents(f"hf:{folder}"))
    assert not (tmp_path / "ran").exists()
