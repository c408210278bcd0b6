"""`lf:DATASET`: a dataset with line ends of one kind."""

import pytest

from tta_bench.documents.sources import load_documents, open_source
from tta_bench.documents.split import undivided
from tta_bench.errors import DocumentError


@pytest.fixture
def texts(tmp_path):
    for name, text in {"dos": "a\r\nb\r\n\r\nc", "mac": "a\rb\r\rc", "unix": "a\nb\n\nc"}.items():
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
    return tmp_path


def test_all_line_ends_become_lf(texts):
    found = {document.key: document.text for document in load_documents(f"lf:{texts}")}
    assert found == {"dos.txt": "a\nb\n\nc", "mac.txt": "a\nb\n\nc", "unix.txt": "a\nb\n\nc"}
    kept = {document.key: document.text for document in load_documents(str(texts))}
    assert kept["dos.txt"] == "a\r\nb\r\n\r\nc"


def test_it_is_another_dataset_and_names_the_whole_one(texts):
    assert open_source(f"lf:{texts}", None).identity() != open_source(str(texts), None).identity()
    assert undivided("lf:share:0.5:x") == undivided("share:0.5:lf:x") == "x"


def test_what_is_not_there_is_said_as_without_it():
    with pytest.raises(DocumentError, match="no file or folder nowhere"):
        list(load_documents("lf:nowhere.txt"))


def test_a_dataset_must_be_named():
    with pytest.raises(DocumentError, match="write lf:DATASET"):
        open_source("lf:", None)
