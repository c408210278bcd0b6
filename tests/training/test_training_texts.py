"""From packages and folders to clean, tokenised training texts."""

import inspect
import json
import random
import statistics
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.errors import DocumentError, UsageError
from tta_bench.training.corpus import Texts, read_text
from tta_bench.training.heldout import _plan
from tta_bench.training.plain_text import html_to_text
from tta_bench.training.prepare import load_prepared, prepare
from tta_bench.training.recipe import load_recipe

RECIPE = """
method: none
body: scratch
corpus:
  heldout_fraction: 0.0
  heldout_files: ["*/7.txt"]
  domains:
    books:
      - {folder: texts, include: ["*.txt"]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "texts").mkdir()
    words = ["the", "cat", "dog", "sat", "on", "a", "mat", "and", "then", "ran", "over", "hill"]
    rng = random.Random(0)
    for i in range(10):
        lines = [" ".join(rng.choices(words, k=12)) for _ in range(20)]
        (folder / "texts" / f"{i}.txt").write_text("\n".join(lines) + "\n")
    (folder / "small.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    from importlib.resources import files

    return Tokenizer.from_file(str(files("tta_bench") / "data" / "tiny" / "tokenizer.json"))


@pytest.fixture(scope="module")
def prepared(folder, tokenizer):
    corpus = load_recipe(folder / "small.yaml").corpus
    return prepare(corpus, folder / "prepared", tokenizer, 0, lambda _: None)


def corpus_of(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path).corpus


def test_prepared_folder(folder, prepared, tokenizer):
    summary = json.loads((prepared / "prepared.json").read_text())
    tokens, _ = load_prepared(prepared)
    assert tokens.ids.dtype == np.uint16
    assert summary["train"]["books"]["documents"] == len(tokens.starts) - 1 == 9
    assert summary["train"]["books"]["tokens"] == tokens.tokens
    assert (tokens.ids == 0).sum() == 9  # BOS before each document
    first = (folder / "texts" / "0.txt").read_text()
    assert tokens.ids[1 : tokens.starts[1]].tolist() == tokenizer.encode(first).ids
    (row,) = map(json.loads, (prepared / "heldout.jsonl").read_text().splitlines())
    assert row["key"] == "texts/7.txt"
    assert row["bytes"] == len((folder / "texts" / "7.txt").read_bytes())
    assert summary["heldout"]["books"]["bytes"] == row["bytes"]


def test_prepared_folder_is_reused_until_the_corpus_changes(folder, prepared, tokenizer):
    corpus = load_recipe(folder / "small.yaml").corpus
    said: list[str] = []
    prepare(corpus, prepared, tokenizer, 0, said.append)
    assert len(said) == 1
    assert "found" in said[0]


def test_heldout_windows_score_every_token_once():
    import torch

    for length in range(2, 40):
        pieces = _plan(torch.arange(length), 8)
        scored = [t for ids, count in pieces for t in ids[len(ids) - count :].tolist()]
        assert scored == list(range(1, length))
        assert all(len(ids) <= 8 for ids, _ in pieces)
        assert all(len(ids) - count >= 4 for ids, count in pieces[1:])


def test_copies_are_dropped_and_evaluation_texts_never_enter(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    original = "\n".join(
        f"line {i} of a text that nobody else has written, {i * i}" for i in range(30)
    )
    (texts / "a.txt").write_text(original)
    (texts / "b.txt").write_text("# a new first line that is long enough to count\n" + original)
    (texts / "c.py").write_text(inspect.getsource(statistics))
    (texts / "d.txt").write_bytes(b"\xff\xfe\xfa" * 400)
    (texts / "e.txt").write_text("short")
    (texts / "f.txt").write_text("1234567890 " * 100)
    found = Texts(corpus_of(tmp_path, "corpus: {domains: {books: [{folder: texts}]}}"))
    assert [document.key for document in found] == ["texts/a.txt"]
    assert found.dropped_evaluated == ["texts/c.py"]
    assert dict(found.dropped) == {
        "repeats an earlier file": 1,
        "repeats an evaluation text": 1,
        "not UTF-8 text": 1,
        "too short": 1,
        "tables of data": 1,
    }


def test_html_becomes_what_a_reader_sees(tmp_path):
    html = (
        "<html><head><title>T</title><style>p{}</style></head><body><nav><p>menu</p></nav>"
        "<h1>A&nbsp;title</h1><p>One\n  sentence, <b>bold</b> &amp; plain.</p>"
        "<ul><li>first</li><li>second</li></ul>"
        "<pre>def f():\n    return 1\n</pre>"
        "<div class='navfooter'><div>next</div></div><p>End.</p></body></html>"
    )
    (tmp_path / "page.html").write_text(html)
    assert read_text(tmp_path / "page.html") == html_to_text(html)
    assert html_to_text(html) == (
        "A title\n\nOne sentence, bold & plain.\n\n- first\n- second\n\n"
        "def f():\n    return 1\n\nEnd.\n"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("corpus: [", "not valid YAML"),
        ("- a", "must be a mapping"),
        ("method: fwl", "either a dataset"),
        ("corpus: {}", "lists no sources"),
        ("corpus: other.yaml", "no recipe"),
        ("corpus: {vocabulary: 3, domains: {a: [{folder: x}]}}", "no key 'vocabulary'"),
        (
            "corpus: {heldout_fraction: many, domains: {a: [{folder: x}]}}",
            "line 1: 'heldout_fraction' must be a number, not 'many'",
        ),
        ("corpus: {domains: {a: [{include: ['*']}]}}", "either a package or a folder"),
        ("{dataset: x, body: warm}", "body must be one of"),
        ("{dataset: x, train: {stepps: 3}}", "no key 'stepps'; did you mean 'steps'"),
        (
            "dataset: x\ntrain:\n  compile: 'no'",
            "line 3: 'compile' must be true or false, not 'no'",
        ),
        (
            "dataset: x\ntrain: {compile: no,\n steps: 1.9}",
            "line 3: 'steps' must be a whole number",
        ),
        ("corpus:\n  domains: {a: [{folder: x}, {folder: [1]}]}", "line 2: 'folder' must be text"),
        ("corpus: {domains: [a]}", "'domains' must be a mapping"),
        ("corpus: {domains: {a: {folder: x}}}", "'a' must be a list of sources"),
    ],
)
def test_a_bad_recipe_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        corpus_of(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_other_bad_input_is_one_sentence(tmp_path, folder, tokenizer):
    missing = corpus_of(tmp_path, "corpus: {domains: {a: [{folder: nowhere}]}}")
    with pytest.raises(DocumentError, match="does not exist"):
        list(Texts(missing))
    (tmp_path / "empty").mkdir()
    empty = corpus_of(tmp_path, "corpus: {domains: {a: [{folder: empty}]}}")
    with pytest.raises(DocumentError, match="No file of 'empty' matches"):
        list(Texts(empty))
    (folder / "everything.yaml").write_text(RECIPE.replace('"*/7.txt"', '"*"'))
    everything = load_recipe(folder / "everything.yaml").corpus
    with pytest.raises(DocumentError, match="nothing is left to train on"):
        prepare(everything, tmp_path / "p", tokenizer, 0, lambda _: None)


def test_the_command_prepares(folder, tmp_path):
    arguments = ["train", "--config", str(folder / "small.yaml"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--prepare-only"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "prepared" / "starts.npy").is_file()


def test_the_committed_recipes_read():
    from importlib.resources import files

    folder = files("tta_bench_suites") / "train"
    files_of = [*folder.iterdir(), *(folder / "heads").iterdir()]
    found = [path for path in files_of if path.suffix == ".yaml" and path.name != "corpus.yaml"]
    recipes = [load_recipe(path) for path in found]
    assert {recipe.body for recipe in recipes} == {"joint", "frozen"}
    for recipe in recipes:
        names = [source.package for source in recipe.corpus.sources]
        assert len(names) == len(set(names))
        assert not any("python3" in name or name.startswith("debian:python") for name in names)
        assert not any(
            "mypy" in name or "gap-" in name for name in names
        )  # headline evaluates there


@pytest.mark.parametrize("folder", ["heads", "heads-smollm2"])
def test_heads_on_one_base_are_trained_on_one_budget(folder):
    from importlib.resources import files

    there = files("tta_bench_suites") / "train" / folder
    recipes = {path.stem: load_recipe(path) for path in there.iterdir()}
    assert len({recipe.base for recipe in recipes.values()}) == 1
    assert all(
        (r.body, r.train, r.corpus) == (s.body, s.train, s.corpus)
        for r, s in pairwise(recipes.values())
    )
    for name, recipe in recipes.items():
        control, wide = name.endswith("-control"), name.endswith("-wide")
        method = name.split("-", 1)[1]
        for suffix in ("-control", "-wide", "-inputs"):  # the last has values from inputs alone
            method = method.removesuffix(suffix)
        assert method == recipe.method.partition(":")[0]
        assert ("fast=no" in recipe.method) == control
        assert ("labels=no" in recipe.method) == name.endswith("-inputs")
        # One with a wider state is a control itself: of the heads whose state is as large.
        own = name.removesuffix("-inputs")
        assert control or wide or f"{own}-control" in recipes
