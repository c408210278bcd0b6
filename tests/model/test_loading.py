"""How a model is loaded: another's tokenizer, a revision, the bits of a GGUF file."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Command
from slow import slow
from small_models import TEXT, base_folder

from tta_bench.errors import BenchError, ModelError, UsageError
from tta_bench.evaluation.rerun import job_of
from tta_bench.model.gguf_header import gguf_precision
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.load import load_model, load_tokenizer
from tta_bench.model.loading import LOADING, PLAIN, Loading
from tta_bench.model.locate import at_revision
from tta_bench.model.shape import load_shape
from tta_bench.store import load_run
from tta_bench.store.key import run_key


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with its tokenizer, and a model that was fine-tuned from it and saved without."""
    home = tmp_path_factory.mktemp("loading")
    base_folder(home / "base")
    base_folder(home / "tuned", seed=1, tokenizer=False)
    (home / "a.txt").write_text(TEXT * 2)
    return home


# Words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"adapter": "under"}, "--adapter must be one of auto, merged, beside, not 'under'"),
        ({"load_in": "3bit"}, "--load-in must be one of 4bit, 8bit, not '3bit'"),
        ({"device_map": "balanced"}, "--device-map must be one of auto, not 'balanced'"),
        ({"adapter": "merged", "load_in": "4bit"}, "would round .* 4 bits; use --adapter beside"),
    ],
)
def test_words_that_mean_nothing(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Loading(**values)


@pytest.mark.parametrize("name", [name for name in LOADING if name != "adapter"])
def test_a_model_of_random_weights_is_not_loaded(name: str, home: Path) -> None:
    values = {"tokenizer": "builtin:tiny", "load_in": "4bit", "device_map": "auto"}
    flag = f"leave out --{name.replace('_', '-')}"
    for load in (load_model, load_shape):
        with pytest.raises(UsageError, match=flag):
            load(f"config:{home / 'base'}", loading=Loading(**{name: values[name]}))


# The revision


@pytest.mark.parametrize(
    ("spec", "revision", "found"),
    [
        ("a/b", None, "a/b"),
        ("a/b", "v2", "a/b@v2"),
        ("a/b@v2", "v2", "a/b@v2"),
        ("gpt2", "v2", "gpt2@v2"),
        ("builtin:tiny", None, "builtin:tiny"),
    ],
)
def test_a_revision_is_the_same_as_behind_the_name(
    spec: str, revision: str | None, found: str
) -> None:
    assert at_revision(spec, revision) == found


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("builtin:tiny", "builtin:tiny is none; leave it out"),
        ("smollm2-135m", "smollm2-135m is none; leave it out"),
        ("config:x.json", "is none; leave it out"),
        ("some.gguf", "is none; leave it out"),
        ("FOLDER", "is none; leave it out"),
        ("a/b@v1", "names a revision of its own; leave out --revision v2"),
        ("./gone", "no model folder ./gone"),
    ],
)
def test_what_has_no_revision(home: Path, spec: str, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        at_revision(spec.replace("FOLDER", str(home / "base")), "v2")


def test_a_revision_is_of_one_model(tta_bench: Command, tmp_path: Path) -> None:
    suite = tmp_path / "two.yaml"
    suite.write_text("models: [a/b, c/d]\ndatasets: [builtin:pydoc]\n")
    done = tta_bench("plan", "--suite", suite, "--revision", "v2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--revision is of one model, and the suite has several" in done.stderr
    for command in (["check-model", "builtin:tiny"], ["speed"], ["plan"]):
        done = tta_bench(*command, "--revision", "v2", cwd=tmp_path)
        assert done.returncode == 2
        assert "builtin:tiny is none; leave it out" in done.stderr


# The tokenizer of another model


def test_a_folder_without_a_tokenizer_reads_with_that_of_another(home: Path) -> None:
    tuned, other = str(home / "tuned"), Loading(tokenizer=str(home / "base"))
    with pytest.raises(ModelError, match=r"has no tokenizer: name .* with --tokenizer"):
        load_model(tuned, "float32", "cpu")
    model = load_model(tuned, "float32", "cpu", loading=other)
    assert model.tokenizer is not None
    assert model.tokenizer.get_vocab() == load_tokenizer(str(home / "base")).get_vocab()
    assert load_tokenizer(tuned, loading=other).get_vocab() == model.tokenizer.get_vocab()
    told = describe_model(model)
    assert told["tokenizer"]["name"] == str(home / "base")
    shape = load_shape(tuned, "float32", "cpu", loading=other)
    assert model_identity(told) == model_identity(describe_model(shape))


def test_the_tokenizer_is_part_of_the_identity(home: Path, tmp_path: Path) -> None:
    def identity(tokenizer: str | None) -> str:
        loading = Loading(tokenizer=tokenizer)
        shape = load_shape(str(home / "base"), "float32", "cpu", loading=loading)
        return json.dumps(model_identity(describe_model(shape)), sort_keys=True)

    copy = shutil.copytree(home / "base", tmp_path / "copy")
    assert identity(str(copy)) == identity(str(home / "base")) != identity(None)
    file = copy / "tokenizer.json"
    file.write_text(file.read_text().replace("<unused>", "<others>"))
    assert identity(str(copy)) != identity(str(home / "base"))


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ("./gone", "no model folder ./gone"),
        ("TUNED", "--tokenizer .*: the folder has no tokenizer; name one with tokenizer.json"),
        ("config:x.json", "has no tokenizer of its own; use --tokenizer builtin:tiny"),
        ("builtin:huge", "no built-in model 'huge'"),
    ],
)
def test_tokenizers_that_are_none(home: Path, tokenizer: str, words: str) -> None:
    loading = Loading(tokenizer=tokenizer.replace("TUNED", str(home / "tuned")))
    with pytest.raises(ModelError, match=words):
        load_model(str(home / "base"), device="cpu", loading=loading)


@slow
def test_a_run_is_made_and_made_again_as_it_was_loaded(tta_bench: Command, home: Path) -> None:
    from small_models import adapter_folder

    adapter_folder(home / "adapter", home / "tuned", "../tuned")
    words = ["--model", "adapter", "--tokenizer", "base", "--adapter", "beside", "--chunk", "32"]
    words += ["--dataset", "a.txt", "--device", "cpu", "--audit", "off", "--name", "mine"]
    done = tta_bench("eval", *words, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    (path,) = (home / "results/mine").glob("none-*")
    run = load_run(path)
    told = run.manifest["model"]
    assert told["tokenizer"]["name"] == "base"
    assert (told["name"], told["adapter"]) == ("adapter", "beside")
    assert told["base"]["name"] == "../tuned"
    assert set(told["base"]["sha256"]) == {"config.json", "model.safetensors"}
    assert run_key(run.manifest) == run.manifest["key"]
    assert job_of(run).setting.loading == Loading(tokenizer="base", adapter="beside")
    planned = tta_bench("plan", *words, "--json", cwd=home)
    assert json.loads(planned.stdout)["jobs"][0]["stored"] == 1
    again = tta_bench("reproduce", "mine", "--json", cwd=home)
    assert json.loads(again.stdout.strip().splitlines()[-1])["agrees"] is True
    other = tta_bench("plan", *words, "--adapter", "merged", "--json", cwd=home)
    assert json.loads(other.stdout)["jobs"][0]["stored"] == 0


# What was there before


def test_a_model_of_which_nothing_is_said_has_the_identity_that_it_had() -> None:
    told = describe_model(load_shape("builtin:tiny", "float32", "cpu"))
    assert set(model_identity(told)) == {"sha256"}
    assert not told.keys() & {"adapter", "base", "load_in", "tokenizer", "spread_over"}


def test_published_keys_are_what_they_were() -> None:
    results = Path(__file__).parents[2] / "results"
    for file in sorted(results.glob("*/*/manifest.json")):
        manifest = json.loads(file.read_text())
        assert run_key(manifest) == manifest["key"], file
    packed = sorted(results.glob("*.tar.xz"))
    assert packed
    for archive in packed:
        with tarfile.open(archive) as runs:
            names = [name for name in runs.getnames() if name.endswith("manifest.json")]
            for name in names[::7]:
                member = runs.extractfile(name)
                assert member is not None
                manifest = json.loads(member.read())
                assert run_key(manifest) == manifest["key"], (archive, name)


def test_a_manifest_of_before_asks_for_nothing_new() -> None:
    results = Path(__file__).parents[2] / "results"
    run = load_run(next(results.glob("quickstart/none-*")))
    assert job_of(run).setting.loading == PLAIN


# GGUF


def test_the_bits_of_a_gguf_file(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    file = tmp_path / "small.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_string("general.name", "small")
    writer.add_uint32("llama.block_count", 1)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_token_list(["a", "the", "naïve"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    rows = np.random.default_rng(0).normal(size=(96, 64)).astype(np.float32)
    for name, values, kind in (
        ("a.weight", rows, GGMLQuantizationType.Q4_0),
        ("b.weight", rows[:32], GGMLQuantizationType.Q8_0),
    ):
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("norm.weight", rows[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf_precision(file)
    weights = {"Q4_0": 96 * 64, "Q8_0": 32 * 64, "F32": 64}
    total = sum(weights.values())
    assert found["stored_types"] == {k: round(n / total, 4) for k, n in weights.items()}
    bits = 4.5 * weights["Q4_0"] + 8.5 * weights["Q8_0"] + 32 * weights["F32"]
    assert found["stored_bits"] == round(bits / total, 2)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"nine" * 9, b"GGUF" + b"\xff" * 60])
def test_a_file_that_is_no_gguf_has_no_bits(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.gguf").write_bytes(content)
    assert gguf_precision(tmp_path / "no.gguf") == {}


@pytest.mark.parametrize(
    ("bits", "remarks"),
    [
        (5.74, ["the model has weights that were de-quantised from 5.7 bits each (Q4_1 79%, Q8_0"]),
        (16.0, []),
    ],
)
def test_weights_that_were_rounded_are_noted_on_every_run(bits: float, remarks: list[str]) -> None:
    from tiny import tiny_model

    from tta_bench.model.acceptance.accept import accept

    model = tiny_model("llama")
    shares = {"Q4_1": 0.7893, "Q8_0": 0.2105, "F32": 0.0003}
    model.provenance = {"stored_bits": bits, "stored_types": shares}
    accept(model)
    assert [r[: len(remarks[0])] for r in model.acceptance.remarks] == remarks
    assert all("F32" not in r and "may in part" in r for r in model.acceptance.remarks)
