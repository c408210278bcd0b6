"""Compressed Context Memory: the authors' numbers, their parallel form, and a literal stream."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import golden
from parallel_memory import COMP, SUM, TEXT, Layout, read_at_once
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from tta_bench import LanguageModel, UsageError, Window
from tta_bench.contract.choice import choose
from tta_bench.contract.registry import load
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.preflight import check_needs
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.model.step_shape import StepShape
from tta_bench_methods.context.compressed.module import (
    CompressedContext,
    CompressionOptions,
    mean_embeddings,
)
from tta_bench_methods.context.compressed.slots import Slots

NAME = "compressed-memory"
MODES = ("concat_recur", "merge_recur", "concat", "merge")
RECURRENT = MODES[:2]


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, check_dtype=False)


# --- the authors' numbers -----------------------------------------------------------------------


class Fixture:
    """A file: its model in float64, and what belongs to one mode."""

    def __init__(self, path, mode):
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
        arrays = {k: v.double() if v.is_floating_point() else v for k, v in arrays.items()}
        own, shared = f"{mode}.", "param."
        self.arrays = {k.removeprefix(own): v for k, v in arrays.items() if k.startswith(own)}
        self.lengths = arrays["ctx_lens"].tolist()
        vocab, width, mlp, layers, heads, self.size, self.rank, query, output = arrays[
            "meta"
        ].tolist()
        self.lengths[0] += 1  # the token that begins every text
        self.tail, self.output, self.vocab = query + output, output, vocab
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            pad_token_id=None,
        )
        self.net = LlamaForCausalLM(config).double()
        base = {k.removeprefix(shared): v for k, v in arrays.items() if k.startswith(shared)}
        base["model.embed_tokens.weight"] = base.pop("model.embed_tokens.embeddings.weight")
        self.net.load_state_dict(base)
        self.net.requires_grad_(False)
        self.model = LanguageModel(self.net, None, "fixture")
        self.layout = Layout.of(self.lengths, self.tail, self.size, mode)
        self.text = self.arrays["ids"][0][self.layout.rows(TEXT)]
        self.slow = {
            k.removeprefix("param."): v.requires_grad_()
            for k, v in self.arrays.items()
            if k.startswith("param.")
        }

    @property
    def table(self):
        return self.slow["model.embed_tokens.comp_embeddings.weight"]

    @property
    def corrections(self):
        """A, B and the factor of each projection, of all blocks."""
        paths = {name.partition(".lora_")[0] for name in self.slow if ".lora_" in name}
        names = (".lora_A.default.weight", ".lora_B.default.weight")
        return {p: (*(self.slow[p + end] for end in names), 16 / self.rank) for p in paths}

    def loss(self, logits):
        """A loss of the logits of all tokens."""
        labels = self.arrays["labels"][0]
        return F.cross_entropy(logits[:-1], labels[1:])

    def module(self, mode):
        slow = CompressionOptions(
            slots=self.size, chunks=len(self.lengths), memory=mode.partition("_")[0], rank=self.rank
        )
        module = CompressedContext(self.model, slow).double()
        module.tokens = nn.Parameter(self.table[: self.size].detach().clone())
        for path, correction in zip(module.paths, module.corrections, strict=True):
            down, up, _ = self.corrections[path]
            correction.down, correction.up = (nn.Parameter(x.detach().clone()) for x in (down, up))
        module.attach(self.model)
        return module


every_file = pytest.mark.parametrize("path", golden("context-memory"))


@every_file
@pytest.mark.parametrize("mode", MODES)
def test_the_parallel_form_is_the_authors(path, mode):
    fixture = Fixture(path, mode)
    arrays, layout = fixture.arrays, fixture.layout
    assert torch.equal(layout.mask, arrays["attn_mask"].bool())
    assert torch.equal(layout.positions, arrays["position_ids"])
    assert torch.equal(torch.tensor(layout.kinds) != TEXT, arrays["comp_mask"].bool())
    if "sum_attn_mask" in arrays:
        close(layout.merging, arrays["sum_attn_mask"], 1e-6)
    logits, _ = read_at_once(fixture.net, layout, fixture.text, fixture.table, fixture.corrections)
    close(logits, arrays["logits"])
    loss = fixture.loss(logits)
    close(loss, arrays["loss"])
    expected = {k.removeprefix("grad."): v for k, v in arrays.items() if k.startswith("grad.")}
    if expected:
        found = torch.autograd.grad(
            loss, [fixture.slow[name] for name in expected], allow_unused=True
        )
        for value, wanted in zip(found, expected.values(), strict=True):
            value = torch.zeros_like(wanted) if value is None else value
            close(value, wanted, 1e-5 * max(1.0, float(wanted.abs().max())))


@every_file
@pytest.mark.parametrize("mode", RECURRENT)
def test_the_recurrent_form_is_the_authors(path, mode):
    fixture = Fixture(path, mode)
    arrays, module = fixture.arrays, fixture.module(mode)
    rows = fixture.layout.rows(TEXT).split([*fixture.lengths, fixture.tail])
    steps, logits, state = [], [], module.fresh_state(1)
    for ids, place in zip(fixture.text.split([*fixture.lengths, fixture.tail]), rows, strict=True):
        hidden, past, window = read_window(module, fixture.model, ids, state)
        logits.append(fixture.model.unembed(hidden)[0])
        close(logits[-1], arrays["logits"][place])
        held = state
        state = module.write(past, window, ids[None], fixture.model.unembedding, state)
        steps.append(state)
    close(logits[-1], arrays["recursive_logits"])
    close(kept(held), arrays["memory_final"])
    if "memory_steps" in arrays:
        close(torch.stack([kept(state) for state in steps[:-1]]), arrays["memory_steps"])
    every = torch.zeros(len(fixture.layout.kinds), logits[0].shape[1], dtype=torch.float64)
    loss = fixture.loss(every.index_put((torch.cat(rows),), torch.cat(logits)))
    close(loss, arrays["loss"])
    loss.backward()
    expected = {k.removeprefix("grad."): v for k, v in arrays.items() if k.startswith("grad.")}
    table = expected.pop("model.embed_tokens.comp_embeddings.weight")
    found = {"": module.tokens.grad}
    for own, correction in zip(module.paths, module.corrections, strict=True):
        found[f"{own}.lora_A.default.weight"] = correction.down.grad
        found[f"{own}.lora_B.default.weight"] = correction.up.grad
    close(found.pop(""), table[: fixture.size], 1e-5 * float(table.abs().max()))
    assert not table[fixture.size :].any()  # of SUM tokens, which nothing reads
    for name, wanted in expected.items():
        if name in found:
            close(found[name], wanted, 1e-5 * max(1.0, float(wanted.abs().max())))
        else:  # those of the last block that lead nowhere
            assert not wanted.any()


def read_window(module, model, ids, state, lanes=1):
    count = torch.full((lanes,), ids.shape[-1])
    window = Window(ids.view(lanes, -1), count, count, ids.shape[-1])
    hidden, past = module.read(model, window, state)
    return hidden, past, window


def kept(state):
    """The memory of one lane as the authors store it, [layers, 2, H, S, D]."""
    return torch.stack([state["keys"][0], state["values"][0]], dim=1)


@every_file
@pytest.mark.parametrize("mode", MODES)
def test_tokens_begin_as_means_of_embeddings(path, mode):
    fixture = Fixture(path, mode)
    expected = fixture.arrays["comp_embed_init"]
    close(mean_embeddings(fixture.model, len(expected)), expected, 1e-6)


@every_file
def test_merging_is_the_authors(path):
    with np.load(path, allow_pickle=False) as file:
        given, expected = (
            torch.from_numpy(file[f"mergekv.{name}"]) for name in ("in", "out_time_step3")
        )
    sinks, size = 1, expected.shape[-2] - 1
    old, fresh = given[..., sinks:, :].split(size, dim=-2)
    merged = Slots(size, 1, merge=True).taken_in(old, fresh, torch.full((len(old),), 3 + 1))
    close(merged, expected[..., sinks:, :], 1e-6)


# --- recurrent, parallel, token by token --------------------------------------------------------


@pytest.fixture(scope="module")
def double():
    return tiny_model(dtype=torch.float64)


def small(model, **options):
    """A module with noise on every parameter, ready to read."""
    torch.manual_seed(0)
    module = CompressedContext(model, CompressionOptions(rank=4, **options)).double()
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn_like(value), alpha=0.3)
    module.attach(model)
    return module


def corrections_of(module):
    pairs = zip(module.paths, module.corrections, strict=True)
    return {path: (part.down, part.up, part.scale) for path, part in pairs}


def tokens(length, seed):
    return torch.tensor([PREFIX, *random_document("d", length - 1, seed).token_ids.tolist()])


@pytest.mark.parametrize("memory", ["concat", "merge"])
def test_chunk_by_chunk_it_is_the_parallel_form_with_its_gradients(double, memory):
    lengths, size = [9, 4, 1, 7, 6], 3
    module = small(double, slots=size, chunks=4, memory=memory)
    layout = Layout.of(lengths[:-1], lengths[-1], size, f"{memory}_recur")
    text = tokens(sum(lengths), 1)
    logits, layers = read_at_once(double.net, layout, text, module.tokens, corrections_of(module))
    rows = layout.rows(TEXT)
    kind = SUM if memory == "merge" else COMP
    state, found = module.fresh_state(1), []
    for ids in text.split(lengths):
        if len(found) == len(lengths) - 1:
            slots = layout.rows(kind)[-module.slots.size :]
            close(kept(state), layers[..., slots, :], 1e-12)
        hidden, past, window = read_window(module, double, ids, state)
        found.append(double.unembed(hidden)[0])
        state = module.write(past, window, ids[None], double.unembedding, state)
    close(torch.cat(found), logits[rows], 1e-11)
    losses = [F.cross_entropy(x[:-1], text[1:]) for x in (logits[rows], torch.cat(found))]
    expected, gradients = (torch.autograd.grad(x, list(module.parameters())) for x in losses)
    for one, other in zip(gradients, expected, strict=True):
        assert one.abs().max() > 1e-6
        close(one, other, 1e-11)


@torch.no_grad()
def literal(model, module, ids, chunk, chunks, memory, span):
    """Losses of one token after another; COMP tokens pass through weights W + s B A."""
    net, size = model.net, module.slots.group
    weights = {
        f"{path}.weight": net.get_parameter(f"{path}.weight") + factor * up @ down
        for path, (down, up, factor) in corrections_of(module).items()
    }
    groups, losses = [], []

    def step(replaced, cache, place, **given):
        return torch.func.functional_call(
            net,
            replaced,
            (),
            {"past_key_values": cache, "position_ids": torch.tensor([[place]]), **given},
        ).logits[0, -1]

    def remembering():
        cache = DynamicCache()
        for number in range(len(net.model.layers) if groups else 0):
            held = [group[number] for group in groups[-chunks:]]
            if memory == "merge":
                held = [torch.stack([group[number] for group in groups]).mean(0)]
            cache.update(*torch.cat(held, dim=-2)[:, None], number)
        return cache

    for start in range(0, len(ids) - 1, chunk):
        cache = remembering()
        part = ids[start : min(start + chunk, len(ids) - 1)]
        for place, token in enumerate(part, start):
            logits = step({}, cache, place, input_ids=token[None, None])
            losses.append(F.cross_entropy(logits, ids[place + 1]))
        read = [
            (layer.keys[:, :, -len(part) :], layer.values[:, :, -len(part) :])
            for layer in cache.layers
        ]
        for first in range(0, len(part), span or chunk):
            last = min(first + (span or chunk), len(part))
            cache = remembering()
            for number, (keys, values) in enumerate(read):
                cache.update(keys[:, :, first:last], values[:, :, first:last], number)
            for number, token in enumerate(module.tokens):
                step(weights, cache, start + last + number, inputs_embeds=token[None, None])
            layers = [(layer.keys, layer.values) for layer in cache.layers]
            groups.append([torch.stack([part[0, :, -size:] for part in layer]) for layer in layers])
    return torch.stack(losses).numpy()


CASES = [
    ("concat", 2, 16, 0),
    ("merge", 3, 16, 0),
    ("concat", 3, 16, 6),
    pytest.param("merge", 3, 16, 5, marks=slow),
    pytest.param("concat", 2, 7, 0, marks=slow),
    pytest.param("concat", 9, 5, 0, marks=slow),
    pytest.param("merge", 1, 6, 0, marks=slow),
]


@pytest.mark.parametrize(("memory", "chunks", "chunk", "span"), CASES)
def test_the_stream_is_the_formulas_token_by_token(
    double, monkeypatch, memory, chunks, chunk, span
):
    """Lanes at different places; old slots are dropped or merged; long chunks go in pieces."""
    made = small(double, slots=2, chunks=chunks, memory=memory).requires_grad_(False)
    monkeypatch.setattr(load(NAME), "random_weights", classmethod(lambda cls, model: made))
    documents = [random_document(f"d{n}", length, n) for n, length in enumerate((60, 21, 5))]
    method = make_method(double, NAME, 2, weights="random")
    method.span = span
    found = run_method(method, documents, Protocol(chunk=chunk))
    plain = run_method(make_method(double, "none", 2), documents, Protocol(chunk=chunk))
    for document in documents:
        ids = torch.tensor([PREFIX, *document.token_ids.tolist()])
        expected = literal(double, made, ids, chunk, chunks, memory, span)
        np.testing.assert_allclose(found[document.key], expected, rtol=1e-6, atol=1e-7)
        changed = np.abs(found[document.key] - plain[document.key])
        assert changed[:chunk].max() < 1e-6  # nothing was kept before
        assert len(changed) <= chunk or changed[chunk:].max() > 0.01


def test_chunks_longer_than_those_of_the_training_are_compressed_in_pieces():
    method = make_method(load_model("builtin:tiny", "float32", "cpu"), NAME)
    assert method.span == 64
    assert check_flops(method, StepShape(160, 160, 0), NAME, steps=2).agrees


@torch.no_grad()
def test_the_oldest_chunk_is_forgotten_and_the_newest_is_not(double):
    module = small(double, slots=2, chunks=2)
    text = tokens(40, 1)
    held = []
    for changed in (None, 3, 33):
        ids, state = text.clone(), module.fresh_state(1)
        if changed is not None:
            ids[changed] = (ids[changed] + 1) % 256
        for part in ids.split(8):
            _, past, window = read_window(module, double, part, state)
            state = module.write(past, window, part[None], double.unembedding, state)
        # Of the second block: what the first one keeps does not depend on a text, and so what the
        # second one keeps of a chunk does not depend on chunks before it.
        held.append(state["keys"][0, 1])
    close(held[1], held[0], 1e-12)
    assert (held[2] - held[0]).abs().max() > 1e-3


# --- what is kept, what it costs, and when it does nothing --------------------------------------


@torch.no_grad()
def test_the_control_keeps_as_much_and_nothing_of_the_text(double):
    for fast in (True, False):
        module, found = small(double, slots=2, chunks=3, fast=fast), []
        for seed in (1, 2):
            state = module.fresh_state(1)
            for ids in tokens(16, seed).split(8):
                _, past, window = read_window(module, double, ids, state)
                state = module.write(past, window, ids[None], double.unembedding, state)
            found.append(state)
        assert found[0]["keys"][..., -4:, :].abs().min() > 0
        for name, value in found[0].items():
            same = torch.equal(value, found[1][name])
            assert same == (not fast or name in ("read", "groups"))


def test_state_beside_the_keys_of_the_same_text():
    """The share of keys and values that the table's column of state shows."""
    model = tiny_model()
    slots, chunks, chunk = 2, 3, 16  # as of random weights
    method = make_method(model, NAME, weights="random")
    whole = make_method(model, "streaming-llm", sinks=0, recent=chunks * chunk)
    counters, share = 8, slots / chunk
    assert method.state_bytes() - 2 * counters == share * (whole.state_bytes() - counters)
    assert make_method(model, NAME, weights="random", chunks=6).state_bytes() > (
        1.9 * method.state_bytes()
    )


def test_merging_in_few_bits_keeps_its_mean_in_more():
    model = tiny_model(dtype=torch.bfloat16)
    module = CompressedContext(model, CompressionOptions(memory="merge"))
    cls = load(NAME)
    for memory, dtype in (("concat", torch.bfloat16), ("merge", torch.float32)):
        method = cls(model, cls.Params(weights="random"), 1)
        method.module.slots = replace(module.slots, merge=memory == "merge")
        assert method.init_state()["keys"].dtype == dtype


def test_switched_off_it_is_the_model_bit_for_bit(llama):
    document = random_document("d", 36, 3)
    off = {"weights": "random", "chunks": 0}
    for mode in ("recompute", "cache"):
        protocol = Protocol(chunk=16, context=8, context_mode=mode)
        plain = run_method(make_method(llama, "none"), [document], protocol)["d"]
        found = run_method(make_method(llama, NAME, **off), [document], protocol)["d"]
        np.testing.assert_array_equal(found, plain)
    method = make_method(llama, NAME, **off)
    assert method.state_bytes() == 0
    shape = StepShape(20, 16, 4)
    assert method.flops(shape) == make_method(llama, "none").flops(shape)


@slow
@pytest.mark.parametrize("memory", ["concat", "merge"])
def test_a_step_costs_the_same_however_long_the_document_is(llama, memory, monkeypatch):
    options = CompressionOptions(slots=3, chunks=4, memory=memory)
    made = classmethod(lambda cls, model: CompressedContext(model, options))
    monkeypatch.setattr(load(NAME), "random_weights", made)
    method = make_method(llama, NAME, 2, weights="random")
    for steps, method.span in ((1, 0), (9, 0), (9, 6)):
        assert check_flops(method, StepShape(16, 16, 0), NAME, steps).agrees
    size = 12 if memory == "concat" else 3
    assert method.state["keys"].shape == (2, llama.num_layers, 2, size, 8)


STACK = "compressed-memory:weights=random+dynamic-eval:lr={lr}+neural-cache:window=40"


@slow
def test_parameters_and_distributions_stand_on_it(llama):
    documents, found = [random_document("a", 60, 2)], {}
    for lr in ("0", "0.01"):
        choice = choose(STACK.format(lr=lr))
        method = choice.cls(llama, choice.params, 1)
        found[lr] = run_method(method, documents)["a"]
    assert check_flops(method, StepShape(16, 16, 0), "it", 3).agrees
    frozen = choose("compressed-memory:weights=random+neural-cache:window=40")
    alone = run_method(frozen.cls(llama, frozen.params, 1), documents)["a"]
    np.testing.assert_allclose(found["0"], alone, rtol=0, atol=1e-5)
    assert np.abs(found["0.01"] - alone)[16:].max() > 1e-2


@pytest.mark.parametrize(
    ("family", "spec", "step", "sentence"),
    [
        ("gpt2", NAME, StepShape(16, 16, 0), "not the projections q, k, v and o.*use a model"),
        ("gemma2", NAME, StepShape(16, 16, 0), "its attention is more than causal"),
        ("llama", NAME, StepShape(16, 16, 24), "leave out --context-mode cache"),
        ("llama", f"{NAME}:chunks=2046", StepShape(9, 9, 0), "reads 4101 tokens at once"),
    ],
)
def test_what_it_cannot_do_is_a_sentence_before_the_run(family, spec, step, sentence):
    spec = f"{spec}{',' if ':' in spec else ':'}weights=random"
    with pytest.raises(UsageError, match=sentence):
        check_needs(choose(spec), tiny_model(family), step, longest=10_000)


def test_wrong_parameters_get_one_sentence():
    with pytest.raises(UsageError, match="chunks must be at least 0"):
        choose(f"{NAME}:chunks=-1")
    for name in ("slots", "chunks", "rank"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            CompressionOptions(**{name: 0})
