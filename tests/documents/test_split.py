"""A dataset in two parts: `share:0.2:DATASET` and `rest:0.2:DATASET`."""

import pytest

from tta_bench.documents import load_documents
from tta_bench.documents.split import part_spec, undivided
from tta_bench.errors import DocumentError


@pytest.fixture
def texts(tmp_path):
    for number in range(60):
        (tmp_path / f"{number:02d}.txt").write_text(f"Text {number % 50}.")
    return str(tmp_path)


def keys(spec):
    return {document.key for document in load_documents(spec)}


def test_the_parts_are_disjoint_and_together_whole(texts):
    share, rest = keys(f"share:0.2:{texts}"), keys(f"rest:0.2:{texts}")
    assert not share & rest
    assert share | rest == keys(texts)
    assert 4 <= len(share) <= 20
    assert keys(f"share:0.1:{texts}") < share
    held = {d.text for d in load_documents(f"share:0.2:{texts}")}
    assert not held & {d.text for d in load_documents(f"rest:0.2:{texts}")}  # copies stay together


def test_the_side_of_a_text_does_not_depend_on_what_stands_beside_it(texts, tmp_path):
    before = keys(f"share:0.3:{texts}")
    for number in range(0, 60, 2):
        (tmp_path / f"{number:02d}.txt").unlink()
    assert keys(f"share:0.3:{texts}") == {key for key in before if int(key[:2]) % 2}


def test_a_part_of_a_part(texts):
    spec = part_spec("share", 0.5, part_spec("rest", 0.2, texts))
    assert spec == f"share:0.5:rest:0.2:{texts}"
    assert undivided(spec) == texts
    assert undivided(texts) == texts
    assert keys(spec) < keys(f"rest:0.2:{texts}")


@pytest.mark.parametrize("share", ["", "0", "1", "1.5", "x", "nan"])
def test_a_wrong_share_is_refused(texts, share):
    with pytest.raises(DocumentError, match="must be a number between 0 and 1"):
        load_documents(f"share:{share}:{texts}")


def test_an_empty_part_is_refused(texts):
    with pytest.raises(DocumentError, match="is empty: none of 60 documents falls into it"):
        list(load_documents(f"share:0.0000001:{texts}"))
