"""StreamingLLM: the authors' losses, a literal loop, and a memory that stays bounded."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tta_bench import UsageError, Window
from tta_bench.contract.choice import choose
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.flop_check import check_flops, measure_step
from tta_bench.engine.loop import Engine
from tta_bench.engine.preflight import check_needs
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.step import Step
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import load_model
from tta_bench.model.step_shape import StepShape
from tta_bench.model.synthetic import SyntheticStream
from tta_bench.validity.holdings import held_bytes
from tta_bench_methods.context.streaming_llm.slots import Slots

CHUNK = 16
SIZES = [(4, 12), (0, 16), (2, 0), (1, 40), (4, 200)]


def losses(method, ids, chunk, prefix=None):
    document = TokenizedDocument("a", np.asarray(ids, np.int32), len(ids), len(ids), "a")
    (result,) = Engine(method, Protocol(chunk=chunk), prefix, debug=True).run([document])
    assert result.status == "done"
    return result.nll


def model_of(arrays):
    """The model of a file; one without weights is of SmolLM2."""
    if "config" not in arrays:
        return load_model("smollm2-135m", "float32", "cpu")
    net = LlamaForCausalLM(LlamaConfig(**json.loads(str(arrays["config"]))))
    weights = {name[2:]: value for name, value in arrays.items() if name.startswith("w.")}
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return LanguageModel(net, None, "authors")


@pytest.mark.parametrize("path", golden("streaming-llm"))
def test_it_gives_the_losses_of_the_authors_script(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    model = model_of(arrays)
    params = {"sinks": int(arrays["start"]), "recent": int(arrays["recent"])}
    found = losses(make_method(model, "streaming-llm", **params), arrays["input_ids"], 1)
    tolerance = 2e-5 if "config" in arrays else 1e-4
    np.testing.assert_allclose(found, arrays["nll"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", golden("streaming-llm", "*.json"))
def test_it_keeps_what_the_authors_cache_keeps(path):
    rules = json.loads(path.read_text())["kept_indices"]
    calls = {rule: kept for rule, kept in rules.items() if rule.startswith("call ")}
    for rule, expected in calls.items():
        start, recent, length = (int(word.split("=")[1]) for word in rule.split()[1:])
        assert kept_after(start, recent, [length]) == expected


def kept_after(sinks, recent, chunks):
    """The tokens in the slots after chunks of these lengths, oldest first."""
    slots, read = Slots(sinks, sinks + recent), torch.zeros(1, dtype=torch.int64)
    held = torch.full((1, slots.size), -1)
    for length in chunks:
        fresh = torch.arange(max(chunks))[None] + read[:, None]  # padded, as beside other lanes
        both = torch.cat([held, fresh], dim=1)
        held = both.gather(1, slots.sources(read, read + length))
        read = read + length
    return held[0, slots.places(read)[0] >= 0].tolist()


@settings(max_examples=60)
@given(st.integers(0, 5), st.integers(0, 9), st.lists(st.integers(0, 12), min_size=1, max_size=9))
def test_slots_hold_the_first_tokens_and_the_latest(sinks, recent, chunks):
    tokens = list(range(sum(chunks)))
    latest = tokens[max(len(tokens) - recent, sinks) :]
    assert kept_after(sinks, recent, chunks) == tokens[:sinks] + latest


def reference(model, ids, chunk, sinks, recent):
    """The loop of the paper: keys as their projection gives them, turned by transformers."""
    net, entries, found = model.net, [], []
    projected: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda _m, _i, out: projected.append(out[0]))
        for layer in net.model.layers
    ]
    for first in range(0, len(ids) - 1, chunk):
        part = torch.tensor(ids[first : first + chunk][: len(ids) - 1 - first])
        cache, held = DynamicCache(), len(entries)
        for layer in range(len(hooks) if held else 0):
            keys = torch.stack([entry[layer][0] for entry in entries], dim=1)[None]
            values = torch.stack([entry[layer][1] for entry in entries], dim=1)[None]
            cos, sin = net.model.rotary_emb(keys, torch.arange(held)[None])
            cache.update(apply_rotary_pos_emb(keys, keys, cos, sin)[1], values, layer)
        projected.clear()
        places = held + torch.arange(len(part))
        logits = net(
            part[None], past_key_values=cache, position_ids=places[None], use_cache=True
        ).logits[0]
        targets = torch.tensor(ids[first + 1 : first + 1 + len(part)])
        found.append(F.cross_entropy(logits, targets, reduction="none"))
        for i in range(len(part)):
            values = [layer.values[0, :, held + i] for layer in cache.layers]
            keys = [rows[i].view(values[0].shape) for rows in projected]
            entries.append(list(zip(keys, values, strict=True)))
        if len(entries) > sinks + recent:
            entries = entries[:sinks] + entries[len(entries) - recent :]
    for hook in hooks:
        hook.remove()
    return torch.cat(found).numpy()


@pytest.mark.parametrize(("sinks", "recent"), SIZES)
@pytest.mark.parametrize("chunk", [1, 7, CHUNK])
@torch.no_grad()
def test_it_is_the_loop_of_the_paper(llama, chunk, sinks, recent):
    ids = [PREFIX, *random_document("a", 90, 3).token_ids.tolist()]
    expected = reference(llama, ids, chunk, sinks, recent)
    method = make_method(llama, "streaming-llm", sinks=sinks, recent=recent)
    found = losses(method, ids[1:], chunk, PREFIX)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_in_double_precision_it_is_the_loop_to_the_last_digits():
    model = tiny_model(dtype=torch.float64)
    ids = random_document("a", 60, 3).token_ids.tolist()
    with torch.no_grad():
        expected = reference(model, ids, CHUNK, 2, 9)
    found = losses(make_method(model, "streaming-llm", sinks=2, recent=9), ids, CHUNK)
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # losses are kept in float32


def test_lanes_at_different_places_are_strangers(llama, documents):
    params = {"sinks": 3, "recent": 20}
    together = run_method(make_method(llama, "streaming-llm", lanes=3, **params), documents)
    for document in documents:
        (alone,) = run_method(make_method(llama, "streaming-llm", **params), [document]).values()
        np.testing.assert_allclose(together[document.key], alone, atol=1e-5)


def test_where_nothing_is_forgotten_padding_is(llama):
    """A short chunk, read as wide as its neighbours, leaves its own tokens and no padding."""
    ids = torch.from_numpy(random_document("a", 60, 4).token_ids).long()
    params = {"sinks": 2, "recent": 10}
    one, two = (make_method(llama, "streaming-llm", lanes=n, **params) for n in (1, 2))
    for first, last in ((0, 16), (16, 21), (21, 37)):
        part = ids[first:last]
        counts = torch.tensor([len(part)])
        Step(one)(Window(part[None], counts, counts, len(part)), partial(part.view, 1, -1))
        padded = F.pad(part, (0, 16 - len(part)))[None].repeat(2, 1)
        counts = torch.tensor([len(part), 16])
        Step(two)(Window(padded, counts, counts, 16), padded.clone)
    for name in ("keys", "values", "read"):
        torch.testing.assert_close(two.state[name][0], one.state[name][0], rtol=0, atol=1e-5)


def test_what_is_predicted_does_not_depend_on_how_much_was_read(llama):
    """A billion tokens into a document it is what it is after a few: positions never grow."""
    ids = random_document("a", 80, 5).token_ids
    found = []
    for already in (0, 10**9):
        method = make_method(llama, "streaming-llm", sinks=2, recent=14)
        losses(method, ids[:40], CHUNK)
        method.state["read"] += already
        method.reset = lambda lane: None
        found.append(losses(method, ids[40:], CHUNK))
    np.testing.assert_array_equal(*found)


def test_memory_and_cost_of_a_step_stay_as_they_are(llama):
    method = make_method(llama, "streaming-llm", sinks=4, recent=60)
    shape = StepShape(32, 32, 0)
    costs, bytes_held = [], []
    for length in (100, 4000):
        losses(method, random_document("a", length, 1).token_ids, 32)
        bytes_held.append(held_bytes(method))
        costs.append(measure_step(method, shape, steps=length // 1000 + 1).flops)
    assert costs[0] == costs[1] == method.flops(shape)
    assert abs(bytes_held[1] - bytes_held[0]) < 256  # sizes of Python's numbers
    entries = 2 * llama.num_layers * 2 * 64 * 8  # keys and values, layers, heads, slots, width
    assert method.state_bytes() == 4 * entries + 8


def test_a_cache_that_a_method_keeps_counts_as_its_own(llama):
    method = make_method(llama, "streaming-llm", sinks=4, recent=60)
    before = held_bytes(method)
    window, _ = SyntheticStream(llama, StepShape(16, 16, 0)).window()
    method.kept = method.provide(window).past.lane(0)
    method._past = None
    assert held_bytes(method) - before > 4 * llama.num_layers * 2 * 64 * 8


@pytest.mark.parametrize(
    ("family", "spec", "step", "sentence"),
    [
        ("gpt2", "streaming-llm", StepShape(16, 16, 0), "has no rotary positions.*use window"),
        ("llama", "streaming-llm", StepShape(16, 16, 24), "leave out --context-mode cache"),
        ("llama", "streaming-llm:recent=4090", StepShape(9, 9, 0), "reads 4103 tokens at once"),
    ],
)
def test_what_it_cannot_do_is_a_sentence_before_the_run(family, spec, step, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_needs(choose(spec), tiny_model(family), step, longest=10_000)


def test_switched_off_it_runs_everywhere():
    off = choose("streaming-llm:sinks=0,recent=0")
    check_needs(off, tiny_model("gpt2"), StepShape(16, 16, 24), longest=10_000)


@pytest.mark.parametrize("params", [{"sinks": -1}, {"recent": -1}])
def test_wrong_parameters_get_one_sentence(llama, params):
    with pytest.raises(UsageError, match="must be at least 0"):
        make_method(llama, "streaming-llm", **params)


def test_a_step_never_waits_for_a_value(llama):
    """So that it may be a CUDA graph: where tensors have no values, waiting for one is an error."""
    method = make_method(llama, "streaming-llm", lanes=2, recent=24)
    assert method.graphs
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        method.state = {name: mode.from_tensor(value) for name, value in method.state.items()}
        kept = dict(method.state)
        ids, counts = torch.zeros(2, 16, dtype=torch.int64), torch.full((2,), 16)
        for _ in range(2):
            losses = method.score(Window(ids, counts, counts, 16)).full().sum(-1)
            method.adapt(Window(ids, counts, counts, 16), ids, losses)
    assert all(method.state[name] is value for name, value in kept.items())


STACK = "streaming-llm:sinks=2,recent=14+dynamic-eval:lr={lr}+neural-cache:window=40"


def test_parameters_and_distributions_stand_on_it(llama):
    ids = random_document("a", 90, 2).token_ids
    found = {}
    for lr in ("0", "0.01"):
        choice = choose(STACK.format(lr=lr))
        found[lr] = losses(choice.cls(llama, choice.params, 1), ids, CHUNK)
    frozen = choose("streaming-llm:sinks=2,recent=14+neural-cache:window=40")
    alone = losses(frozen.cls(llama, frozen.params, 1), ids, CHUNK)
    np.testing.assert_allclose(found["0"], alone, rtol=0, atol=1e-5)
    assert np.abs(found["0.01"] - alone)[CHUNK:].max() > 1e-2


def test_the_formula_holds_for_it_and_for_what_stands_on_it(llama):
    for spec in ("streaming-llm:recent=24", STACK.format(lr="0.001")):
        choice = choose(spec)
        report = check_flops(choice.cls(llama, choice.params, 2), StepShape(16, 16, 0), spec, 3)
        assert report.agrees
