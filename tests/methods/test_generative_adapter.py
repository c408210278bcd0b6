"""Generative Adapter: the authors' numbers, a literal reading of the formulas, and the stream."""

from functools import partial

import numpy as np
import pytest
import torch
from golden import golden
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from tta_bench import LanguageModel, UsageError, Window, check
from tta_bench.contract.registry import load
from tta_bench.documents import tokenized
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.model.step_shape import StepShape
from tta_bench.training.loss import SegmentLoss
from tta_bench.validity.check import quick_checks
from tta_bench_methods.parameter.generative.adapter import Adapter, AdapterOptions
from tta_bench_methods.parameter.generative.directions import equalised
from tta_bench_methods.parameter.generative.method import GenerativeAdapters

NAME = "generative-adapter"


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, check_dtype=False)


# --- the authors' numbers -----------------------------------------------------------------------


def arrays_of(path):
    """The arrays of a file; floating ones in float64."""
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    return {k: v.double() if v.is_floating_point() else v for k, v in found.items()}


def put(adapter, arrays, names):
    """Gives an adapter the fixture's slow weights, whatever their shapes."""
    for own, name in zip(("down", "key", "value", "up", "gamma"), names, strict=True):
        setattr(adapter, own, nn.Parameter(arrays[name]))


def module_of(arrays, normalise="svd"):
    inner, outer, width, rows, columns, directions, *_, alpha = arrays["meta"].tolist()
    slow_options = AdapterOptions(rank=columns, alpha=alpha, normalise=normalise)
    adapter = Adapter(width, inner, outer, slow_options).double()
    put(adapter, arrays, ("A1", "A2", "A3", "Bw", "gamma"))
    adapter.draw = arrays["gauss"] if directions < min(rows, columns) else None
    return adapter


def written_by_chunks(adapter, arrays):
    """What each chunk adds, [C, r1, r2]."""
    return adapter.written(arrays["hidden"][0], arrays["mask"][0])


@pytest.mark.parametrize(
    "path", [*golden(NAME, "[ph]*.npz"), *golden(NAME, "module-truncated-*.npz")]
)
def test_the_module_is_the_authors(path):
    arrays = arrays_of(path)
    adapter = module_of(arrays)
    arrays["hidden"].requires_grad_()
    written = written_by_chunks(adapter, arrays)
    after = written.cumsum(0)
    before = after - written
    close(after, arrays["stream_outer_product"][:, 0])
    exported = adapter.normalised(after).mT @ adapter.down
    close(exported, arrays["stream_lora_a"][:, 0])
    outputs = arrays["x_default"] @ arrays["W"].mT + adapter.read(arrays["x_default"], before)
    close(outputs, arrays["y_default"])
    base = arrays["x_query"] @ arrays["W"].mT
    query = base + adapter.read(arrays["x_query"], after[-1])
    close(query, arrays["y_states"])
    close(query, arrays["y_weights"])
    for normalise in ("frobenius", "spectral"):
        other = module_of(arrays, normalise)
        found = base + other.read(arrays["x_query"], after[-1])
        close(found, arrays[f"y_states_{normalise}"])
    inputs = (adapter.down, adapter.key, adapter.value, adapter.up, adapter.gamma)
    names = ("A1", "A2", "A3", "Bw", "gamma", "hidden")
    loss = (outputs * arrays["cot_default"]).sum()
    gradients = torch.autograd.grad(loss, [*inputs, arrays["hidden"]])
    for name, gradient in zip(names, gradients, strict=True):
        expected = arrays[f"grad_default_{name}"]
        close(gradient, expected, 3e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("path", golden(NAME, "rank-deficient-*.npz"))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_there_are_no_more_directions_than_tokens(path, dtype):
    arrays = arrays_of(path)
    arrays["gauss"] = arrays["gauss_seed7"]
    adapter = module_of(arrays).to(dtype)
    hidden = arrays["hidden"][0, 0].to(dtype)[None]
    products = adapter.written(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))[0]
    query = arrays["x_query"].to(dtype)
    base = arrays["x_query"] @ arrays["W"].mT
    close(base + adapter.read(query, products), arrays["y_rank_truncated"])


@pytest.mark.parametrize("path", golden(NAME, "train16-*.npz"))
def test_rows_of_completion_and_reconstruction_are_the_authors(path):
    arrays = arrays_of(path)
    adapter = module_of(arrays)
    written = written_by_chunks(adapter, arrays)[:8]
    after = written.cumsum(0)
    rows = torch.cat([after - written, after])
    base = arrays["x"] @ arrays["W"].mT
    close(base + adapter.read(arrays["x"], rows), arrays["y_train"])


@pytest.mark.parametrize("path", golden(NAME, "model-*.npz"))
@torch.no_grad()
def test_the_model_is_the_authors(path):
    arrays = arrays_of(path)
    width, heads, groups, mlp, layers, vocab, columns, rows, directions, alpha, chunks, _ = arrays[
        "meta"
    ].tolist()
    config = LlamaConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        vocab_size=vocab,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        pad_token_id=None,
    )
    net = LlamaForCausalLM(config).double()
    params = {k.removeprefix("param."): v for k, v in arrays.items() if k.startswith("param.")}
    own = {k if k.startswith("lm_head") else f"model.{k}": v for k, v in params.items()}
    net.load_state_dict({k: v for k, v in own.items() if "fastlora" not in k})
    module = GenerativeAdapters(
        LanguageModel(net, None, "fixture"), AdapterOptions(rank=columns, alpha=alpha)
    ).double()
    cut = directions < min(rows, columns)
    for number, adapter in enumerate(module.patches):
        start = f"layers.{number}.self_attn.o_proj.fastlora_"
        names = [f"{start}{part}.weight" for part in ("A1", "A2", "A3", "B", "hidden_state_norm")]
        put(adapter, params, names)
    model = module.attach(LanguageModel(net, None, "fixture"))

    def drawing(name):
        for adapter, draw in zip(module.patches, arrays[name], strict=True):
            adapter.draw = draw if cut else None

    def logits(ids, state):
        count = torch.tensor([ids.shape[1]])
        window = Window(ids, count, count, ids.shape[1])
        hidden, memo = module.read(model, window, state)
        after = module.write(memo, window, ids, model.unembedding, state)
        return model.unembed(hidden), after

    state = {f"{n}.M": torch.zeros(1, rows, columns).double() for n in range(layers)}
    for chunk in range(chunks):
        drawing("gauss_context")
        found, state = logits(arrays["ids"][:, chunk], state)
        close(found[0], arrays["logits_context"][0, chunk])
        drawing("gauss_query_states")
        query, _ = logits(arrays["ids_query"], state)
        if not cut:
            close(query[0], arrays["logits_query_stream"][chunk])
    close(query, arrays["logits_query_states"])
    held = torch.cat([state[f"{n}.M"] for n in range(layers)])
    close(held, arrays["outer_product_final"].view_as(held), 1e-4)


# --- the normalisation --------------------------------------------------------------------------


def literal(products, draw):
    """Directions by PyTorch's decompositions, those that are nothing left out one by one."""
    basis = torch.eye(len(products), dtype=products.dtype)
    if draw is not None:
        basis = torch.linalg.qr(products @ draw)[0]
        basis = torch.linalg.qr(products @ torch.linalg.qr(products.mT @ basis)[0])[0]
    u, s, vh = torch.linalg.svd(basis.mT @ products)
    total = torch.zeros_like(products)
    for column, value, row in zip(u.mT, s, vh, strict=False):
        if value > 1e-7 * s[0]:
            total += torch.outer(basis @ column, row)
    return total


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gradients_hold_where_singular_values_are_equal_or_cut():
    even = torch.linalg.qr(random(5, 5))[0] * 3.0
    assert torch.autograd.gradcheck(equalised, even.requires_grad_())
    for shape in ((6, 5), (5, 6)):
        products, draw = random(*shape).requires_grad_(), random(5, 3, seed=1)
        close(equalised(products, draw), literal_of(products, draw), 1e-12)
        assert torch.autograd.gradcheck(equalised, (products, draw.requires_grad_(False)))


def literal_of(products, draw):
    tall = products if products.shape[0] >= products.shape[1] else products.mT
    found = literal(tall.detach(), draw)
    return found if tall is products else found.mT


@pytest.mark.parametrize("tokens", [0, 2, 4])
def test_a_draw_does_not_matter_where_all_directions_are_kept(tokens):
    """Neither to what is read nor to the gradient."""
    keys, values = random(tokens, 7, seed=1).requires_grad_(), random(tokens, 6, seed=2)
    weights = random(7, 6, seed=3)
    found = []
    for draw in (None, random(6, 4, seed=4), random(6, 5, seed=5)):
        read = equalised(keys.mT @ values, draw)
        found.append((read, torch.autograd.grad((read * weights).sum(), keys)[0]))
    for read, gradient in found[1:]:
        close(read, found[0][0], 1e-10)
        close(gradient, found[0][1], 1e-9)
    assert torch.linalg.matrix_rank(found[0][0]) == tokens


# --- the stream ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def double():
    return tiny_model(dtype=torch.float64)


@torch.no_grad()
def literal_losses(method, model, document, chunk):
    """The formulas token by token, on the plain model with other output projections."""
    tokens = torch.tensor([PREFIX, *document.token_ids.tolist()])
    adapters = list(method.module.patches)
    products = [torch.zeros(64, 64, dtype=torch.float64) for _ in adapters]
    names = [f"model.layers.{n}.self_attn.o_proj.weight" for n in range(len(adapters))]
    losses = []
    for start in range(0, len(tokens) - 1, chunk):
        ids = tokens[start : min(start + chunk, len(tokens) - 1)]
        weights = {}
        for name, adapter, held in zip(names, adapters, products, strict=True):
            change = adapter.up @ literal(held, adapter.draw).mT @ adapter.down
            weights[name] = model.parameter(name) + 16.0 / 64.0 * change
        read = torch.func.functional_call(
            model.net, weights, (ids[None],), {"output_hidden_states": True}
        )
        labels = tokens[start + 1 : start + 1 + len(ids)]
        losses.append(F.cross_entropy(read.logits[0], labels, reduction="none"))
        for adapter, held, hidden in zip(adapters, products, read.hidden_states, strict=False):
            for h in hidden[0]:
                n = adapter.gamma * h / (h.square().mean() + 1e-6).sqrt()
                held += torch.outer(adapter.key @ n, adapter.value @ n)
    return torch.cat(losses).numpy()


def test_the_stream_is_the_formulas_token_by_token(double):
    documents = [random_document(f"d{n}", length, n) for n, length in enumerate((70, 41))]
    method = make_method(double, NAME, 2, weights="random")
    found = run_method(method, documents, Protocol(chunk=16))
    plain = run_method(make_method(double, "none", 2), documents, Protocol(chunk=16))
    for document in documents:
        expected = literal_losses(method, double, document, 16)
        np.testing.assert_allclose(found[document.key], expected, atol=1e-6)
        changed = np.abs(found[document.key] - plain[document.key])
        assert changed[:16].max() == 0  # nothing was written before
        assert changed[16:].max() > 0.1


@torch.no_grad()
def test_the_lowest_block_writes_the_same_in_any_cut(double):
    """M is a sum, and what the first block is given does not depend on what was read."""
    method = make_method(double, NAME, weights="random")
    module, tokens = method.module, torch.from_numpy(random_document("d", 30, 3).token_ids).long()
    held = []
    for cut in ((30,), (1, 12, 17), (8, 8, 8, 6)):
        state = module.fresh_state(1)
        for ids in tokens[None].split(cut, dim=1):
            count = torch.tensor([ids.shape[1]])
            window = Window(ids, count, count, ids.shape[1] + 2)
            _, memo = module.read(method.model, window, state)
            state = module.write(memo, window, ids, method.unembedding, state)
        held.append(state)
    for other in held[1:]:
        close(other["0.M"], held[0]["0.M"], 1e-10)
        assert (other["1.M"] - held[0]["1.M"]).abs().max() > 1e-3


def test_untrained_it_is_the_model_bit_for_bit(llama):
    method, document = make_method(llama, NAME, weights="random"), random_document("d", 40, 3)
    for adapter in method.module.patches:
        adapter.up.zero_()  # as training begins
    plain = run_method(make_method(llama, "none"), [document])["d"]
    np.testing.assert_array_equal(run_method(method, [document])["d"], plain)


@slow
def test_a_compiled_body_reads_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    document = random_document("d", 40, 3)
    plain = run_method(make_method(tiny_model(), NAME, weights="random"), [document])["d"]
    method = make_method(tiny_model(), NAME, weights="random")
    engine = Engine(method, Protocol(chunk=16), PREFIX, debug=True, compile=True)
    engine.warm_up(StepShape(16, 16, 0))
    assert engine.method.model.compiled
    (result,) = engine.run([document])
    np.testing.assert_allclose(result.nll, plain, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "options",
    [{}, {"directions": 64}, {"fast": False}, {"normalise": "frobenius"}],
    ids=["default", "all", "control", "frobenius"],
)
def test_flops_are_what_is_executed(options, llama, monkeypatch):
    cls = load(NAME)
    monkeypatch.setattr(cls, "Slow", lambda: AdapterOptions(**options))
    for shape in (StepShape(20, 20, 0), StepShape(20, 8, 0)):
        method = make_method(llama, NAME, weights="random")
        assert check_flops(method, shape, NAME, steps=2).agrees


@torch.no_grad()
def test_the_control_has_the_same_size_and_learns_nothing_from_a_text(double):
    modules = [GenerativeAdapters(double, AdapterOptions(fast=fast)) for fast in (True, False)]
    sizes = [{k: v.shape for k, v in module.state_dict().items()} for module in modules]
    assert sizes[0] == sizes[1]
    adapting, control = (module.patches[0].double() for module in modules)
    assert control.fresh_state(3) == {}
    control.load_state_dict(adapting.state_dict())
    # It reads what a text of unit vectors would have written.
    width = double.hidden_size
    everywhere = torch.ones(1, width, dtype=torch.bool)
    (written,) = adapting.written(torch.eye(width).double()[None], everywhere)
    close(control.normalised(control.of_unit_vectors()), adapting.normalised(written), 1e-6)


def test_the_control_reads_a_chunk_as_it_would_alone(double, monkeypatch):
    monkeypatch.setattr(load(NAME), "Slow", lambda: AdapterOptions(fast=False))
    first, second = (random_document(key, 16, n) for n, key in enumerate("ab"))
    method = make_method(double, NAME, weights="random")
    whole = random_document("c", 32, 2)
    whole.token_ids[16:] = second.token_ids
    whole.token_ids[15] = PREFIX
    found = run_method(method, [whole, second], Protocol(chunk=16))
    np.testing.assert_allclose(found["c"][16:], found["b"], atol=1e-6)
    plain = run_method(make_method(double, "none"), [first], Protocol(chunk=16))
    assert np.abs(run_method(method, [first], Protocol(chunk=16))["a"] - plain["a"]).max() > 0.1


def test_its_loss_falls_through_its_own_writes(tmp_path):
    lines = [f"def number_{n}(x):\n    return x + {n}\n" for n in range(12)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    model = load_model("builtin:tiny", "float32", "cpu")
    (text,) = tokenized(str(tmp_path / "text.txt"), model.tokenizer)
    ids = torch.tensor(text.token_ids[: 2 * 49]).long().view(2, 49)
    torch.manual_seed(0)
    module = GenerativeAdapters(model, AdapterOptions(rank=16, directions=4))
    loss = SegmentLoss(module.attach(model), module, False, (16,), 16, 2, 48.0)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    mask, fresh = torch.ones(2, 48, dtype=torch.bool), torch.tensor([[True, False, False]] * 2)
    losses = []
    for _ in range(6):
        value = loss(ids[:, :-1], ids[:, 1:], mask, fresh, torch.arange(2))["loss"]
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    gradients = [value.grad for value in module.parameters()]
    assert all(value is not None and value.isfinite().all() and value.any() for value in gradients)
    assert losses[-1] < losses[0] - 0.1


def test_quick_checks_pass():
    cls = load(NAME)
    assert quick_checks(cls, cls.Params(), NAME).valid is True


@slow
def test_every_probe_passes():
    report = check(NAME).report
    assert {r.probe for r in report.results if r.status != "pass"} == {"off"}
    assert report.valid is True


def test_what_cannot_be_had_is_refused_in_a_sentence(llama, monkeypatch):
    with pytest.raises(UsageError, match=f"{NAME}: no trained weights for random-llama come"):
        make_method(llama, NAME)
    with pytest.raises(ValueError, match="at least 1"):
        AdapterOptions(directions=0)
    model = tiny_model()
    model.layers[1].self_attn.other = model.layers[1].self_attn.o_proj
    del model.layers[1].self_attn.o_proj
    with pytest.raises(UsageError, match="was not found in every block of random-llama"):
        load(NAME).needs(load(NAME).Params(), model, StepShape(8, 8, 0))
