"""What every memory in the shared block keeps, whichever it is."""

from itertools import pairwise

import pytest
import torch
from fast_heads import FAST_HEADS, IDS, SUMS, VARIANTS, small_block
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import slow
from tiny import PREFIX, make_method, random_document, run_method, tiny_model
from torch.nn import functional as F
from toys import both_losses, trained, write_texts

from tta_bench import SlowWeights, UsageError
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build
from tta_bench.documents import tokenized
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model
from tta_bench.model.step_shape import StepShape
from tta_bench.validity import check
from tta_bench.validity.check import quick_checks

FIRST, *OTHERS = FAST_HEADS
every_head = pytest.mark.parametrize("name", FAST_HEADS)
first_head = pytest.mark.parametrize(
    "name", [FIRST, *(pytest.param(n, marks=slow) for n in OTHERS)]
)
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)


def tokens(memory, hidden_size, lanes, length, seed, dtype=torch.float64):
    """q, k, v of a memory, and x."""
    generator = torch.Generator().manual_seed(seed)
    shape = lanes, length, memory.heads, memory.width
    q, k, v = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3))
    x = torch.randn(lanes, length, hidden_size, generator=generator, dtype=dtype)
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, x


def pieces_of(total, cuts):
    """Slices between the cuts that lie within."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < total}), total]
    return [slice(a, b) for a, b in pairwise(places)]


@every_variant
@pytest.mark.parametrize("strict", [True, False])
@settings(max_examples=3, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 11), min_size=2, max_size=3),
    cuts=st.lists(st.integers(1, 10), max_size=3),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_any_cut_reads_as_a_token_at_a_time(name, options, strict, lengths, cuts, seed, llama):
    """Lanes end apart, so that they stand at different places when the next piece comes."""
    memory = small_block(llama, name, seed, **options).memory
    lanes, total = len(lengths), 11
    parts = tokens(memory, llama.hidden_size, lanes, total, seed)
    state = memory.fresh(lanes)
    expected = []
    for piece in pieces_of(total, cuts):  # of each lane its next tokens, as many as it has
        size = piece.stop - piece.start
        columns = torch.arange(size)
        mask = columns < (torch.tensor(lengths) - piece.start).clamp(0, size)[:, None]
        before = {key: value.clone() for key, value in state.items()}
        reads, after = memory(*(part[:, piece] for part in parts), mask, state, strict)
        for key, value in before.items():
            assert torch.equal(state[key], value)
            assert (after[key].shape, after[key].dtype) == (value.shape, value.dtype)
        state = after
        expected.append((piece, mask, reads))
    one = torch.ones(1, 1, dtype=torch.bool)
    for lane in range(lanes):
        alone, singles = memory.fresh(1), []
        for t in range(lengths[lane]):
            here = (part[lane : lane + 1, t : t + 1] for part in parts)
            read, alone = memory(*here, one, alone, strict)
            singles.append(read[0, 0])
        for piece, mask, reads in expected:
            count = int(mask[lane].sum())
            wanted = singles[piece.start : piece.start + count]
            for found, read in zip(reads[lane], wanted, strict=False):
                torch.testing.assert_close(found, read, rtol=0, atol=1e-9)
        for key, value in alone.items():
            torch.testing.assert_close(state[key][lane], value[0], rtol=0, atol=1e-9)


@every_head
@torch.no_grad()
def test_a_token_that_is_not_written_reads_like_the_next(name, llama):
    """The last label of a chunk comes later: its position reads as it would with the label."""
    memory = small_block(llama, name, **FAST_HEADS[name][0]).memory
    parts = tokens(memory, llama.hidden_size, 1, 9, 3)
    whole, _ = memory(*parts, torch.ones(1, 9, dtype=torch.bool), memory.fresh(1), True)
    for length in range(9):
        mask = torch.arange(9)[None] < length
        reads, _ = memory(*parts, mask, memory.fresh(1), True)
        torch.testing.assert_close(reads[:, : length + 1], whole[:, : length + 1])


@every_variant
@pytest.mark.parametrize("strict", [True, False])
@torch.no_grad()
def test_reads_depend_on_what_was_written_before(name, options, strict, llama):
    memory = small_block(llama, name, **options).memory
    q, k, v, x = tokens(memory, llama.hidden_size, 1, 9, 4)
    mask = torch.ones(1, 9, dtype=torch.bool)
    reads, _ = memory(q, k, v, x, mask, memory.fresh(1), strict)
    changed = v.clone()
    changed[:, 4] += 1
    others, _ = memory(q, k, changed, x, mask, memory.fresh(1), strict)
    first = 5 if strict else 4
    assert torch.equal(others[:, :first], reads[:, :first])
    assert (others[:, first:] - reads[:, first:]).abs().max() > 1e-6


def streamed(name, options, llama, count, piece):
    """The largest entries of reads and of the state after so many random tokens, in float32."""
    if "minibatch" in options:  # of a size that is worth its steps
        options = options | {"minibatch": 32}
    memory = small_block(llama, name, heads=2, width=8, **options).memory.float()
    state, most = memory.fresh(1), torch.zeros(())
    mask = torch.ones(1, piece, dtype=torch.bool)
    for number in range(count // piece):
        parts = tokens(memory, llama.hidden_size, 1, piece, number, torch.float32)
        reads, state = memory(*parts, mask, state, True)
        most = torch.maximum(most, reads.abs().max())
    held = max(float(value.abs().max()) for value in state.values())
    return float(most), held


def assert_bounded(name, options, llama, count, piece):
    reads, held = streamed(name, options, llama, count, piece)
    assert held < (10 * count if name in SUMS else 100)
    only_adds = name == "linear-attention" and options["forget"] == "off"
    assert reads < (10 * count**0.5 if only_adds else 100)


@every_variant
@torch.no_grad()
def test_a_long_stream_stays_bounded(name, options, llama):
    assert_bounded(name, options, llama, 50_000, 1000)


@slow
@every_variant
@torch.no_grad()
def test_a_million_tokens_stay_bounded(name, options, llama):
    assert_bounded(name, options, llama, 1_000_000, 4000)


@every_head
@pytest.mark.parametrize("shape", [StepShape(70, 70, 0), StepShape(20, 8, 0), StepShape(1, 1, 0)])
def test_flops_are_what_is_executed(name, shape, llama):
    assert check_flops(make_method(llama, name, weights="random"), shape, name, steps=2).agrees


@first_head
def test_quick_checks_pass(name):
    cls = load(name)
    assert quick_checks(cls, cls.Params(), name).valid is True


@slow
@every_head
def test_every_probe_passes(name):
    report = check(name, None)
    assert {r.probe for r in report.results if r.status != "pass"} == {"off"}
    assert report.valid is True


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


def small(name, **options):
    values = FAST_HEADS[name][0] | {"heads": 2, "width": 8} | options
    return f"{name}:{','.join(f'{key}={value}' for key, value in values.items())}"


@pytest.fixture(scope="module")
def read_by_tiny(texts):
    """Hidden states and labels of two texts under the built-in model, and its unembedding."""
    model = load_model("builtin:tiny", "float32", "cpu")
    ids = torch.stack(
        [
            torch.tensor(next(iter(tokenized(str(texts / name), model.tokenizer))).token_ids)
            for name in ("0.txt", "1.txt")
        ]
    )[:, :97].long()
    with torch.no_grad():
        return model, model.body(ids[:, :-1]), ids[:, 1:], model.unembedding.detach()


@every_head
def test_its_loss_falls_through_its_own_updates(name, read_by_tiny):
    model, hidden, labels, unembedding = read_by_tiny
    torch.manual_seed(0)
    cls = load(name)
    block = cls.slow_weights(model, build(cls.Slow, FAST_HEADS[name][0] | {"width": 8}, name))
    optimizer = torch.optim.Adam(block.parameters(), lr=1e-2)
    mask, fresh = torch.ones_like(labels, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)
    losses = []
    for _ in range(8):
        outputs, _ = block.segment(
            hidden, labels, mask, unembedding, 48, fresh, block.fresh_state(2)
        )
        loss = F.cross_entropy((outputs @ unembedding.mT).flatten(0, 1), labels.flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(value.grad is not None and value.grad.any() for value in block.parameters())
    assert losses[-1] < losses[0] - 0.1


@slow
@every_head
def test_it_is_trained_saved_and_evaluated(name, texts, tmp_path):
    file = trained(small(name), texts, tmp_path)
    model = load_model("builtin:tiny", "float32", "cpu")
    found = SlowWeights.load(file, name, model)
    cls = load(name)
    block = cls.slow_weights(model, cls.Slow(**found.options))
    block.load_state_dict(found.tensors)
    training, engine = both_losses(model, name, block, file)
    assert training == pytest.approx(engine, rel=1e-5)
    documents = list(tokenized(str(texts / "0.txt"), model.tokenizer))
    sums = []
    for spec, params in (("none", {}), (name, {"weights": str(file)})):
        losses = run_method(make_method(model, spec, **params), documents, Protocol(chunk=32))
        sums.append(sum(float(value.sum()) for value in losses.values()))
    assert sums[1] < 0.97 * sums[0]


@every_head
@torch.no_grad()
def test_under_autocast_a_memory_keeps_its_digits(name, llama):
    """Training on a GPU runs in bfloat16: projections may, sums of a document may not."""
    block = small_block(llama, name, **FAST_HEADS[name][0]).float()
    seen = []
    block.memory.register_forward_hook(
        lambda module, given, found: seen.extend([*given[:4], found[0], *found[1].values()])
    )
    hidden, labels = torch.randn(1, 5, llama.hidden_size), torch.zeros(1, 5, dtype=torch.int64)
    mask = torch.ones(1, 5, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        block(hidden, labels, mask, llama.unembedding, block.fresh_state(1))
    assert {value.dtype for value in seen if value.is_floating_point()} == {torch.float32}


@every_head
@torch.no_grad()
def test_the_control_has_the_same_size_and_reads_no_document(name, llama):
    adapting, control = (small_block(llama, name, fast=fast) for fast in (True, False))
    sizes = [{k: v.shape for k, v in block.state_dict().items()} for block in (adapting, control)]
    assert sizes[0] == sizes[1]
    hidden = torch.randn(1, 5, llama.hidden_size, dtype=torch.float64)
    labels, mask = torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool)
    unembedding = llama.unembedding.detach().double()
    outputs, after = control(hidden, labels, mask, unembedding, control.fresh_state(1))
    assert after == {}
    alone, _ = control(hidden[:, 3:], labels[:, 3:], mask[:, 3:], unembedding, {})
    torch.testing.assert_close(outputs[:, 3:], alone)
    q, *_ = tokens(adapting.memory, llama.hidden_size, 1, 5, 0)
    fresh = adapting.memory.fresh(1)
    x, none = torch.zeros(1, 5, llama.hidden_size, dtype=torch.float64), ~mask
    reads, _ = adapting.memory(q, q, q, x, none, fresh, True)
    torch.testing.assert_close(adapting.memory.frozen(q, fresh)[:, :1], reads[:, :1])


@every_head
def test_weights_that_do_not_come_with_it_are_missed_in_a_sentence(name, llama):
    with pytest.raises(UsageError, match=f"{name}: no trained weights for random-llama come"):
        make_method(llama, name)


def test_embeddings_of_labels_need_a_matrix(llama):
    cls = load("linear-attention")
    slow_options = cls.Slow(labels="embedding")
    assert cls.slow_weights(llama, slow_options).labels == "embedding"
    with pytest.raises(UsageError, match="use labels=error"):
        cls.slow_weights(tiny_model("gemma2"), slow_options)


def test_gradients_go_through_the_error_of_the_label(llama):
    """What training with the body needs: the error is a function of hidden states, too."""
    block = small_block(llama, "gated-delta").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    hidden, direction = torch.randn(
        2, 1, 4, llama.hidden_size, generator=generator, dtype=torch.float64
    )
    labels = torch.randint(97, (1, 4), generator=generator)
    unembedding = llama.unembedding.detach().double()
    mask = torch.ones(1, 4, dtype=torch.bool)

    def outputs(step):
        moved = hidden + step * direction
        return block(moved, labels, mask, unembedding, block.fresh_state(1))[0]

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outputs, step)


@every_head
@torch.no_grad()
def test_a_row_says_how_much_was_added_and_how_large_the_state_is(name, llama):
    """The figures of a document, whatever the chunk, are those of one pass over all of it."""
    document = random_document("d", 40, 3)
    method = make_method(llama, name, lanes=2, weights="random")
    protocol = Protocol(chunk=7, context=40, context_mode="cache")
    (result,) = Engine(method, protocol, PREFIX, debug=True).run([document])
    ids = torch.tensor([[PREFIX, *document.token_ids]])
    hidden, mask = llama.body(ids[:, :-1]), torch.ones(1, 40, dtype=torch.bool)
    fresh = method.head.fresh_state(1)
    outputs, after = method.head(hidden, ids[:, 1:], mask, method.unembedding, fresh)
    wanted = {"added": float((outputs - hidden).norm() / hidden.norm())} | {
        f"norm/{key}": float(value.norm())
        for key, value in after.items()
        if value.is_floating_point()
    }
    assert result.figures == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert result.figures["added"] > 0.01
    method.reset(0)
    assert all(torch.equal(value[0], value[1]) for value in method.state.values())


def test_a_control_has_no_state_and_no_figures_of_one(llama):
    class Control(load("delta")):
        @classmethod
        def random_weights(cls, model):
            return cls.slow_weights(model, cls.Slow(fast=False, heads=2, width=4))

    method = Control(llama, Control.Params(weights="random"), 1)
    run_method(method, [random_document("d", 20, 1)])
    assert (method.state, method.figures(0)) == ({}, {})
