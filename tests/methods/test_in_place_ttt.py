"""In-Place TTT: the authors' numbers, the definition, and the stream."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from golden import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import TEXTS, small_net, small_tokenizer
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from tta_bench import LaneCache, UsageError, Window, evaluate
from tta_bench.contract.registry import load
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.step_shape import StepShape
from tta_bench.store import load_group
from tta_bench_methods.parameter.in_place_ttt.patch import InPlaceOptions, InPlacePatch
from tta_bench_methods.parameter.in_place_ttt.writes import read_and_write, unwritten

NAME = "in-place-ttt"


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def in_pieces(units, targets, kernel, projection, chunk, cuts=()):
    """D z of a stream that is cut at these places, and the state at its end."""
    lanes, total, inner = units.shape
    state, reads = unwritten(lanes, projection, inner), []
    for first, stop in pairwise((0, *sorted({c for c in cuts if 0 < c < total}), total)):
        part = slice(first, stop)
        count = torch.full((lanes,), stop - first)
        known = units[:, part] @ state["seen"].mT
        read, state = read_and_write(
            units[:, part], targets[:, part], known, count, state, kernel, projection, chunk
        )
        reads.append(read)
    return torch.cat(reads, 1), state


# --- the authors' numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["proj_self", "proj_ext", "noproj_self", "noproj_ext"])
@pytest.mark.parametrize("path", golden(NAME, "[!m]*.npz"))
def test_agrees_with_the_authors_mlp(path, kind):
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: torch.from_numpy(np.asarray(value)) for name, value in stored.items()}
    chunk, rate = int(arrays["meta"][2]), float(arrays["ttt_lr"])
    used = ["gate", "up", "down", "conv", *(["proj"] if kind.startswith("proj") else [])]
    own = {name: arrays[f"param_{name}"].clone().requires_grad_() for name in used}
    x, t = (arrays[name].clone().requires_grad_() for name in ("x", "t"))
    targets = t if kind.endswith("ext") else x
    projection = own.get("proj", torch.eye(x.shape[2], dtype=x.dtype))
    units = F.silu(x @ own["gate"].mT) * (x @ own["up"].mT)
    wanted = {"conv": "ttt_conv.weight", "proj": "ttt_proj.weight"}
    for cuts in ((), (1, 4, 5, 13)):
        added, state = in_pieces(units, targets, own["conv"][:, 0], rate * projection, chunk, cuts)
        y = units @ own["down"].mT + added
        close(y, arrays[f"y_train_{kind}"])
        close(y, arrays[f"y_infer_{kind}"])
        close(own["down"] + state["seen"], arrays[f"W_final_{kind}"])
        leaves = own | {"x": x} | ({"t": t} if kind.endswith("ext") else {})
        cosines = torch.arange(y.numel(), dtype=y.dtype).cos().view_as(y)
        loss = (y * cosines).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            stored_as = name if name in "xt" else wanted.get(name, f"{name}_proj.weight")
            close(gradient, arrays[f"grad_{kind}_{stored_as}"])


def authors_model(arrays):
    """Their Llama as a model of the bench, and the layers that are written, but for targets."""
    width, inner, layers, heads, vocabulary, chunk, _ = map(int, arrays["meta"])
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
    )
    net = LlamaForCausalLM(config).double()
    own = {
        name.removeprefix("param."): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith("param.")
    }
    missing = net.load_state_dict(
        {name: value for name, value in own.items() if "ttt_" not in name}, strict=False
    )
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    return LanguageModel(net, None, "theirs"), own, chunk


@pytest.mark.parametrize("path", golden(NAME, "model-*.npz"))
@torch.no_grad()
def test_agrees_with_the_authors_model(path):
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    model, own, chunk = authors_model(arrays)
    written = [int(layer) for layer in arrays["ttt_layers"]]
    every = written[1] if len(written) > 1 else len(model.layers)
    ids = torch.from_numpy(arrays["ids"])
    lanes, total = ids.shape
    errors = []
    for targets in ("hidden", "embedding"):  # the file does not say which
        slow_options = InPlaceOptions(True, every, chunk, float(arrays["ttt_lr"]), targets, "sum")
        layers = load(NAME).slow_weights(model, slow_options).double()
        for layer, patch in zip(written, layers.patches, strict=True):
            prefix = f"model.layers.{layer}.mlp.ttt"
            patch.kernel.copy_(own[f"{prefix}_conv.weight"][:, 0])
            patch.projection.copy_(own[f"{prefix}_proj.weight"])
        attached = layers.attach(model)
        attached.require_carry()  # as the engine asks before it reads
        worst = 0.0
        whole = [(0, total)]
        singles = [(0, chunk + 3), *((t, t + 1) for t in range(chunk + 3, total))]
        for name, parts in (("logits", whole), ("logits_incremental", singles)):
            state, found = layers.fresh_state(lanes), []
            past = LaneCache(lanes, total, ids.device)
            for first, stop in parts:
                length = torch.full((lanes,), stop - first)
                window = Window(ids[:, first:stop], length, length, stop - first, past)
                hidden, state = layers.read(attached, window, state)
                past.commit(length)
                found.append(attached.unembed(hidden))
            expected = torch.from_numpy(arrays[name])
            worst = max(worst, float((torch.cat(found, 1) - expected).abs().max()))
            for number, layer in enumerate(written):
                weight = own[f"model.layers.{layer}.mlp.down_proj.weight"]
                wanted = torch.from_numpy(arrays[f"W_final_layer{layer}"])
                final = weight + state[f"{number}.seen"]
                worst = max(worst, float((final - wanted).abs().max()))
        errors.append(worst)
    assert min(errors) < 2e-6


# --- the definition ---------------------------------------------------------------------------


def one_at_a_time(units, targets, kernel, projection, chunk):
    """D z token by token, and D at the end: a chunk is written when its last token was read."""
    memory, reads = units.new_zeros(targets.shape[1], units.shape[1]), []
    for t in range(len(units)):
        reads.append(memory @ units[t])
        if (t + 1) % chunk:
            continue
        for c in range(t + 1 - chunk, t + 1):
            value = torch.zeros_like(targets[0])
            for tap in range(5):
                if t + 1 - chunk <= c + tap - 2 <= t:
                    value = value + kernel[:, tap] * targets[c + tap - 2]
            memory = memory + torch.outer(value @ projection, units[c])
    return torch.stack(reads), memory


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 19), min_size=2, max_size=3),
    cuts=st.lists(st.integers(1, 18), max_size=4),
    chunk=st.sampled_from([1, 2, 3, 5, 8, 32]),
)
@torch.no_grad()
def test_any_cut_reads_as_a_token_at_a_time(lengths, cuts, chunk):
    """Lanes end apart, so that they stand at different places of their chunks."""
    generator = torch.Generator().manual_seed(chunk)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    lanes, total, inner, width = len(lengths), 19, 4, 3
    units, targets = random(lanes, total, inner), random(lanes, total, width)
    kernel, projection = random(width, 5), random(width, width)
    state = unwritten(lanes, projection, inner)
    found = [[] for _ in lengths]
    for first, stop in pairwise((0, *sorted(set(cuts)), total)):
        part = slice(first, stop)
        count = (torch.tensor(lengths) - first).clamp(0, stop - first)
        held = {name: value.clone() for name, value in state.items()}
        known = units[:, part] @ state["seen"].mT
        reads, after = read_and_write(
            units[:, part], targets[:, part], known, count, state, kernel, projection, chunk
        )
        for name, value in held.items():
            assert torch.equal(state[name], value)
            assert after[name].dtype == value.dtype
        state = after
        for lane, n in enumerate(count.tolist()):
            found[lane].append(reads[lane, :n])
    for lane, length in enumerate(lengths):
        if length:
            alone = units[lane, :length], targets[lane, :length]
            reads, memory = one_at_a_time(*alone, kernel, projection, chunk)
            close(torch.cat(found[lane]), reads, 1e-10)
            close(state["seen"][lane], memory, 1e-10)


def added_by(patch, units, targets, cuts=()):
    """What a patch adds to a projection that gives 0, in windows that end at these places."""
    lanes, total, _ = units.shape
    state, found = patch.fresh_state(lanes), []
    for first, stop in pairwise((0, *cuts, total)):
        length = torch.full((lanes,), stop - first)
        ids = torch.zeros(lanes, stop - first, dtype=torch.int64)
        patch.window, patch.targets = (
            Window(ids, length, length, stop - first),
            targets[:, first:stop],
        )
        nothing, mask = torch.zeros_like(patch.targets), torch.ones_like(ids, dtype=torch.bool)
        added, state = patch(units[:, first:stop], nothing, mask, state)
        found.append(added)
    return torch.cat(found, 1)


def random_patch(chunk, **options):
    patch = InPlacePatch(4, 3, InPlaceOptions(True, 1, chunk, 0.5, **options)).double()
    with torch.no_grad():
        for value in patch.parameters():
            value.normal_()
    return patch


@pytest.mark.parametrize("over", ["mean", "sum"])
@pytest.mark.parametrize("cuts", [(), (1, 4, 5, 13)])
def test_the_mean_over_chunks_is_read(over, cuts):
    torch.manual_seed(0)
    patch = random_patch(3, over=over)
    units, targets = (torch.randn(1, 17, n, dtype=torch.float64) for n in (4, 3))
    projection = 0.5 * patch.projection
    reads, _ = one_at_a_time(units[0], targets[0], patch.kernel, projection, 3)
    chunks = (torch.arange(17) // 3).clamp_min(1) if over == "mean" else torch.ones(17)
    close(added_by(patch, units, targets, cuts)[0], reads / chunks[:, None], 1e-10)


def test_neither_reads_nor_gradients_grow_with_the_document():
    """A document that repeats itself adds in the end what it added in the beginning."""
    torch.manual_seed(0)
    patch = random_patch(4)
    again = [torch.randn(1, 4, n, dtype=torch.float64) for n in (4, 3)]
    found = []
    for times in (2, 200):
        units, targets = (value.repeat(1, times, 1) for value in again)
        added = added_by(patch, units, targets)[:, -4:]
        found.append((added, *torch.autograd.grad(added.square().sum(), [*patch.parameters()])))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-9 * float(one.detach().abs().max()))


# --- the method -------------------------------------------------------------------------------


def test_an_untrained_one_adds_nothing(llama, documents):
    cls = load(NAME)
    layers = cls.slow_weights(llama, cls.Slow(chunk=8))
    method = make_method(llama, NAME, 2, weights="random")
    method.use(layers)
    found = run_method(method, documents)
    for key, losses in run_method(make_method(llama, "none", 2), documents).items():
        assert np.array_equal(found[key], losses)


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "gemma3"])
def test_models_of_other_families_are_written(family):
    model, document = tiny_model(family), [random_document("d", 40, 3)]
    moved = run_method(make_method(model, NAME, weights="random"), document)["d"]
    plain = run_method(make_method(model, "none"), document)["d"]
    assert np.array_equal(moved[:8], plain[:8])  # of the first chunk nothing is written yet
    assert np.abs(moved[8:] - plain[8:]).max() > 1e-3


def test_a_chunk_that_is_not_complete_is_not_read(llama):
    """Any chunk of the protocol, with context or without, gives the same losses."""
    document = [random_document("d", 40, 3)]
    whole = run_method(make_method(llama, NAME, weights="random"), document, Protocol(chunk=64))
    for chunk in (5, 8):
        protocol = Protocol(chunk=chunk, context=64, context_mode="cache")
        cut = run_method(make_method(llama, NAME, weights="random"), document, protocol)
        np.testing.assert_allclose(cut["d"], whole["d"], atol=2e-4)


def test_a_model_whose_mlp_is_not_known_is_refused():
    model = tiny_model()
    for layer in model.layers:
        layer.mlp.up = layer.mlp.down_proj
        del layer.mlp.down_proj
    cls = load(NAME)
    with pytest.raises(UsageError, match="block 0 of random-llama has none of them"):
        cls.slow_weights(model, cls.Slow())


@pytest.mark.parametrize("options", [{"every": 0}, {"chunk": 0}, {"rate": 0.0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        load(NAME).Slow(**options)


def test_what_is_added_is_in_the_row(llama):
    """The root of |D z|^2 / |W z|^2 over the tokens of each document, by a hook of our own."""
    method = make_method(llama, NAME, 2, weights="random")
    (path,), (patch,) = method.module.paths, method.module.patches
    sums = torch.zeros(2)

    def tally(module, given, found):
        own, mask = given[1], given[2]
        squares = torch.stack([(found[0] - own).square().sum(-1), own.square().sum(-1)])
        sums.add_(squares[:, mask].sum(1))

    patch.register_forward_hook(tally)
    engine = Engine(method, Protocol(chunk=16), PREFIX, debug=True)
    engine.warm_up(StepShape(16, 16, 0))
    for length in (40, 13):  # one after another: the second one starts anew
        sums.zero_()
        (result,) = engine.run([random_document("d", length, 3)])
        expected = float((sums[0] / sums[1]).sqrt())
        assert result.figures == {f"added/{path}": pytest.approx(expected, rel=1e-4)}
        assert expected > 0.01


@slow
def test_a_run_keeps_what_was_added(tmp_path):
    model, tokenizer = small_net(), small_tokenizer()
    spec = f"{NAME}:weights=random"
    options = {"tokenizer": tokenizer, "results": tmp_path, "quiet": True, "chunk": 16}
    results = evaluate(model, TEXTS, spec, **options)
    (run,) = load_group(results.folder)
    for row in run.rows:
        assert list(row.figures) == ["added/model.layers.0.mlp.down_proj"]
        assert all(value > 0 for value in row.figures.values())
