"""The documents of stored runs, opened again with the tokenizer alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tta_bench.documents import load_documents
from tta_bench.documents.tokens import Options, tokenized
from tta_bench.errors import DocumentError, ModelError
from tta_bench.evaluation.reopen import Reopened, reopen
from tta_bench.model.load import load_model, load_tokenizer
from tta_bench.store import Run, load_group


@pytest.fixture
def run(hostile_runs: Path) -> Run:
    return load_group(hostile_runs)[0]


def changed(run: Run, section: str, **values: Any) -> dict[str, Any]:
    return run.manifest | {section: run.manifest[section] | values}


def test_ids_and_text_are_those_the_run_read(run: Run) -> None:
    again = reopen(run.manifest)
    texts = [document.text for document in load_documents(run.manifest["dataset"]["spec"])]
    found = dict(again.pieces({row.index for row in run.rows}))
    assert len(found) == len(run.rows) == 4
    for row in run.rows:
        assert len(again.ids(row.index)) == row.tokens == len(found[row.index])
        whole = "".join(found[row.index])
        assert texts[row.index].startswith(whole)
        assert len(whole.encode()) == row.bytes
    assert [index for index, _ in again.pieces({3, 1})] == [1, 3]


def test_another_text_is_refused(run: Run, tmp_path: Path) -> None:
    texts = shutil.copytree(run.manifest["dataset"]["spec"], tmp_path / "texts")
    reopen(changed(run, "dataset", spec=str(texts)))  # the same texts elsewhere are the same
    (texts / "1.txt").write_text("Another text.", encoding="utf-8")
    with pytest.raises(DocumentError, match="holds other text here"):
        reopen(changed(run, "dataset", spec=str(texts)))


def test_what_is_not_there_is_said(run: Run) -> None:
    with pytest.raises(DocumentError, match="no file or folder"):
        reopen(changed(run, "dataset", spec="/no/such/folder"))
    with pytest.raises(ModelError, match="no model folder"):
        reopen(changed(run, "model", name="./no-such-model"))


def test_documents_joined_are_one(run: Run) -> None:
    """The protocols of other tools read one stream; its text has its separators."""
    spec = run.manifest["dataset"]["spec"]
    guide = {"name": "hf-guide", "chunk": 1024, "context": 0, "window": 64, "stride": None}
    manifest = changed(run, "dataset", max_tokens=None, limit=2)
    manifest["protocol"] = guide | {"context_mode": "none", "prefix": "auto", "reset": "document"}
    with pytest.raises(DocumentError, match="holds other text"):
        reopen(manifest)
    from tta_bench.documents import tokenized

    tokenizer = load_tokenizer("builtin:tiny")
    joined = tokenized(spec, tokenizer, limit=2, join="\n\n")
    manifest["dataset"]["fingerprint"] = joined.fingerprint
    ((index, pieces),) = reopen(manifest).pieces({0})
    texts = [document.text for document in load_documents(spec)][:2]
    assert (index, "".join(pieces)) == (0, "\n\n".join(texts))


@pytest.mark.parametrize("spec", ["builtin:tiny", "folder", "config"])
def test_the_tokenizer_comes_without_weights(spec: str, tmp_path: Path) -> None:
    import tta_bench

    tiny = Path(tta_bench.__file__).parent / "data" / "tiny"
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    specs = {"folder": str(folder), "config": f"config:{folder}"}
    tokenizer = load_tokenizer(specs.get(spec, spec))
    text = "It is naïve, of course."
    assert tokenizer(text).input_ids == load_model("builtin:tiny").tokenizer(text).input_ids


def test_a_tokenizer_without_offsets_loses_no_character(tmp_path: Path) -> None:
    """A token of ByT5 is a byte, which alone decodes to nothing in the middle of a character."""
    from transformers import ByT5Tokenizer

    text = "héllo wörld 日本 😀\n"
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    spec, tokenizer = str(tmp_path / "one.txt"), ByT5Tokenizer()
    documents = tokenized(spec, tokenizer, cache_dir=tmp_path / "cache")
    ((_, pieces),) = Reopened(spec, tokenizer, Options(), documents).pieces({0})
    assert len(pieces) == len(text.encode()) == len(documents[0].token_ids)
    assert "".join(pieces) == text
    assert pieces[1:3] == ["", "é"]
