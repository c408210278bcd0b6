"""Runs through `torch.compile`: the same numbers, the same FLOPs, and no state left behind.

Backends without code generation stand in for inductor: what is tested is what Dynamo traces.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from slow import slow
from tiny import FAMILIES, PREFIX, VOCAB, make_method, random_document, tiny_model
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from typer.testing import CliRunner

from tta_bench import LanguageModel, Window
from tta_bench.cli.main import app
from tta_bench.engine.compiling import COMPILE, EARNS_STEPS, compiles
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.streams import full_step
from tta_bench.errors import UsageError
from tta_bench.model.attention import NAME, causal_attention, use_causal_attention
from tta_bench.model.cache import LaneCache

COMPILER = torch.compile
PROTOCOL = Protocol(chunk=16)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Starts from and leaves an empty Dynamo, and its limit as it was."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()
    torch._dynamo.config.recompile_limit = limit


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: object, **options: object) -> None:
    monkeypatch.setattr(torch, "compile", partial(COMPILER, backend=backend, **options))


@pytest.fixture
def model() -> Iterator[LanguageModel]:
    """A model of one's own: `compiled` changes its attention."""
    found = tiny_model("llama")
    yield found
    found.compiled = False


@pytest.fixture
def texts():
    """Documents of whole chunks, and one that ends in mid chunk."""
    return [random_document(f"doc{i}", n, i) for i, n in enumerate((48, 40, 32))]


def read(method, texts, protocol: Protocol = PROTOCOL, **options: object) -> dict[str, np.ndarray]:
    """Losses by document, after a warm-up as a run has one."""
    engine = Engine(method, protocol, PREFIX, debug=True, **options)
    engine.warm_up(full_step(protocol, 64))
    return {result.document.key: result.nll for result in engine.run(texts)}


# The same numbers

METHODS = {
    "none": ("none", {}),
    "adam": ("dynamic-eval", {"optimizer": "adam"}),
    "sgd": (
        "dynamic-eval",
        {"optimizer": "sgd", "lr": "0.02", "clip": "0.5", "interval": "20"},
    ),
    "lora": ("dynamic-eval", {"subset": "lora", "rank": "2", "optimizer": "sgd", "lr": "0.5"}),
    "mlp": ("dynamic-eval", {"subset": "mlp"}),
    "adamw": ("dynamic-eval", {"subset": "norm", "optimizer": "adamw", "prior": "5.0"}),
    "fwl-untrained": ("fwl-untrained", {}),
}


ONE_OF_A_KIND = ("none", "adam", "lora", "fwl-untrained")
"""No gradients; those of the model's weights; those of adapters; weights of the method's own."""


@slow
@pytest.mark.parametrize(
    ("key", "lanes", "backend"),
    [(key, 1, "eager") for key in ONE_OF_A_KIND] + [(key, 2, "aot_eager") for key in METHODS],
)
def test_the_losses_are_the_same(model, texts, key, lanes, backend, monkeypatch):
    use_backend(monkeypatch, backend)
    name, params = METHODS[key]
    plain = read(make_method(tiny_model("llama"), name, lanes, **params), texts)
    assert not counters["stats"]["unique_graphs"]
    found = read(make_method(model, name, lanes, **params), texts, compile=True)
    assert model.compiled
    assert counters["stats"]["unique_graphs"] > 0
    assert list(found) == list(plain)
    for document, losses in plain.items():
        np.testing.assert_allclose(found[document], losses, atol=1e-5)


@slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_the_same(family, texts, monkeypatch):
    use_backend(monkeypatch, "eager")
    model = tiny_model(family)
    params = {"optimizer": "sgd", "lr": "0.01"}
    plain = read(make_method(model, "dynamic-eval", 2, **params), texts)
    found = read(make_method(model, "dynamic-eval", 2, **params), texts, compile=True)
    model.compiled = False
    for document, losses in plain.items():
        np.testing.assert_allclose(found[document], losses, atol=2e-5)


@slow
@pytest.mark.parametrize("mode", ["recompute", "cache"])
def test_with_a_context(model, texts, mode, monkeypatch):
    use_backend(monkeypatch, "eager")
    protocol = Protocol(chunk=16, context=24, context_mode=mode)
    name, params = METHODS["sgd"]
    plain = read(make_method(tiny_model("llama"), name, 2, **params), texts, protocol)
    found = read(make_method(model, name, 2, **params), texts, protocol, compile=True)
    for document, losses in plain.items():
        np.testing.assert_allclose(found[document], losses, atol=1e-5)


@slow
def test_compiled_runs_repeat_bit_for_bit(model, texts, monkeypatch):
    use_backend(monkeypatch, "aot_eager")
    name, params = METHODS["adam"]
    one = read(make_method(model, name, 2, **params), texts, compile=True)
    two = read(make_method(model, name, 2, **params), texts, compile=True)
    for document, losses in one.items():
        np.testing.assert_array_equal(two[document], losses)


def test_the_shared_weights_stay_as_they_are(model, texts, monkeypatch):
    use_backend(monkeypatch, "aot_eager")
    before = {name: value.clone() for name, value in model.net.named_parameters()}
    name, params = METHODS["adam"]
    read(make_method(model, name, 2, **params), texts[:1], compile=True)
    for name, value in model.net.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None


# FLOPs


@slow
@pytest.mark.parametrize("key", ONE_OF_A_KIND)
def test_flops_are_counted_before_the_warm_up(model, key, monkeypatch):
    use_backend(monkeypatch, "eager")
    name, params = METHODS[key]
    shape = full_step(PROTOCOL, 64)
    plain = check_flops(make_method(tiny_model("llama"), name, 2, **params), shape, name, 1)
    method = make_method(model, name, 2, **params)
    engine = Engine(method, PROTOCOL, PREFIX, debug=True, compile=True)
    report = check_flops(method, shape, name, 1)
    assert not model.compiled
    assert not counters["stats"]["unique_graphs"]
    assert (report.flops, report.counted) == (plain.flops, plain.counted)
    assert report.agrees
    engine.warm_up(shape)
    assert model.compiled
    assert counters["stats"]["unique_graphs"] > 0


def test_the_counter_sees_the_same_with_causal_attention(model):
    shape = full_step(PROTOCOL, 64)
    plain = check_flops(make_method(model, "none", 1), shape, "none", 1)
    use_causal_attention(model.net)
    again = check_flops(make_method(model, "none", 1), shape, "none", 1)
    assert model.net.config._attn_implementation == NAME
    assert again.counted == plain.counted


# What is compiled


def test_a_block_is_one_graph_compiled_once(model, monkeypatch):
    """`fullgraph` fails at any graph break; three layers share one program."""
    counter = CompileCounter()
    use_backend(monkeypatch, counter, fullgraph=True)
    model.compiled = True
    window = make_window(2, 24)
    with torch.no_grad():
        model.logits(window).full()
    assert counter.frame_count == 1
    with torch.no_grad():
        model.logits(window).full()
    assert counter.frame_count == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_of_a_family_breaks_its_graph(family, monkeypatch):
    counter = CompileCounter()
    use_backend(monkeypatch, counter, fullgraph=True)
    model = tiny_model(family)
    window = make_window(2, 24)
    with torch.no_grad():
        expected = model.logits(window).full()
        model.compiled = True
        found = model.logits(window).full()
        model.compiled = False
    assert counter.frame_count == 1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key", ["adam", "lora"])
def test_lanes_with_weights_of_their_own_break_no_graph(model, key, texts, monkeypatch):
    use_backend(monkeypatch, "eager", fullgraph=True)
    name, params = METHODS[key]
    read(make_method(model, name, 2, **params), texts, compile=True)
    assert not counters["graph_break"]


@slow
def test_steps_after_the_first_compile_nothing(model, texts, monkeypatch):
    """All windows have one shape, documents that end in mid chunk or not."""
    counter = CompileCounter()
    use_backend(monkeypatch, counter)
    for key in ("none", "adam", "sgd"):
        name, params = METHODS[key]
        engine = Engine(
            make_method(model, name, 2, **params), PROTOCOL, PREFIX, True, compile=True, longest=64
        )
        engine.warm_up(full_step(PROTOCOL, 64))
        after = counter.frame_count
        assert after > 0
        assert [result.status for result in engine.run(texts)] == ["done"] * len(texts)
        assert counter.frame_count == after


def test_with_a_carried_cache_the_model_runs_uncompiled(model, texts, monkeypatch):
    """The cache grows with the stream: each step would be compiled anew, in timed steps."""
    counter = CompileCounter()
    use_backend(monkeypatch, counter)
    protocol = Protocol(chunk=16, context=64, context_mode="cache")
    engine = Engine(make_method(model, "none"), protocol, PREFIX, True, compile=True, longest=64)
    engine.warm_up(full_step(protocol, 64))
    after = counter.frame_count
    assert [result.status for result in engine.run(texts)] == ["done"] * len(texts)
    assert counter.frame_count == after


@pytest.mark.parametrize("key", ["adam", "sgd", "lora"])
def test_a_step_is_few_programs(model, key, monkeypatch):
    """A block, the loss, and the update of tensors of every shape: not one for each tensor."""
    counter = CompileCounter()
    use_backend(monkeypatch, counter)
    name, params = METHODS[key]
    method = make_method(model, name, 2, **params)
    Engine(method, PROTOCOL, PREFIX, True, compile=True).warm_up(full_step(PROTOCOL, 64))
    assert 3 <= counter.frame_count <= 6 < len(method.start)


def test_switched_off_nothing_is_compiled(model, monkeypatch):
    counter = CompileCounter()
    use_backend(monkeypatch, counter)
    window = make_window(1, 16)
    model.compiled = True
    assert all(block._compiled_call_impl is not None for block in model.layers)
    model.compiled = False
    assert all(block._compiled_call_impl is None for block in model.layers)
    model.logits(window).full()
    assert counter.frame_count == 0
    model.compiled = True
    model.logits(window).full()
    assert counter.frame_count > 0


def test_a_copy_of_a_compiled_model_is_not_compiled(model, monkeypatch):
    use_backend(monkeypatch, "eager")
    model.compiled = True
    window = make_window(1, 16)
    expected = model.logits(window).full()
    other = model.with_weights({"model.norm.weight": model.parameter("model.norm.weight") * 2})
    assert not other.compiled
    assert all(block._compiled_call_impl is None for block in other.layers)
    assert not torch.allclose(other.logits(window).full(), expected)
    torch.testing.assert_close(model.logits(window).full(), expected)


# When a run is compiled

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")


def test_what_is_asked_for_is_done():
    assert COMPILE == ("auto", "on", "off")
    for device in (CPU, CUDA):
        assert compiles("on", device, 0)
        assert not compiles("off", device, 10**9)


def test_auto_compiles_on_a_gpu_where_the_run_is_long():
    assert not compiles("auto", CPU, 10**9)
    assert not compiles("auto", torch.device("mps"), 10**9)
    assert compiles("auto", CUDA, EARNS_STEPS)
    assert not compiles("auto", CUDA, EARNS_STEPS - 0.5)


@pytest.mark.parametrize("word", ["yes", "", "ON", "auto "])
def test_a_wrong_word_gets_one_sentence(word):
    with pytest.raises(UsageError, match="--compile must be one of auto, on, off, not"):
        compiles(word, CPU, 0)


# The command line


@pytest.fixture
def _unprobed(monkeypatch):
    """Probes of validity take time, and compile nothing."""
    monkeypatch.setattr("tta_bench.evaluation.verdict.probed", lambda choice: (True, (), None, ()))


def evaluate(home, *words: str):
    folder = home / "texts"
    folder.mkdir(exist_ok=True)
    for number in range(2):
        text = f"Number {number}. " + "The quick fox jumps over the lazy dog. " * 8
        (folder / f"{number}.txt").write_text(text)
    command = ["eval", "--dataset", str(folder), "--chunk", "32", "--max-tokens", "80"]
    command += ["--results", str(home / "results"), "--name", "mine", "--json", *words]
    command += ["--audit", "off"]  # which would read it all again, uncompiled or not
    return CliRunner().invoke(app, command)


def summaries(home, group: str = "mine") -> dict[str, dict]:
    found = {}
    for folder in (home / "results" / group).iterdir():
        if (folder / "summary.json").is_file():
            found[folder.name.split("-")[0]] = json.loads((folder / "summary.json").read_text())
    return found


@pytest.mark.usefixtures("_unprobed")
@slow
def test_the_command_line_compiles_and_says_so(tmp_path, monkeypatch):
    use_backend(monkeypatch, "eager")
    methods = ["--method", "none", "--method", "dynamic-eval:subset=head"]
    done = evaluate(tmp_path, *methods, "--compile", "on")
    assert done.exit_code == 0, done.output
    assert counters["stats"]["unique_graphs"] > 0
    on = {row["method"]: row for row in json.loads(done.stdout.strip().split("\n")[-1])["rows"]}
    stored = summaries(tmp_path)
    assert set(stored) == {"none", "dynamic"}
    for summary in stored.values():
        assert summary["compiled"] is True
        assert summary["captured"] is False  # there is no GPU
        assert summary["warm_up_seconds"] > 0
        assert summary["flops_agree"] is True
        assert summary["status"] == "complete"
    plain = tmp_path / "plain"
    plain.mkdir()
    done = evaluate(plain, *methods)
    assert done.exit_code == 0, done.output
    assert all(summary["compiled"] is False for summary in summaries(plain).values())
    off = {row["method"]: row for row in json.loads(done.stdout.strip().split("\n")[-1])["rows"]}
    for method, row in off.items():
        assert on[method]["nll"] == pytest.approx(row["nll"], rel=1e-5)
        assert on[method]["flops_per_token"] == row["flops_per_token"]


@slow
@pytest.mark.usefixtures("_unprobed")
def test_the_command_line_says_what_of_a_cache_is_compiled(tmp_path, monkeypatch):
    use_backend(monkeypatch, "eager")
    words = ["--context", "32", "--context-mode", "cache", "--compile", "on"]
    done = evaluate(tmp_path, "--method", "none", *words)
    assert done.exit_code == 0, done.output
    assert "a carried cache grows with the stream" in " ".join(done.stderr.split())


def test_the_command_line_refuses_a_wrong_word(tmp_path):
    done = evaluate(tmp_path, "--method", "none", "--compile", "fast")
    assert done.exit_code == 2
    assert "fast" in done.stderr


# Causal attention

CAUSAL = ("llama", "llama-untied", "qwen2", "qwen3", "gpt2", "gpt-neox", "gemma")
SLIDING = ("gemma2", "gemma3")


def make_window(lanes: int, width: int, past: LaneCache | None = None, seed: int = 2) -> Window:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (lanes, width), generator=generator)
    counts = torch.full((lanes,), width)
    return Window(ids, counts, counts, width, past)


@pytest.mark.parametrize("family", CAUSAL)
def test_causal_attention_leaves_the_logits_as_they_are(family):
    model = tiny_model(family)
    window = make_window(2, 40)
    expected = model.logits(window).full()
    before = model.net.config._attn_implementation
    use_causal_attention(model.net)
    assert before != NAME
    assert model.net.config._attn_implementation == NAME
    torch.testing.assert_close(model.logits(window).full(), expected, atol=1e-5, rtol=1e-5)
    use_causal_attention(model.net)  # once more changes nothing
    assert model.net.config._attn_implementation == NAME


@pytest.mark.parametrize("family", SLIDING)
def test_models_with_sliding_windows_keep_their_attention(family):
    model = tiny_model(family)
    window = make_window(2, 40)
    expected = model.logits(window).full()
    before = model.net.config._attn_implementation
    use_causal_attention(model.net)
    assert model.net.config._attn_implementation == before != NAME
    assert torch.equal(model.logits(window).full(), expected)


def test_families_are_all_of_one_kind_or_the_other():
    assert set(CAUSAL) | set(SLIDING) == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "value"), [("sliding_window", 8), ("attn_logit_softcapping", 30.0)]
)
def test_what_a_config_says_is_enough_to_leave_it_alone(name, value):
    """A probe is shorter than most sliding windows: it would not see them."""
    model = tiny_model("llama")
    setattr(model.net.config, name, value)
    use_causal_attention(model.net)
    assert model.net.config._attn_implementation != NAME


def test_a_model_that_would_read_otherwise_is_switched_back(monkeypatch):
    """Attention that is more than causal, which no field of the config tells."""
    from transformers import AttentionInterface

    def louder(module, query, key, value, mask, **kwargs):
        mixed, weights = causal_attention(module, query, key, value, mask, **kwargs)
        return 1.5 * mixed, weights

    AttentionInterface.register("test_louder", louder)
    try:
        model = tiny_model("llama")
        model.net.set_attn_implementation("test_louder")
        window = make_window(2, 20)
        expected = model.logits(window).full()
        use_causal_attention(model.net)
        assert model.net.config._attn_implementation == "test_louder"
        assert torch.equal(model.logits(window).full(), expected)
    finally:
        AttentionInterface._global_mapping.pop("test_louder")


def explicit(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """Attention [B, T, H, D] by its formula."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = (query @ key.mT * scale).masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_is_the_formula_of_attention(heads, scale):
    torch.manual_seed(0)
    query = torch.randn(2, heads[0], 7, 8, dtype=torch.float64)
    key, value = torch.randn(2, 2, heads[1], 7, 8, dtype=torch.float64)
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    options = {} if scale is None else {"scaling": scale}
    found, weights = causal_attention(None, query, key, value, None, **options)
    assert weights is None
    assert found.is_contiguous()
    torch.testing.assert_close(found, explicit(query, key, value, causal, scale or 8**-0.5))


def test_a_mask_is_obeyed():
    """A carried cache holds five keys before the window, or fewer in some lanes."""
    torch.manual_seed(0)
    query = torch.randn(2, 4, 3, 8)
    key, value = torch.randn(2, 2, 2, 8, 8)
    past = LaneCache(2, 5, torch.device("cpu"))
    past._layers = [(key[:, :, :5], value[:, :, :5])]
    past.valid += torch.tensor([5, 2])
    mask = past.attention_mask(3, torch.float32)
    found, _ = causal_attention(None, query, key, value, mask)
    expected = explicit(query, key, value, mask == 0, 8**-0.5)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    open_to_all, _ = causal_attention(None, query, key, value, torch.zeros_like(mask))
    assert not torch.allclose(open_to_all, found, atol=1e-3)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_carried_cache_reads_the_same(family):
    """Two lanes, of which one begins a new document half way."""

    def read_on(model: LanguageModel) -> Tensor:
        past = LaneCache(2, 24, torch.device("cpu"))
        pieces = []
        for step in range(4):
            if step == 2:
                past.reset(1)
            window = make_window(2, 8, past, seed=step)
            pieces.append(model.logits(window).full())
            past.commit(window.lengths)
        return torch.cat(pieces, dim=1)

    model = tiny_model(family)
    plain = copy.deepcopy(model.net)
    expected = read_on(model)
    use_causal_attention(model.net)
    found = read_on(model)
    assert model.net.config._attn_implementation == NAME
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    ids = torch.cat([make_window(2, 8, seed=step).input_ids for step in (2, 3)], dim=1)
    alone = plain(ids[1:]).logits[0]  # what the lane reads after the reset, by itself
    torch.testing.assert_close(found[1, 16:], alone, atol=1e-5, rtol=1e-5)
