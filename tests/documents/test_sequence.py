"""Datasets one after another: `sequence:A|B|A`."""

import pytest

from tta_bench.documents import load_documents, tokenized
from tta_bench.documents.sequence import datasets_in, sequence_spec
from tta_bench.errors import DocumentError
from tta_bench.evaluation.recorded import recorded_suite
from tta_bench.model.load import load_tokenizer


@pytest.fixture
def folders(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            text = f"Text {number} of {name}. " * (1 + 9 * number)
            (tmp_path / name / f"{number}.txt").write_text(text)
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_documents_come_in_turn_and_keys_say_which(folders):
    a, b = folders
    spec = sequence_spec([a, b, a])
    assert spec == f"sequence:{a}|{b}|{a}"
    assert datasets_in(spec) == [a, b, a]
    assert datasets_in(a) == []
    documents = list(load_documents(spec))
    assert [d.key for d in documents] == [f"{t}/{n}.txt" for t in (1, 2, 3) for n in range(3)]
    assert [d.sha256 for d in documents[:3]] == [d.sha256 for d in documents[6:]]


def test_limits_count_in_each_dataset(folders):
    a, b = folders
    tokenizer = load_tokenizer("builtin:tiny")
    found = tokenized(sequence_spec([a, b, a]), tokenizer, limit=1, min_tokens=30, max_tokens=32)
    assert [document.key for document in found] == ["1/1.txt", "2/1.txt", "3/1.txt"]
    assert set(found.lengths.tolist()) == {32}
    turned = tokenized(sequence_spec([b, a, a]), tokenizer, limit=1, min_tokens=30, max_tokens=32)
    assert turned.fingerprint != found.fingerprint


@pytest.mark.parametrize("rest", ["", "a.txt", "a.txt|", "|a.txt"])
def test_a_sequence_of_one_is_refused(rest):
    with pytest.raises(DocumentError, match=r"names no two datasets; write sequence:A\|B\|A"):
        list(load_documents(f"sequence:{rest}"))


def test_a_missing_dataset_in_a_sequence_is_told(folders):
    with pytest.raises(DocumentError, match="no file or folder /nowhere"):
        list(load_documents(sequence_spec([folders[0], "/nowhere"])))


def test_home_folders_of_a_manifest_are_found_again(monkeypatch, make_sequence_manifest):
    monkeypatch.setenv("HOME", "/home/me")
    suite = recorded_suite(make_sequence_manifest("sequence:~/a|share:0.2:~/b"), "it")
    assert suite.datasets == ["sequence:/home/me/a|share:0.2:/home/me/b"]


@pytest.fixture
def make_sequence_manifest():
    from stored_runs import make_manifest

    def make(spec):
        dataset = {"spec": spec, "fingerprint": "f00d", "documents": 2}
        return make_manifest(dataset=dataset) | {"protocol": {"reset": "document"}}

    return make
