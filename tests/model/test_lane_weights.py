"""Lanes with weights of their own, against plain transformers models that hold those weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, VOCAB, tiny_model
from torch import Tensor, nn
from torch.func import functional_call
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    DeepseekV3Config,
    FalconConfig,
    GPTJConfig,
    LlamaConfig,
    MixtralConfig,
    NemotronConfig,
    OPTConfig,
    PhiConfig,
    Qwen2MoeConfig,
    StableLmConfig,
    XGLMConfig,
)

from tta_bench import LanguageModel, Window
from tta_bench.errors import ModelError
from tta_bench.model.cache import LaneCache
from tta_bench.model.lane_weights import LaneWeights, ranks_of_norms

LANES, WIDTH, CHUNK = 3, 24, 8  # wider than the sliding windows of the Gemmas
LENGTHS, SCORED = (24, 17, 24), (8, 8, 3)


class Subject:
    """A model, and a copy of its net that no `LanguageModel` has ever prepared."""

    def __init__(self, model: LanguageModel, plain: nn.Module):
        self.model = model
        self.plain = plain.eval().requires_grad_(False)

    def names(self, part: str = "") -> list[str]:
        """Names of the parameters; `part` is a subset, or what is in the name."""
        owner = {
            f"{path}.{name}": type(module).__name__.lower()
            for path, module in self.plain.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        }
        wanted = {
            "norm": lambda name: "norm" in owner[name],
            "embedding": lambda name: "embedding" in owner[name],
            "bias": lambda name: name.endswith("bias"),
        }.get(part, lambda name: part in name)
        return [name for name, _ in self.plain.named_parameters() if wanted(name)]

    def weights(self, names: Iterable[str], lanes: int = LANES) -> dict[str, Tensor]:
        """The shared weights, perturbed at random: a set for each lane."""
        generator = torch.Generator().manual_seed(1)
        found = {}
        for name in names:
            value = self.plain.get_parameter(name)
            noise = torch.randn(lanes, *value.shape, generator=generator, dtype=value.dtype)
            found[name] = value + noise * (0.03 if value.dim() > 1 else 0.2)
        return found

    def with_weights(self, weights: dict[str, Tensor], lane: int) -> nn.Module:
        """A plain net that holds one lane's weights."""
        return self._hold(copy.deepcopy(self.plain), weights, lane)

    @staticmethod
    def _hold(net: nn.Module, weights: dict[str, Tensor], lane: int) -> nn.Module:
        with torch.no_grad():
            for name, value in weights.items():
                net.get_parameter(name).copy_(value[lane])
        return net

    def expected(self, weights: dict[str, Tensor], window: Window) -> list[Tensor]:
        """[scored, V] of each lane, from a plain net that holds its weights alone."""
        net = copy.deepcopy(self.plain)
        return [
            scored_rows(self._hold(net, weights, lane)(window.input_ids[lane][None]).logits[0], n)
            for lane, n in enumerate(zip(LENGTHS, SCORED, strict=True))
        ]


def scored_rows(rows: Tensor, counts: tuple[int, int]) -> Tensor:
    length, scored = counts
    return rows[length - scored : length]


def make_subject(family: str) -> Subject:
    model = tiny_model(family)
    return Subject(model, copy.deepcopy(model.net))


_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
_ROUTED = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}

OTHERS = {
    "bloom": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4),
    "cohere": lambda: CohereConfig(**_GROUPED, use_qk_norm=True),
    "deepseek-v3": lambda: DeepseekV3Config(
        **_SHAPE, **_ROUTED, **_LATENT, n_routed_experts=4, n_group=1, topk_group=1
    ),
    "falcon": lambda: FalconConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    "gptj": lambda: GPTJConfig(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, rotary_dim=8, n_positions=64
    ),
    "mixtral": lambda: MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "nemotron": lambda: NemotronConfig(**_GROUPED),
    "opt": lambda: OPTConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    "phi": lambda: PhiConfig(**_SHAPE),
    "qwen2-moe": lambda: Qwen2MoeConfig(
        **_GROUPED, **_ROUTED, num_experts=4, shared_expert_intermediate_size=40
    ),
    "stablelm": lambda: StableLmConfig(**_GROUPED, qk_layernorm=True),
    "xglm": lambda: XGLMConfig(
        vocab_size=VOCAB,
        d_model=32,
        ffn_dim=48,
        num_layers=2,
        attention_heads=4,
        max_position_embeddings=64,
    ),
}
"""Architectures whose modules differ from those of `FAMILIES`."""


def make_other(kind: str) -> Subject:
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(OTHERS[kind]())
    return Subject(LanguageModel(net, None, kind), copy.deepcopy(net))


@pytest.fixture(params=FAMILIES)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A model of each family; whatever a test does, its shared weights must stay as they are."""
    found = make_subject(request.param)
    yield found
    assert_untouched(found)


@pytest.fixture
def experts() -> Iterator[Subject]:
    found = make_other("mixtral")
    yield found
    assert_untouched(found)


def assert_untouched(subject: Subject) -> None:
    own = dict(subject.model.net.named_parameters())
    assert list(own) == [name for name, _ in subject.plain.named_parameters()]
    for name, value in subject.plain.named_parameters():
        assert torch.equal(own[name], value), name
        assert not own[name].requires_grad
        assert own[name].grad is None


def make_window(
    lanes: int = LANES,
    width: int = WIDTH,
    lengths: tuple[int, ...] = LENGTHS,
    scored: tuple[int, ...] = SCORED,
    past: LaneCache | None = None,
) -> Window:
    ids = torch.randint(3, VOCAB, (lanes, width), generator=torch.Generator().manual_seed(2))
    columns = torch.arange(width)
    ids = ids.masked_fill(columns >= torch.tensor(lengths)[:, None], 0)
    return Window(ids, torch.tensor(lengths), torch.tensor(scored), CHUNK, past)


def logits_of(model: LanguageModel, window: Window, weights: dict[str, Tensor]) -> list[Tensor]:
    """[scored, V] of each lane."""
    rows = model.logits(window, weights).full()
    return [rows[lane, :n] for lane, n in enumerate(window.scored.tolist())]


def assert_close(found: list[Tensor], expected: list[Tensor], atol: float = 1e-5) -> None:
    for lane, (one, other) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(
            one, other, atol=atol, rtol=1e-5, msg=lambda m, n=lane: f"{n}: {m}"
        )


def losses_of(rows: list[Tensor]) -> list[Tensor]:
    """One loss a lane, with labels that depend on the lane."""
    return [
        nn.functional.cross_entropy(logits, (torch.arange(len(logits)) * 5 + lane) % VOCAB)
        for lane, logits in enumerate(rows)
    ]


# Every parameter a lane's own


def test_all_weights_of_all_lanes_at_once(subject):
    weights, window = subject.weights(subject.names()), make_window()
    assert subject.model.one_by_one(weights) is None
    found = logits_of(subject.model, window, weights)
    assert_close(found, subject.expected(weights, window))
    shared = subject.model.logits(window).full()
    assert all(
        (rows - shared[lane, : len(rows)]).abs().max() > 0.1 for lane, rows in enumerate(found)
    )


def test_it_equals_lanes_read_alone(subject):
    weights, window = subject.weights(subject.names()), make_window()
    alone = [
        subject.model.logits(window.row(lane), {n: v[lane : lane + 1] for n, v in weights.items()})
        for lane in range(LANES)
    ]
    found = subject.model.logits(window, weights).full()
    assert_close(list(found), [scores.full()[0] for scores in alone])


def test_gradients_reach_each_lanes_weights(subject):
    window = make_window()
    leaves = {
        name: value.requires_grad_() for name, value in subject.weights(subject.names()).items()
    }
    losses = losses_of(logits_of(subject.model, window, leaves))
    gradients = torch.autograd.grad(sum(losses), list(leaves.values()))
    for lane, counts in enumerate(zip(LENGTHS, SCORED, strict=True)):
        net = subject.with_weights(leaves, lane).requires_grad_(True)
        rows = scored_rows(net(window.input_ids[lane][None]).logits[0], counts)
        loss = losses_of([rows[:0]] * lane + [rows])[lane]
        torch.testing.assert_close(losses[lane], loss, atol=1e-5, rtol=1e-5)
        loss.backward()
        for name, gradient in zip(leaves, gradients, strict=True):
            expected = net.get_parameter(name).grad
            scale = float(expected.abs().max())
            assert scale > 0, name
            torch.testing.assert_close(
                gradient[lane], expected, atol=1e-5 * max(1.0, scale), rtol=1e-4, msg=name
            )


# Some of them


def test_some_weights_a_lanes_own(subject):
    """Only biases, only norms, only embeddings, only the second block."""
    window, tried = make_window(), []
    for part in ("bias", "norm", "embedding", ".1."):
        names = subject.names(part)
        if names:  # a Llama has no biases
            tried.append(part)
            weights = subject.weights(names)
            assert_close(
                logits_of(subject.model, window, weights), subject.expected(weights, window)
            )
    assert tried[-3:] == ["norm", "embedding", ".1."]


def test_every_parameter_alone(subject):
    """One at a time, so that no mistake hides behind another parameter."""
    window = make_window()
    for name in subject.names():
        weights = subject.weights([name])
        assert_close(logits_of(subject.model, window, weights), subject.expected(weights, window))


def test_hidden_and_unembed_apart(subject):
    weights, window = subject.weights(subject.names()), make_window()
    hidden = subject.model.hidden(window, weights)
    rows = subject.model.unembed(hidden, weights)
    torch.testing.assert_close(rows, subject.model.logits(window, weights).full())
    expected = subject.expected(weights, window)
    assert_close([rows[lane, :n] for lane, n in enumerate(SCORED)], expected)


def test_slices_of_columns(subject):
    """An unembedding of a lane's own, read a few columns at a time."""
    weights, window = subject.weights(subject.names()), make_window()
    scores = subject.model.logits(window, weights)
    pieces = [scores.rows(start, min(start + 3, CHUNK)) for start in range(0, CHUNK, 3)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), scores.full(), atol=1e-5, rtol=1e-5)


# Adapters


def adapters_of(net: nn.Module, lanes: int, rank: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for path, module in net.named_modules():
        if isinstance(module, nn.Linear):
            outputs, inputs = module.weight.shape
        elif type(module).__name__ == "Conv1D":
            inputs, outputs = module.weight.shape
        else:
            continue
        down = torch.randn(lanes, rank, inputs, generator=generator) * inputs**-0.5
        weights[f"{path}.lora_A"] = down
        weights[f"{path}.lora_B"] = torch.randn(lanes, outputs, rank, generator=generator) * 0.05
    return weights


def adapted_logits(net: nn.Module, weights: dict[str, Tensor], lane: int, ids: Tensor) -> Tensor:
    """By hooks on a plain net: y + x A^T B^T."""

    def adapter(down: Tensor, up: Tensor):
        return lambda module, args, output: output + args[0] @ down.T @ up.T

    handles = [
        net.get_submodule(path).register_forward_hook(
            adapter(weights[f"{path}.lora_A"][lane], weights[f"{path}.lora_B"][lane])
        )
        for path in {name.rpartition(".")[0] for name in weights}
    ]
    try:
        return net(ids[None]).logits[0]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("lanes", [1, LANES])
def test_adapters_add_their_product(subject, lanes):
    weights = adapters_of(subject.plain, lanes)
    assert len(weights) > 8
    window = make_window(lanes, lengths=LENGTHS[:lanes], scored=SCORED[:lanes])
    found = logits_of(subject.model, window, weights)
    for lane, counts in enumerate(zip(LENGTHS[:lanes], SCORED[:lanes], strict=True)):
        rows = adapted_logits(subject.plain, weights, lane, window.input_ids[lane])
        torch.testing.assert_close(found[lane], scored_rows(rows, counts), atol=1e-5, rtol=1e-5)
    plain = subject.model.logits(window).full()
    assert (found[0] - plain[0, : len(found[0])]).abs().max() > 0.01


def test_adapters_beside_weights_of_a_lanes_own(subject):
    adapters = adapters_of(subject.plain, LANES)
    weights = subject.weights(subject.names())
    window = make_window()
    found = logits_of(subject.model, window, weights | adapters)
    for lane, counts in enumerate(zip(LENGTHS, SCORED, strict=True)):
        net = subject.with_weights(weights, lane)
        rows = adapted_logits(net, adapters, lane, window.input_ids[lane])
        torch.testing.assert_close(found[lane], scored_rows(rows, counts), atol=1e-5, rtol=1e-5)


def test_fresh_adapters_leave_every_bit(subject):
    """B = 0, as every lane starts."""
    weights = adapters_of(subject.plain, LANES)
    weights = {n: v if n.endswith("A") else torch.zeros_like(v) for n, v in weights.items()}
    window = make_window()
    assert torch.equal(
        subject.model.logits(window, weights).full(), subject.model.logits(window).full()
    )


def test_adapters_leave_no_trace(subject):
    window = make_window()
    before = subject.model.logits(window).full()
    subject.model.logits(window, adapters_of(subject.plain, LANES)).full()
    assert torch.equal(subject.model.logits(window).full(), before)
    assert not any("lora" in name for name in subject.model.net.state_dict())


# A carried cache


def read_twice(model: LanguageModel, ids: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """[B, 16, V] of ids [B, 16], eight at a time through a carried cache."""
    lanes = len(ids)
    past = LaneCache(lanes, 64, ids.device)
    counts = torch.full((lanes,), 8)
    pieces = []
    for first in (0, 8):
        window = Window(ids[:, first : first + 8], counts, counts, 8, past)
        pieces.append(model.logits(window, weights).full())
        past.commit(counts)
    return torch.cat(pieces, dim=1)


def test_a_carried_cache_is_each_lanes_own(subject):
    ids = make_window().input_ids[:, :16].clamp_min(3)
    weights = subject.weights(subject.names())
    found = read_twice(subject.model, ids, weights)
    expected = [
        subject.with_weights(weights, lane)(ids[lane][None]).logits[0] for lane in range(LANES)
    ]
    assert_close(list(found), expected)


# Modules of other kinds


def test_experts_go_lane_by_lane(experts):
    names, window = experts.names(), make_window()
    assert "MixtralExperts has no batched form for several lanes" in experts.model.one_by_one(
        experts.names("experts")
    )
    assert experts.model.one_by_one(names) is not None
    weights = experts.weights(names)
    assert_close(logits_of(experts.model, window, weights), experts.expected(weights, window))


def test_what_is_not_of_the_experts_goes_at_once(experts):
    names = experts.names("self_attn") + experts.names("norm") + experts.names("embed_tokens")
    assert experts.model.one_by_one(names) is None
    assert experts.model.one_by_one(["lm_head.weight"]) is None
    weights, window = experts.weights(names), make_window()
    read = []
    handle = experts.model.layers[0].register_forward_hook(
        lambda module, args, output: read.append(len(args[0]))
    )
    assert_close(logits_of(experts.model, window, weights), experts.expected(weights, window))
    assert read == [LANES]
    experts.model.logits(window, experts.weights(experts.names())).full()
    handle.remove()
    assert read == [LANES, 1, 1, 1]


def test_experts_through_a_carried_cache(experts):
    ids = make_window().input_ids[:, :16].clamp_min(3)
    weights = experts.weights(experts.names())
    expected = [
        experts.with_weights(weights, lane)(ids[lane][None]).logits[0] for lane in range(LANES)
    ]
    assert_close(list(read_twice(experts.model, ids, weights)), expected)


def test_gradients_through_experts(experts):
    window = make_window()
    weights = {n: v.requires_grad_() for n, v in experts.weights(experts.names()).items()}
    losses = losses_of(logits_of(experts.model, window, weights))
    gradients = torch.autograd.grad(sum(losses), list(weights.values()))
    for lane, counts in enumerate(zip(LENGTHS, SCORED, strict=True)):
        net = experts.with_weights(weights, lane).requires_grad_(True)
        rows = scored_rows(net(window.input_ids[lane][None]).logits[0], counts)
        losses_of([rows[:0]] * lane + [rows])[lane].backward()
        for name, gradient in zip(weights, gradients, strict=True):
            expected = net.get_parameter(name).grad
            torch.testing.assert_close(gradient[lane], expected, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_need_no_loop(family):
    subject = make_subject(family)
    assert subject.model.one_by_one(subject.names()) is None
    assert subject.model.one_by_one(adapters_of(subject.plain, 1)) is None
    assert subject.model.one_by_one([]) is None


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures(kind):
    """At once where all modules are known, or else lane by lane: the numbers are the same."""
    subject, window = make_other(kind), make_window()
    for part in ("", ".1.", "norm", "bias", "embedding"):
        names = subject.names(part)
        if names:
            weights = subject.weights(names)
            assert_close(
                logits_of(subject.model, window, weights), subject.expected(weights, window)
            )
    assert_untouched(subject)


@pytest.mark.parametrize("kind", OTHERS)
def test_adapters_of_other_architectures(kind):
    subject, window = make_other(kind), make_window()
    weights = adapters_of(subject.plain, LANES)
    if kind == "falcon":  # its linear modules are a class of their own
        with pytest.raises(ModelError, match="takes no adapter"):
            logits_of(subject.model, window, weights)
        return
    found = logits_of(subject.model, window, weights)
    for lane, counts in enumerate(zip(LENGTHS, SCORED, strict=True)):
        rows = adapted_logits(subject.plain, weights, lane, window.input_ids[lane])
        torch.testing.assert_close(found[lane], scored_rows(rows, counts), atol=1e-5, rtol=1e-5)


class WideNorm(nn.Module):
    """A norm that multiplies by its gain itself, as most models' own do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.weight * nn.functional.normalize(x, dim=-1)


class Toy(nn.Module):
    """Modules whose kinds are known and unknown, and a norm that is used at two ranks."""

    def __init__(self):
        super().__init__()
        self.device = torch.device("cpu")
        self.words = nn.Embedding(9, 6)
        self.clipped = nn.Embedding(9, 6, max_norm=1.0)
        self.ranked = type("OwnEmbedding", (nn.Embedding,), {})(9, 6)
        self.plain = nn.Linear(6, 6)
        self.odd = type("OwnLinear", (nn.Linear,), {})(6, 6)
        self.norm = nn.LayerNorm(6)
        self.twice = nn.LayerNorm(6)
        self.unread = nn.LayerNorm(6)
        self.wide = WideNorm()
        self.fused = nn.RMSNorm(3)

    def forward(self, ids, use_cache=False):
        x = self.twice(self.norm(self.plain(self.words(ids))))
        return self.fused(self.wide(self.twice(x[:, :, None])[..., None, :3]))


def test_what_is_of_an_unknown_kind_is_said_by_its_class():
    net = Toy()
    ranks = ranks_of_norms(net)
    assert ranks == {"norm": 3, "wide": 5, "fused": 5}
    own = LaneWeights(net, ranks)
    classes = {
        name: own.unknown([name]) for name, _ in net.named_parameters() if own.unknown([name])
    }
    assert classes == {
        "clipped.weight": "Embedding",
        "ranked.weight": "OwnEmbedding",
        "odd.weight": "OwnLinear",
        "odd.bias": "OwnLinear",
        "twice.weight": "LayerNorm",
        "twice.bias": "LayerNorm",
        "unread.weight": "LayerNorm",
        "unread.bias": "LayerNorm",
        "fused.weight": "RMSNorm",
    }
    shaped = own.broadcast({"norm.bias": torch.ones(2, 6), "wide.weight": torch.ones(2, 3)})
    assert shaped["norm.bias"].shape == (2, 1, 6)
    assert shaped["wide.weight"].shape == (2, 1, 1, 1, 3)


def test_ranks_of_norms_of_heads():
    ranks = ranks_of_norms(tiny_model("qwen3").net)
    assert ranks["model.layers.0.self_attn.q_norm"] == 4
    assert ranks["model.layers.0.input_layernorm"] == 3
    assert ranks["model.norm"] == 3


def test_ranks_of_a_model_that_does_not_run_are_none():
    class Broken(Toy):
        def forward(self, ids, use_cache=False):
            self.norm(torch.ones(1, 6))
            raise RuntimeError("another signature")

    net = Broken()
    assert ranks_of_norms(net) == {}
    assert not any(module._forward_pre_hooks for module in net.modules())


# Weights that lanes share, and one lane


def test_weights_that_all_lanes_share(subject):
    window = make_window()
    weights = {name: value[0] for name, value in subject.weights(subject.names(), 1).items()}
    found = logits_of(subject.model, window, weights)
    alike = {name: value.expand(LANES, *value.shape) for name, value in weights.items()}
    assert_close(found, subject.expected(alike, window))
    assert_close(found, logits_of(subject.model, window, alike))


def test_experts_that_all_lanes_share(experts):
    window = make_window()
    weights = {name: value[0] for name, value in experts.weights(experts.names(), 1).items()}
    alike = {name: value.expand(LANES, *value.shape) for name, value in weights.items()}
    assert_close(logits_of(experts.model, window, weights), experts.expected(alike, window))


def test_one_lane_is_the_plain_model_bit_for_bit(subject):
    window = make_window(1, lengths=(WIDTH,), scored=(CHUNK,))
    weights = subject.weights(subject.names(), 1)
    one = {name: value[0] for name, value in weights.items()}
    with torch.no_grad():
        plain = functional_call(subject.plain, one, (window.input_ids,), {"use_cache": False})
    found = subject.model.logits(window, weights).full()
    shared = subject.model.logits(window, one).full()
    assert torch.equal(found, shared)
    assert torch.equal(found, subject.with_weights(weights, 0)(window.input_ids).logits[:, -CHUNK:])
    assert torch.equal(found, plain.logits[:, -CHUNK:])


def test_the_shared_model_is_as_before(subject):
    """Once modules are prepared, reading without weights gives every bit of what it gave."""
    window = make_window()
    before = subject.model.logits(window).full()
    subject.model.logits(window, subject.weights(subject.names())).full()
    assert torch.equal(subject.model.logits(window).full(), before)
    rows = subject.plain(window.input_ids).logits
    assert torch.equal(subject.model.net(window.input_ids).logits, rows)


def test_a_copy_of_a_prepared_model_has_modules_of_its_own(subject):
    """The prepared forward functions of a copy must read the copy's weights."""
    window = make_window(1, lengths=(WIDTH,), scored=(CHUNK,))
    weights = subject.weights(subject.names(), 1)
    subject.model.logits(window, weights).full()
    one = {name: value[0] for name, value in weights.items()}
    found = subject.model.with_weights(one).logits(window).full()
    assert torch.equal(found, subject.model.logits(window, weights).full())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fewer_bits_differ_by_their_rounding_only(dtype):
    model = tiny_model("llama", dtype)
    subject = Subject(model, copy.deepcopy(model.net))
    weights, window = subject.weights(subject.names()), make_window()
    found = logits_of(model, window, weights)
    for one, other in zip(found, subject.expected(weights, window), strict=True):
        assert one.dtype == dtype
        difference = (one - other).float().abs().max()
        assert difference < 0.05 * other.float().std()


# The order of lanes

FOUR = {
    "lengths": (24, 17, 24, 9),
    "scored": (8, 8, 3, 5),
}


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3"])
def four(request: pytest.FixtureRequest):
    """Four lanes read in order: (subject, weights and adapters, window, logits)."""
    subject = make_subject(request.param)
    weights = subject.weights(subject.names(), 4) | adapters_of(subject.plain, 4)
    window = make_window(4, **FOUR)
    return subject, weights, window, subject.model.logits(window, weights).full()


@settings(max_examples=15)
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_the_order_of_lanes_does_not_matter(four, order):
    """Nor how many there are, nor whether some are alike."""
    subject, weights, window, rows = four
    lanes = torch.tensor(order)
    chosen = Window(window.input_ids[lanes], window.lengths[lanes], window.scored[lanes], CHUNK)
    found = subject.model.logits(chosen, {n: value[lanes] for n, value in weights.items()}).full()
    torch.testing.assert_close(found, rows[lanes], atol=1e-5, rtol=1e-5)


@settings(max_examples=15)
@given(order=st.permutations(range(4)), token=st.integers(3, VOCAB - 1))
def test_lanes_never_see_each_other(four, order, token):
    """Another lane's tokens and weights may be anything."""
    subject, weights, window, rows = four
    kept, *others = order
    ids = window.input_ids.clone()
    ids[others] = token
    changed = {name: value.clone() for name, value in weights.items()}
    for value in changed.values():
        value[others] *= -2.0
    other = Window(ids, window.lengths, window.scored, CHUNK)
    found = subject.model.logits(other, changed).full()
    torch.testing.assert_close(found[kept], rows[kept], atol=1e-5, rtol=1e-5)


# Attributes of modules, and models whose modules are read in another way


def test_the_row_of_padding_never_learns_from_being_read():
    """`padding_idx` changes no value and one gradient, which several lanes must not have either."""
    config = LlamaConfig(**_GROUPED, tie_word_embeddings=False)
    net = AutoModelForCausalLM.from_config(config)
    model = LanguageModel(net, None, "padded")
    name, ids = "model.embed_tokens.weight", torch.tensor([[0, 5, 6], [7, 0, 8]])
    counts = torch.tensor([3, 3])
    leaf = torch.stack([net.get_parameter(name).detach()] * 2).requires_grad_()
    model.logits(Window(ids, counts, counts, 3), {name: leaf}).full().square().sum().backward()
    assert net.model.embed_tokens.padding_idx == 0
    assert not leaf.grad[:, 0].any()
    assert leaf.grad[0, 5].any()
    assert leaf.grad[1, 7].any()


@pytest.mark.parametrize(
    ("attribute", "value"), [("max_norm", 1.0), ("scale_grad_by_freq", True), ("unheard_of", 3)]
)
def test_a_module_with_an_attribute_of_its_own_goes_lane_by_lane(attribute, value):
    net = AutoModelForCausalLM.from_config(LlamaConfig(**_GROUPED))
    setattr(net.model.embed_tokens, attribute, value)
    model = LanguageModel(net, None, "marked")
    assert "Embedding has no batched form" in model.one_by_one(["model.embed_tokens.weight"])


class Transposing(nn.Module):
    """Layers that read positions first and lanes second, as XLNet does."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


def test_a_model_that_puts_lanes_elsewhere_goes_lane_by_lane():
    net = AutoModelForCausalLM.from_config(LlamaConfig(**_GROUPED))
    net.model.layers[0].mlp = Transposing(net.model.layers[0].mlp)
    subject = Subject(LanguageModel(net, None, "turned"), copy.deepcopy(net))
    names = subject.names("mlp.inner")
    assert "does not read several lanes as it reads one" in subject.model.one_by_one(names)
    assert subject.model.one_by_one(subject.names("self_attn")) is None
    weights, window = subject.weights(names), make_window()
    assert_close(logits_of(subject.model, window, weights), subject.expected(weights, window))
