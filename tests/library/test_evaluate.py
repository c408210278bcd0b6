"""`tta_bench.evaluate`: the numbers of the command, from whatever Python has in memory."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from command import Command
from in_memory import TEXTS, saved, small_net, small_tokenizer
from slow import slow

import tta_bench
from tta_bench import Method, Results, register
from tta_bench.contract.registry import available, is_held
from tta_bench.errors import BenchError
from tta_bench.store import load_run

PLAIN: dict[str, Any] = {"chunk": 16, "max_tokens": 60, "audit": "off", "quiet": True}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "small")


class Unigram(Method):
    """Raises the logits of tokens by how often the document has used them so far."""

    family = "output"

    @dataclass
    class Params:
        weight: float = 0.3

    def init_state(self):
        return {"counts": torch.zeros(self.model.vocab_size)}

    def score(self, window):
        below = self.below.score(window).full()
        return below + self.params.weight * self.state["counts"].log1p()[:, None]

    def adapt(self, window, targets, nll):
        self.state["counts"].scatter_add_(1, targets, window.mask.float())


class Breaking(Method):
    """Writes into the weights that all methods share, and then fails as it is told to."""

    raises: type[BaseException] = RuntimeError

    def score(self, window):
        for parameter in self.model.net.parameters():
            parameter.data.add_(1.0)
        raise self.raises("planted")


def losses(results: Results) -> list[list[np.ndarray]]:
    return [[run.nll(row) for row in run.rows] for run in results.runs]


def same(first: Results, second: Results) -> bool:
    """Whether all losses are equal to the last bit, and there are some."""
    pairs = [
        (mine, theirs)
        for a, b in zip(losses(first), losses(second), strict=True)
        for mine, theirs in zip(a, b, strict=True)
    ]
    return bool(pairs) and all(np.array_equal(mine, theirs) for mine, theirs in pairs)


# The same numbers as the command


@slow
def test_the_runs_are_those_of_the_command(folder: Path, tmp_path: Path, tta_bench: Command):
    import tta_bench as library

    (tmp_path / "texts").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    methods = ["none", "neural-cache:window=32"]
    words = [word for method in methods for word in ("--method", method)]
    flags = ("--chunk", 16, "--max-tokens", 60, "--audit", "off", "--device", "cpu", "--json")
    where = ("--model", folder, "--dataset", tmp_path / "texts")
    done = tta_bench("eval", *where, *words, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    commands = [load_run(tmp_path / row["run"]) for row in rows]
    options = PLAIN | {"device": "cpu"}
    mine = library.evaluate(str(folder), tmp_path / "texts", methods, **options)
    assert [run.manifest["key"] for run in mine.runs] == [row["key"] for row in rows]
    assert same(mine, Results(commands))
    before = [(run.path / "rows.jsonl").read_bytes() for run in commands]
    again = library.evaluate(
        str(folder), tmp_path / "texts", methods, results=tmp_path / "results", **options
    )
    assert [run.path for run in again.runs] == [run.path for run in commands]
    assert [(run.path / "rows.jsonl").read_bytes() for run in again.runs] == before


# What is handed in


@pytest.fixture(scope="module")
def of_memory() -> Results:
    return tta_bench.evaluate((small_net(), small_tokenizer()), TEXTS, **PLAIN)


def test_a_model_in_memory_equals_its_folder(of_memory: Results, folder: Path):
    assert same(of_memory, tta_bench.evaluate(str(folder), TEXTS, **PLAIN, device="cpu"))
    model = of_memory.runs[0].manifest["model"]
    assert model["source"] == "memory"
    assert set(model["sha256"]) == {"weights", "config", "tokenizer"}
    assert model["name"].startswith("memory:")
    assert model["acceptance"]["finite weights"]["outcome"] == "ok"


@slow
@pytest.mark.parametrize("method", ["dynamic-eval:lr=0.01", "window:context=8+neural-cache"])
def test_a_method_on_a_model_in_memory_equals_that_on_its_folder(method: str, folder: Path):
    mine = tta_bench.evaluate((small_net(), small_tokenizer()), TEXTS, method, **PLAIN)
    assert same(mine, tta_bench.evaluate(str(folder), TEXTS, method, **PLAIN, device="cpu"))


@slow
def test_the_name_of_a_model_is_of_its_content(of_memory: Results, folder: Path):
    net, tokenizer = small_net(), small_tokenizer()

    def name() -> str:
        found = tta_bench.evaluate(net, TEXTS, tokenizer=tokenizer, **PLAIN)
        return str(found.runs[0].manifest["model"]["name"])

    assert name() == of_memory.runs[0].manifest["model"]["name"]
    net = type(net).from_pretrained(folder)
    assert name() == of_memory.runs[0].manifest["model"]["name"]
    with torch.no_grad():
        next(net.parameters())[0, 0] += 1
    assert name() != of_memory.runs[0].manifest["model"]["name"]


@slow
def test_dtype_is_that_of_the_model_or_what_is_asked_for(folder: Path):
    net = small_net().to(torch.bfloat16)
    pair = net, small_tokenizer()
    own = tta_bench.evaluate(pair, TEXTS, **PLAIN).runs[0]
    assert own.manifest["dtype"] == "bfloat16"
    wider = tta_bench.evaluate((small_net(), small_tokenizer()), TEXTS, **PLAIN, dtype="bfloat16")
    by_spec = tta_bench.evaluate(str(folder), TEXTS, **PLAIN, dtype="bfloat16", device="cpu")
    assert same(wider, by_spec)
    assert net.dtype == torch.bfloat16


FORMS = {
    "strings": list(TEXTS.values()),
    "dataset": datasets.Dataset.from_dict({"body": list(TEXTS.values()), "year": [1, 2]}),
    "column": datasets.Dataset.from_dict({"body": list(TEXTS.values())})["body"],
}


@slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_documents_is_read_alike(of_memory: Results, form: str):
    found = tta_bench.evaluate((small_net(), small_tokenizer()), FORMS[form], **PLAIN)
    assert same(found, of_memory)
    first, second = (results.runs[0].manifest["dataset"] for results in (found, of_memory))
    assert first["fingerprint"] == second["fingerprint"]
    assert [row.key for row in found.runs[0].rows] == ["document:1", "document:2"]
    assert [row.key for row in of_memory.runs[0].rows] == list(TEXTS)


@slow
def test_a_dataset_has_keys_and_a_column():
    table = datasets.Dataset.from_dict(
        {"id": ["a", "b"], "text": ["no"] * 2, "body": list(TEXTS.values())}
    )
    found = tta_bench.evaluate((small_net(), small_tokenizer()), table, text_column="body", **PLAIN)
    assert [row.key for row in found.runs[0].rows] == ["a", "b"]
    assert all(row.tokens == 60 for row in found.runs[0].rows)


@slow
def test_every_form_of_a_method_is_the_same(tmp_path: Path):
    from tta_bench.contract.registry import load

    cls = load("neural-cache")
    pair = small_net(), small_tokenizer()
    forms = ["neural-cache", cls, cls.Params()]
    found = [tta_bench.evaluate(pair, TEXTS, form, **PLAIN) for form in forms]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert len({results.runs[0].manifest["key"] for results in found}) == 1


@slow
def test_a_class_that_nothing_registers_runs_beside_its_params():
    third = 1 / 3
    pair = small_net(), small_tokenizer()
    methods = ["none", Unigram, Unigram.Params(weight=third), "unigram:weight=0"]
    found = tta_bench.evaluate(pair, TEXTS, methods, **PLAIN)
    specs = [run.spec for run in found.runs]
    assert specs == ["none", "unigram", "unigram:weight=0.333333", "unigram:weight=0"]
    assert found.runs[2].manifest["method"]["params"] == {"weight": third}  # not as a spec rounds
    none, learns, _, off = losses(found)
    assert np.array_equal(off[0], none[0])
    assert learns[0][16:].mean() < none[0][16:].mean()
    assert not is_held("unigram")
    assert "unigram" not in available()
    assert "name" not in vars(Unigram)


@slow
def test_an_audit_takes_what_was_in_memory_again():
    pair = small_net(), small_tokenizer()
    found = tta_bench.evaluate(pair, TEXTS, Unigram.Params(weight=0.2), **PLAIN)
    assert found.frame()["valid"][0] is None
    with pytest.raises(BenchError, match=r"the method 'unigram' of .* is not known here"):
        tta_bench.audit(found, model=pair, documents=TEXTS, quiet=True)
    audited = tta_bench.audit(found, model=pair, documents=TEXTS, methods=Unigram, quiet=True)
    assert audited.valid is True, audited
    assert found.frame()["valid"][0] == True  # noqa: E712  # the tables show the new verdict
    assert "frozen" in audited._repr_html_()


@slow
def test_a_held_class_stands_in_a_stack():
    found = tta_bench.evaluate(
        (small_net(), small_tokenizer()),
        TEXTS,
        [Unigram, "window:context=8+unigram"],
        **PLAIN,
    )
    assert found.runs[1].spec == "window:context=8+unigram"
    assert found.runs[1].status == "complete"


# What was handed in is as it was


def state_of(net: Any) -> tuple[Any, ...]:
    return (
        {name: value.clone() for name, value in net.state_dict().items()},
        [parameter.requires_grad for parameter in net.parameters()],
        [module.training for module in net.modules()],
        [parameter.data_ptr() for parameter in net.parameters()],
        [sorted(vars(module)) for module in net.modules()],
        [(len(m._forward_hooks), len(m._backward_hooks)) for m in net.modules()],
        net.config.to_dict(),
        net.config._attn_implementation,
        net.dtype,
    )


def assert_untouched(net: Any, before: tuple[Any, ...]) -> None:
    after = state_of(net)
    assert after[0].keys() == before[0].keys()
    assert all(torch.equal(before[0][name], value) for name, value in after[0].items())
    assert after[1:] == before[1:]


def in_training() -> Any:
    """A model as a training loop leaves it: some weights frozen, gradients and a hook there."""
    net = small_net().train()
    next(net.parameters()).requires_grad_(False)
    net.model.norm.register_full_backward_hook(lambda *_: None)
    net(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    return net


@slow
def test_a_model_is_as_it_was():
    net = in_training()
    before, gradients = state_of(net), [p.grad for p in net.parameters()]
    random = torch.get_rng_state()
    tta_bench.evaluate((net, small_tokenizer()), TEXTS, ["none", "dynamic-eval"], **PLAIN)
    assert_untouched(net, before)
    assert [p.grad for p in net.parameters()] == gradients  # the very same tensors
    assert torch.equal(torch.get_rng_state(), random)


@slow
def test_a_model_is_as_it_was_after_a_method_that_writes_into_it():
    net = in_training()
    before = state_of(net)
    found = tta_bench.evaluate(
        (net, small_tokenizer()), TEXTS, [Breaking, "none"], **PLAIN | {"audit": "auto"}
    )
    assert_untouched(net, before)
    clean = tta_bench.evaluate((small_net(), small_tokenizer()), TEXTS, **PLAIN)
    assert found.runs[0].failed
    assert same(Results(found.runs[1:]), clean)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError])
def test_a_model_is_as_it_was_when_an_evaluation_breaks_off(raised: Any, monkeypatch):
    monkeypatch.setattr(Breaking, "raises", raised)
    net = in_training()
    before = state_of(net)
    with pytest.raises(raised, match="planted"):
        tta_bench.evaluate((net, small_tokenizer()), TEXTS, Breaking, **PLAIN, debug=True)
    assert_untouched(net, before)


# Stored, or not


def test_without_a_folder_files_go_with_the_results(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = tta_bench.evaluate((small_net(), small_tokenizer()), ["a b", "c"], **PLAIN)
    where = found.folder
    assert where.is_dir()
    kept = found.save(tmp_path / "kept" / "mine")
    del found
    gc.collect()
    assert not where.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    (path,) = kept.iterdir()
    assert load_run(path).status == "complete"


@slow
def test_a_stored_evaluation_is_not_done_twice(tmp_path: Path, capfd):
    pair = small_net(), small_tokenizer()
    options = {**PLAIN, "quiet": False, "results": tmp_path}
    first = tta_bench.evaluate(pair, TEXTS, Unigram, **options, name="mine")
    assert first.folder == tmp_path / "mine"
    again = tta_bench.evaluate(pair, TEXTS, Unigram, **options, name="mine")
    assert again.runs[0].sessions == first.runs[0].sessions
    assert "nothing to do" in capfd.readouterr().err


def test_the_manifest_says_where_things_came_from(of_memory: Results):
    manifest = of_memory.runs[0].manifest
    assert manifest["command"] == ["tta_bench.evaluate"]
    assert manifest["config"]["datasets"] == [manifest["dataset"]["spec"]]
    assert manifest["dataset"]["spec"].startswith("memory:")


def test_a_run_in_memory_is_not_reproduced(of_memory: Results, tmp_path: Path, tta_bench: Command):
    group = of_memory.save(tmp_path / "mine")
    done = tta_bench("reproduce", group, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().split("\n")[-1:]
    assert "the memory of a Python session" in line
    assert "cannot be repeated from their manifests alone" in line


@slow
def test_documents_in_memory_are_not_reproduced(folder: Path, tmp_path: Path, tta_bench: Command):
    import tta_bench as library

    group = library.evaluate(str(folder), TEXTS, **PLAIN, device="cpu").save(tmp_path / "mine")
    done = tta_bench("reproduce", group, cwd=tmp_path)
    assert done.returncode == 2
    assert "were documents in the memory of a Python session" in done.stderr


# Refusals: one sentence each


def with_hook() -> Any:
    net = small_net()
    net.model.layers[0].register_forward_hook(lambda *_: None)
    return net


def with_adapter() -> Any:
    net = small_net()
    net.peft_config = {}
    return net


@register("none")
class Namesake(Method):
    def score(self, window):
        return self.below.score(window)


class Incomplete(Method):
    pass


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown option": ({"chunks": 3}, "there is no option 'chunks'; did you mean 'chunk'?"),
    "type": ({"chunk": "many"}, "'chunk' must be a whole number, not 'many'."),
    "type of a limit": ({"limit": 1.5}, "the options: 'limit' must be a whole number, not 1.5."),
    "protocol": ({"protocol": "lm-eval"}, "--protocol lm-eval needs --window"),
    "seed": ({"seed": -1}, "--seed must be at least 0"),
    "no model": ({"model": 3}, "must be a causal language model of transformers, or a spec, not"),
    "body alone": ({"model": (small_net().model, small_tokenizer())}, "LlamaModel predicts no tok"),
    "adapter": ({"model": (with_adapter(), small_tokenizer())}, "the model holds an adapter"),
    "hook": ({"model": (with_hook(), small_tokenizer())}, "module model.layers.0 has a hook"),
    "no tokenizer": ({"model": small_net()}, "needs its tokenizer, one of transformers, and got n"),
    "tokenizer twice": ({"tokenizer": small_tokenizer()}, "write model=(model, tokenizer), with"),
    "tokenizer of a spec": (
        {"model": "builtin:tiny", "tokenizer": small_tokenizer()},
        "a tokenizer in memory goes with a model in memory",
    ),
    "few bits in memory": ({"load_in": "4bit"}, "is in memory and not loaded: leave out --load-in"),
    "no such model": ({"model": "memory:123"}, "memory:123 was a model in the memory of a Python"),
    "meta": ({"model": (small_net().to("meta"), small_tokenizer())}, "the model lies on meta;"),
    "a text": ({"documents": "one\ntwo"}, "put texts in a list: documents=[text]."),
    "a list of specs": ({"documents": ["builtin:pydoc"]}, "write documents='builtin:pydoc'."),
    "numbers": ({"documents": [1, 2]}, "document 1 is int, not text."),
    "bytes": ({"documents": b"abc"}, "a datasets.Dataset, not bytes."),
    "empty": ({"documents": []}, "the documents are empty"),
    "empty texts": ({"documents": ["", ""]}, "every document is empty."),
    "surrogate": ({"documents": ["a", "\ud800"]}, "document 2 contains half a surrogate pair"),
    "splits": (
        {"documents": datasets.DatasetDict({"test": FORMS["dataset"]})},
        "such as documents['test'].",
    ),
    "column": (
        {"documents": datasets.Dataset.from_dict({"a": ["x"], "b": ["y"]})},
        "the dataset has several columns of strings",
    ),
    "no method": ({"methods": []}, "no method is given"),
    "unknown method": ({"methods": "non"}, "there is no method 'non'; did you mean 'none'?"),
    "a number": ({"methods": [3]}, "a method is a spec, a class derived from tta_bench.Method"),
    "a class": ({"methods": dict}, "an instance of its Params, not dict."),
    "twice": ({"methods": [Unigram, "unigram"]}, "'unigram' is asked for 2 times"),
    "namesake": ({"methods": Namesake}, "'none', is that of another method; give it another"),
    "incomplete": ({"methods": Incomplete}, "Incomplete lacks score(window)"),
    "isolated model": ({"isolate": True}, "isolate=True reads the model by its name"),
    "isolated method": (
        {"model": "builtin:tiny", "methods": Unigram, "isolate": True},
        "isolate=True reads the method 'unigram' by its name",
    ),
    "metric": ({"metrics": ["nothing"]}, "there is no metric 'nothing'"),
    "plugin": ({"plugins": ["nowhere.py"]}, "there is no plugin file nowhere.py."),
    "device": ({"device": "abacus"}, "'abacus' is not a device"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_sentence(case: str):
    changes, sentence = REFUSED[case]
    given: dict[str, Any] = {
        "model": (small_net(), small_tokenizer()),
        "documents": TEXTS,
        "methods": "none",
        **PLAIN,
    }
    with pytest.raises(BenchError) as refused:
        tta_bench.evaluate(**given | changes)
    said = str(refused.value)
    assert sentence in said
    assert "\n" not in said
    assert said.endswith((".", "?"))


def test_a_params_of_two_methods_asks_for_a_spec():
    @dataclass
    class Shared:
        rate: float = 0.0

    class First(Unigram):
        Params = Shared

    class Second(Unigram):
        Params = Shared

    with pytest.raises(BenchError, match=r"Shared is the Params of First, Second; give a spec"):
        tta_bench.evaluate("builtin:tiny", TEXTS, Shared(), **PLAIN)
