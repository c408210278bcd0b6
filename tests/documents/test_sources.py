"""Documents from files, tables, packages and the running Python."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_bench.documents import Document, dataset_names, load_documents
from tta_bench.documents.document import unique_keys
from tta_bench.errors import DocumentError


def load(spec: Path | str, **options: str) -> list[tuple[str, str]]:
    return [(document.key, document.text) for document in load_documents(str(spec), **options)]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_document_counts_as_lm_eval_does() -> None:
    document = Document("a", "abc déf\n")
    assert document.n_bytes == 9
    assert document.n_words == 3  # the trailing newline adds an empty word
    assert document.sha256 == Document("b", "abc déf\n").sha256


def test_a_text_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    data = "\ufeffone\r\ntwo\n\n".encode()
    (tmp_path / "a.txt").write_bytes(data)
    (document,) = load_documents(str(tmp_path / "a.txt"))
    assert document.key == "a.txt"
    assert document.text.encode() == data


def test_a_folder_is_read_recursively_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("b.md", "a.py", "sub/deep/c.rst", "sub/empty.txt", "x.png", ".hidden/d.txt"):
        (tmp_path / name).write_text("" if "empty" in name else name)
    write_jsonl(tmp_path / "sub" / "rows.jsonl", [{"text": "r1"}, {"text": "r2"}])
    assert load(tmp_path) == [
        ("a.py", "a.py"),
        ("b.md", "b.md"),
        ("sub/deep/c.rst", "sub/deep/c.rst"),
        ("sub/empty.txt", ""),
        ("sub/rows.jsonl:1", "r1"),
        ("sub/rows.jsonl:2", "r2"),
    ]


def test_a_glob_takes_any_suffix_and_keys_begin_at_its_fixed_part(tmp_path: Path) -> None:
    (tmp_path / "src" / "x").mkdir(parents=True)
    for name in ("src/a.c", "src/x/b.c", "src/x/b.h"):
        (tmp_path / name).write_text(name)
    assert [key for key, _ in load(tmp_path / "src" / "**" / "*.c")] == ["a.c", "x/b.c"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_tables_give_the_same_documents(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": str(i), "author": "one", "text": f'line "{i}"\nnext, é\r\n'} for i in range(40)]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    elif suffix == "csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    assert load(path) == [(row["id"], row["text"]) for row in rows]
    assert load(path, text_column="author")[0] == ("0", "one")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_of_a_csv_file(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "text"], ["a", "one, two"], ["b", f'"three{delimiter}\nfour"']]
    (tmp_path / "t.csv").write_text("".join(delimiter.join(row) + "\n" for row in rows))
    assert load(tmp_path / "t.csv") == [("a", "one, two"), ("b", f"three{delimiter}\nfour")]


def test_one_column_with_other_delimiters_in_its_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\none; two\nthree\tfour\n")
    assert [text for _, text in load(tmp_path / "t.csv")] == ["one; two", "three\tfour"]


def test_a_glob_below_a_folder_whose_name_looks_like_one(tmp_path: Path) -> None:
    for folder in ("st*r", "star"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"of {folder}")
    assert load(tmp_path / "st*r" / "*.txt") == [("a.txt", "of st*r")]


def test_the_only_column_of_strings_is_the_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"n": 1, "id": "17", "page": "p"}])
    assert load(path) == [("17", "p")]
    path = write_jsonl(tmp_path / "b.jsonl", [{"author": "x", "page": "p"}])
    with pytest.raises(DocumentError, match=r"--text-column out of author, page\."):
        load(path)
    with pytest.raises(DocumentError, match=r"no column 'body' .* its columns are author, page\."):
        load(path, text_column="body")


def test_a_key_column_must_look_unique(tmp_path: Path) -> None:
    rows = [{"name": "same", "title": f"t{i}", "text": "x"} for i in range(3)]
    assert [key for key, _ in load(write_jsonl(tmp_path / "a.jsonl", rows))] == ["t0", "t1", "t2"]
    rows = [{"name": f"n{i % 20}", "text": "x"} for i in range(42)]  # repeats after the first rows
    keys = [key for key, _ in load(write_jsonl(tmp_path / "b.jsonl", rows))]
    assert keys[19:22] == ["n19", "n0#2", "n1#2"]
    assert keys[40:] == ["n0#3", "n1#3"]


@settings(derandomize=True)
@given(st.lists(st.sampled_from(["a", "a#2", "a#3", "b", "b#2", "", "\udcff", "?"]), max_size=30))
def test_keys_become_unique_and_depend_only_on_what_came_before(keys: list[str]) -> None:
    def renamed(names: list[str]) -> list[str]:
        return [d.key for d in unique_keys(Document(name, "") for name in names)]

    result = renamed(keys)
    assert len(set(result)) == len(keys)
    assert renamed(keys[: len(keys) // 2]) == result[: len(keys) // 2]
    "".join(result).encode()  # raises if a lone surrogate is left


def test_null_and_empty_texts_are_empty_documents(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"text": None}, {"text": ""}])
    assert [text for _, text in load(path)] == ["x", "", ""]


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.txt", b"", r"no text in .*a\.txt: every document is empty"),
        ("a.jsonl", b"\n", r"no text in .*a\.jsonl: every document is empty"),
        ("a.csv", b"text\n", r"no text in .*a\.csv: every document is empty"),
        ("a.txt", b"abc\0def", r"a\.txt is a binary file \(NUL at byte 3\)"),
        ("a.jsonl", b"\x00" * 10, r"a\.jsonl is a binary file \(NUL at byte 0\)"),
        ("a.txt", b"abc\xff", r"a\.txt is not UTF-8 at byte 3 \(0xff\)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"a\.jsonl is not UTF-8 at byte 24 "),
        ("a.csv", b"text,x\n\xe9,1\n", r"a\.csv is not UTF-8 at byte 7 "),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', r"Line 3 of .*a\.jsonl is not valid JSON: "),
        ("a.jsonl", b'["text"]\n', r"Line 1 of .*a\.jsonl is a list, not an object"),
        ("a.jsonl", b'{"text": "a"}\n{"x": 1}\n', r"Line 2 of .* has no column 'text'; it has x"),
        (
            "a.jsonl",
            b'{"text": 3}\n',
            r"Line 1 of .* has a value of type int in column 'text', not text",
        ),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"Line 1 of .* half a surrogate pair"),
        ("a.csv", b'text,x\n"a",1\nb\n', r"Line 3 of .* has 1 fields, but the header names 2"),
        ("a.csv", b'text\n"open\n', r"Line 2 of .*a\.csv is not valid CSV"),
        ("a.csv", b"text,text\n1,2\n", r"a\.csv names a column twice"),
        ("a.parquet", b"not parquet at all", r"a\.parquet is not a readable Parquet file"),
        ("a.png", b"\x89PNG\0\0", r"a\.png is a binary file"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DocumentError, match=sentence) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_glob_follows_no_link_in_circles(tmp_path: Path) -> None:
    (tmp_path / "texts" / "sub" / ".hidden").mkdir(parents=True)
    for name in ("a.txt", "sub/b.txt", "sub/.hidden/c.txt", "sub/.d.txt"):
        (tmp_path / "texts" / name).write_text(name)
    for name in ("round", "sub/again"):
        (tmp_path / "texts" / name).symlink_to(tmp_path / "texts")
    both = [("a.txt", "a.txt"), ("sub/b.txt", "sub/b.txt")]
    for pattern in ("**/*.txt", "**"):
        assert load(tmp_path / "texts" / pattern) == both
    assert load(tmp_path / "texts" / "**" / "sub" / "*.txt") == both[1:]
    assert load(tmp_path / "te*" / "**" / "b.txt") == [("texts/sub/b.txt", "sub/b.txt")]
    assert load(tmp_path / "texts" / "rou*" / "a.txt") == [("round/a.txt", "a.txt")]


def test_folders_and_globs_without_a_file_are_errors(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\0")
    with pytest.raises(DocumentError, match=r"contains no file that can be read \(\.txt \.md"):
        load(tmp_path)
    with pytest.raises(DocumentError, match="No file matches"):
        load(tmp_path / "*.txt")


@pytest.mark.parametrize("spec", ["no/such/folder", "./x", "missing.jsonl", "/no/where", "a:b:c:d"])
def test_a_missing_path_does_not_ask_the_hub(spec: str) -> None:
    with pytest.raises(DocumentError, match="There is no file or folder"):
        load_documents(spec)


@pytest.mark.parametrize("spec", ["builtin:pydocs", "bultin:pydoc", "pydoc", "builtin:pydoc "])
def test_a_misspelt_builtin_is_corrected(spec: str) -> None:
    with pytest.raises(DocumentError, match="did you mean 'builtin:pydoc'"):
        load_documents(spec)


def test_pydoc_topics_come_longest_first() -> None:
    documents = load("builtin:pydoc")
    lengths = [len(text) for _, text in documents]
    assert lengths == sorted(lengths, reverse=True)
    assert "compound" in dict(documents)
    assert len(documents) > 50


def test_pydoc_without_its_text_says_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DocumentError, match="use builtin:stdlib"):
        load("builtin:pydoc")


def test_stdlib_is_the_long_modules_of_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = list(load_documents("builtin:stdlib"))
    sizes = [document.n_bytes for document in documents]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= 16 * 1024
    keys = {document.key for document in documents}
    assert {"argparse.py", "logging/__init__.py"} <= keys
    assert not any(part in key.split("/") for key in keys for part in ("test", "site-packages"))


def test_a_python_without_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DocumentError, match="without the sources"):
        load("builtin:stdlib")


def test_packages_give_their_text_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "usr" / "doc").mkdir(parents=True)
    (tmp_path / "usr" / "doc" / "guide.pod").write_text("=head1")
    (tmp_path / "usr" / "doc" / "copyright").write_text("free")
    (tmp_path / "usr" / "logo.gif").write_bytes(b"GIF\0\xff")
    asked = []

    def fetch(spec: str) -> Path:
        asked.append(spec)
        return tmp_path

    monkeypatch.setattr("tta_bench.fetch.packages.fetch_package", fetch)
    everything = [("usr/doc/copyright", "free"), ("usr/doc/guide.pod", "=head1")]
    assert load("debian:perl-doc") == everything
    assert load("npm:@scope/book/usr/doc") == everything
    assert load("pypi:thing/**/*.pod") == everything[1:]
    assert asked == ["debian:perl-doc", "npm:@scope/book", "pypi:thing"]
    with pytest.raises(DocumentError, match=r"No text file in .* matches \*\*/\*\.gif"):
        load("pypi:thing/**/*.gif")


def test_a_big_table_streams(tmp_path: Path) -> None:
    """40 MB of rows must never be in memory at once: a batch of 16 is."""
    line = json.dumps({"text": "word " * 20_000}) + "\n"
    with (tmp_path / "big.jsonl").open("w") as handle:
        handle.writelines(line for _ in range(400))
    tracemalloc.start()
    try:
        total = sum(len(d.text) for d in load_documents(str(tmp_path / "big.jsonl")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 400 * 100_000
    assert peak < 8e6


def test_listing_datasets_imports_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys; from tta_bench.documents import dataset_names; names = dataset_names(); "
        "assert 'builtin:pydoc' in names and all(names.values()); "
        "assert not {'torch', 'datasets', 'pyarrow', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "builtin:stdlib" in dataset_names()
