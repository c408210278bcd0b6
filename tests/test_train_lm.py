"""Training a language model from a recipe: clean texts in, a loadable model with a falling loss
out.
"""

from __future__ import annotations

import csv
import inspect
import json
import math
import random
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tta_bench.cli.train import app
from tta_bench.errors import DocumentError, UsageError
from tta_bench.training.corpus import Corpus, read_text
from tta_bench.training.heldout import _plan, evaluate_heldout
from tta_bench.training.lm import train
from tta_bench.training.plain_text import html_to_text
from tta_bench.training.prepare import prepare
from tta_bench.training.recipe import load_recipe
from tta_bench.training.tokenizer import BOS, EOS, train_tokenizer
from tta_bench.training.windows import RandomWindows

RECIPE = """
name: small
prepare:
  vocab_size: 300
  heldout_fraction: 0.0
  heldout_files: ["*/7.txt"]
  domains:
    books:
      - {folder: texts, include: ["*.txt"]}
model:
  hidden_size: 32
  intermediate_size: 48
  num_hidden_layers: 2
  num_attention_heads: 2
  num_key_value_heads: 1
  head_dim: 16
  max_position_embeddings: 32
  tie_word_embeddings: true
train:
  max_steps: 25
  batch_size: 4
  log_every: 5
  learning_rate: 1.0e-2
  warmup_steps: 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "texts").mkdir()
    words = list(
        dict.fromkeys(
            [
                "the",
                "cat",
                "dog",
                "sat",
                "on",
                "a",
                "mat",
                "and",
                "then",
                "ran",
                "over",
                "one",
                "hill",
                "reading",
            ]
        )
    )
    rng = random.Random(0)
    for i in range(10):
        lines = [" ".join(rng.choices(words, k=12)) for _ in range(20)]
        (folder / "texts" / f"{i}.txt").write_text("\n".join(lines) + "\n")
    (folder / "small.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def prepared(folder):
    return prepare(load_recipe(folder / "small.yaml"), folder / "prepared", lambda _: None)


@pytest.fixture(scope="module")
def numbers(folder, prepared):
    torch.set_num_threads(1)
    return train(load_recipe(folder / "small.yaml"), prepared, folder / "model", "cpu")


def recipe_of(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_prepared_folder(folder, prepared):
    summary = json.loads((prepared / "prepared.json").read_text())
    tokens = np.load(prepared / "train.npy")
    assert tokens.dtype == np.uint16
    assert summary["train"]["books"]["documents"] == 9
    assert summary["train"]["books"]["tokens"] == len(tokens)
    assert (tokens == 0).sum() == (tokens == 1).sum() == 9  # BOS and EOS of each document
    (row,) = map(json.loads, (prepared / "heldout.jsonl").read_text().splitlines())
    assert row["key"] == "texts/7.txt"
    assert row["bytes"] == len((folder / "texts" / "7.txt").read_bytes())
    assert summary["heldout"]["books"]["bytes"] == row["bytes"]


def test_prepared_folder_is_reused_until_the_recipe_changes(folder, prepared):
    recipe = load_recipe(folder / "small.yaml")
    said: list[str] = []
    prepare(recipe, prepared, said.append)
    assert len(said) == 1
    assert "found" in said[0]


def test_training_learns_and_what_it_saves_can_be_loaded(folder, numbers):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with open(folder / "model" / "log.csv", newline="") as log:
        rows = list(csv.DictReader(log))
    losses = [float(row["loss"]) for row in rows]
    assert losses[-1] < losses[0] - 1.0
    assert int(rows[-1]["step"]) == 25
    assert numbers["tokens"] == 25 * 4 * 32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.config.model_type == "llama"
    assert model.config.tie_word_embeddings
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    text = "def f(x):\n\treturn  x + 12345  # naïve 漢字\r\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert not {0, 1} & set(ids)  # nothing is added
    heldout = numbers["heldout"]
    assert heldout["all"] == heldout["books"]
    bits = heldout["all"]["nats_per_token"] * heldout["all"]["tokens"] / math.log(2)
    assert heldout["all"]["bits_per_byte"] == pytest.approx(bits / heldout["all"]["bytes"])


def test_model_card_tells_the_numbers(folder, numbers):
    card = (folder / "model" / "README.md").read_text()
    assert f"{numbers['tokens']:,}" in card
    assert f"{numbers['heldout']['all']['bits_per_byte']:.4f}" in card
    assert "xz -9" in card
    assert "`texts`" in card


def test_heldout_windows_score_every_token_once():
    for length in range(2, 40):
        pieces = _plan(torch.arange(length), 8)
        scored = [t for ids, count in pieces for t in ids[len(ids) - count :].tolist()]
        assert scored == list(range(1, length))
        assert all(len(ids) <= 8 for ids, _ in pieces)
        assert all(len(ids) - count >= 4 for ids, count in pieces[1:])


def test_heldout_loss_is_the_plain_cross_entropy(folder, numbers, tmp_path):
    """On a file shorter than the window the streamed figure must be one forward pass."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    rows = []
    for text in ("the cat sat on the mat", "a dog ran"):
        rows.append({"domain": "books", "key": text, "bytes": len(text), "text": text})
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    got = evaluate_heldout(model, tokenizer, tmp_path / "h.jsonl", "cpu")["all"]
    nats, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([[0, *tokenizer.encode(row["text"]).ids]])
        nats += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert got["tokens"] == count
    assert got["nats_per_token"] == pytest.approx(nats / count, rel=1e-5)


def test_time_ends_training_and_the_rate(folder, prepared):
    recipe = load_recipe(folder / "small.yaml")
    text = (folder / "small.yaml").read_text()
    quick = folder / "quick.yaml"
    quick.write_text(text.replace("max_steps: 25", "max_steps: 100000\n  max_minutes: 0.005"))
    quick_recipe = load_recipe(quick)
    assert quick_recipe.prepare_hash == recipe.prepare_hash
    numbers = train(quick_recipe, prepared, folder / "quick", "cpu")
    assert 0.3 <= numbers["seconds_after_first_step"] < 5
    assert 0 < numbers["steps"] < 100000


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter([inspect.getsource(statistics)[:20000]]), 512)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_tokenizer_round_trips_any_text(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["", " ", "\r\n\t \r", "  a", "a  ", "\0", "é́\u200d🙂", "x" * 999])
def test_tokenizer_round_trips_the_edges(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokenizer_size_and_special_tokens(tokenizer):
    assert tokenizer.get_vocab_size() == 512
    assert (tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)) == (0, 1)


def test_windows_are_seeded_and_cut_from_the_array(tmp_path):
    np.save(tmp_path / "t.npy", np.arange(100, dtype=np.uint16))
    one, two = (RandomWindows(tmp_path / "t.npy", 8, 50, seed) for seed in (1, 2))
    starts = [one[i] for i in range(50)]
    assert starts == [one[i] for i in range(50)]
    assert starts != [two[i] for i in range(50)]
    batch = one.collate([0, 92])
    assert batch["input_ids"].tolist() == [list(range(8)), list(range(92, 100))]
    assert batch["input_ids"].dtype == torch.int64


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
    recipe = recipe_of(tmp_path, "prepare: {domains: {books: [{folder: texts}]}}")
    corpus = Corpus(recipe)
    assert [document.key for document in corpus] == ["texts/a.txt"]
    assert corpus.dropped_evaluated == ["texts/c.py"]
    assert dict(corpus.dropped) == {
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
        ("prepare: [", "cannot be read"),
        ("name: x", "needs the sections"),
        ("prepare: {}", "lists no sources"),
        ("prepare: {vocabulary: 3, domains: {a: [{folder: x}]}}", "no key 'vocabulary'"),
        ("prepare: {vocab_size: many, domains: {a: [{folder: x}]}}", "cannot be 'many'"),
        ("prepare: {domains: {a: [{include: ['*']}]}}", "either a package or a folder"),
    ],
)
def test_a_bad_recipe_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        recipe_of(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_other_bad_input_is_one_sentence(tmp_path, folder, prepared):
    with pytest.raises(UsageError, match="no recipe"):
        load_recipe(tmp_path / "none.yaml")
    missing = recipe_of(tmp_path, "prepare: {domains: {a: [{folder: nowhere}]}}")
    with pytest.raises(DocumentError, match="does not exist"):
        list(Corpus(missing))
    (tmp_path / "empty").mkdir()
    empty = recipe_of(tmp_path, "prepare: {domains: {a: [{folder: empty}]}}")
    with pytest.raises(DocumentError, match="No file of 'empty' matches"):
        list(Corpus(empty))
    with pytest.raises(UsageError, match="holds no prepared data"):
        train(load_recipe(folder / "small.yaml"), tmp_path / "empty", tmp_path / "out", "cpu")
    everything = (folder / "small.yaml").read_text().replace('"*/7.txt"', '"*"')
    (folder / "everything.yaml").write_text(everything)
    with pytest.raises(DocumentError, match="nothing is left to train on"):
        prepare(load_recipe(folder / "everything.yaml"), tmp_path / "p", lambda _: None)


def test_the_command_prepares_and_says_where(folder, tmp_path):
    arguments = ["lm", "--config", str(folder / "small.yaml"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--prepare-only", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["train"]["books"]["documents"] == 9
    assert (tmp_path / "out" / "prepared" / "train.npy").is_file()


def test_the_committed_recipe_reads():
    from importlib.resources import files

    recipe = load_recipe(files("tta_bench_suites") / "train" / "tiny.yaml")
    names = [source.package for source in recipe.prepare.sources]
    assert len(names) == len(set(names))
    assert not any("python3" in name or name.startswith("debian:python") for name in names)
    assert recipe.model["max_position_embeddings"] == 1024
