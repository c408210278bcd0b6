"""Formulas against the counter, and the counter against what it is known to miss."""

import pytest
import torch
from tiny import FAMILIES, VOCAB, make_method, tiny_model
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import register_flop_formula
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from tta_bench import Method, StepShape
from tta_bench.cost.counter import _FORMULAS, count_flops
from tta_bench.cost.flop_report import FlopReport
from tta_bench.cost.model_flops import ModelCost
from tta_bench.engine.flop_check import check_flops, measure_step
from tta_bench.errors import ModelError
from tta_bench.model import language_model
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.scores import token_nll
from tta_bench.model.synthetic import SyntheticStream

PLAIN = StepShape(inputs=20, scored=20, past=0)
CONTEXT = StepShape(inputs=20, scored=8, past=0)
CACHE = StepShape(inputs=12, scored=12, past=17)

ROTARY = 5e-4
"""transformers 5.17 makes rotary tables by matmul (2e-4 of these tiny models); 5.23 does not."""

# Gemma 2's soft-capped attention exists in eager form only.
KERNELS = [(family, "eager") for family in FAMILIES]
KERNELS += [(family, "sdpa") for family in FAMILIES if family != "gemma2"]


def model_of(family, attention="eager"):
    model = tiny_model(family)
    model.net.set_attn_implementation(attention)
    return model


def subsets(model):
    """Parameter sets of dynamic evaluation, and those that stop the gradient early or late."""
    names = [name for name, _ in model.net.named_parameters()]

    def layer(name):
        return next((int(part) for part in name.split(".") if part.isdigit()), -1)

    def is_embedding(name):
        return any(part in name for part in ("embed_tokens", "embed_in", "wte", "wpe"))

    def is_norm(name):
        return any(part in name for part in ("norm", "ln_"))

    mlp = [name for name in names if ".mlp." in name]
    return {
        "all": names,
        "mlp": mlp,
        "last mlp": [name for name in mlp if layer(name) == 2],
        "last two layers": [name for name in names if layer(name) >= 1],
        "first layer": [name for name in names if layer(name) == 0],
        "norms": [name for name in names if is_norm(name)],
        "final norm": [name for name in names if is_norm(name) and layer(name) < 0],
        "biases": [name for name in names if name.endswith("bias")],
        "embedding": [name for name in names if is_embedding(name)],
        "body without embedding": [
            n for n in names if not is_embedding(n) and not n.startswith(("lm_head", "embed_out"))
        ],
        "head": [
            next(n for n, p in model.net.named_parameters()
                 if p is model.net.get_output_embeddings().weight)
        ],
    }  # fmt: skip


def counted(model, shape, names=()):
    """Counted FLOPs of a forward pass, and of the backward pass for some parameters."""
    window, targets = SyntheticStream(model, shape).window()
    weights = {n: model.parameter(n).detach().clone().requires_grad_() for n in names}

    def read():
        scores = model.logits(window, weights)
        return token_nll(scores, lambda: targets, window.mask, bool(names))

    def differentiate():
        torch.autograd.grad(read().sum(), list(weights.values()), allow_unused=True)

    with torch.no_grad():
        forward = count_flops(read).flops
    backward = count_flops(differentiate).flops - forward if names else 0.0
    return forward, backward


@pytest.mark.parametrize(("family", "attention"), KERNELS)
def test_forward_formula_equals_the_counter(family, attention):
    model = model_of(family, attention)
    assert ModelCost(model).by_formula
    for shape in (PLAIN, CONTEXT, CACHE):
        assert ModelCost(model).forward(shape) == pytest.approx(
            counted(model, shape)[0], rel=ROTARY
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_backward_formula_equals_the_counter_for_every_subset(family):
    model = model_of(family)
    for name, trainable in subsets(model).items():
        shape = CACHE if name in ("mlp", "norms", "last two layers") else CONTEXT
        formula = ModelCost(model).backward(shape, trainable)
        assert formula == pytest.approx(counted(model, shape, trainable)[1], rel=ROTARY), name


def test_fused_attention_costs_the_same_backward(llama):
    model = model_of("llama", "sdpa")
    for name in ("all", "last mlp", "norms"):
        trainable = subsets(model)[name]
        assert ModelCost(model).backward(CACHE, trainable) == counted(model, CACHE, trainable)[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_everything_costs_three_forward_passes(family):
    cost = ModelCost(model_of(family))
    names = subsets(cost.model)["all"]
    for shape in (PLAIN, CACHE):
        assert cost.forward(shape) + cost.backward(shape, names) == 3 * cost.forward(shape)


def test_nothing_trainable_costs_nothing(llama):
    assert ModelCost(llama).backward(PLAIN, []) == 0


def test_published_ratios_of_a_135m_llama():
    """total / forward at 256 tokens, as measured with the counter under eager attention."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config)
    net.to_empty(device="cpu")  # untouched memory: drawing 135M numbers takes longer than the test
    net.tie_weights()
    for values in (*net.parameters(), *net.buffers()):
        values.data.zero_()
    cost = ModelCost(LanguageModel(net, None, "135M"))
    names = [name for name, _ in net.named_parameters()]

    def of_layers(first, last, part=""):
        return [n for n in names if part in n and any(f".{i}." in n for i in range(first, last))]

    assert cost.forward(StepShape(512, 512, 0)) == 155_826_782_208
    shape = StepShape(256, 256, 0)
    for trainable, ratio in [
        (names, 3.00),
        (of_layers(0, 30, ".mlp."), 2.60),
        (of_layers(12, 18, ".mlp."), 1.81),
        (of_layers(26, 30), 1.41),
        (of_layers(26, 30, ".mlp."), 1.36),
        (of_layers(29, 30, ".mlp."), 1.22),
        ([n for n in names if "norm" in n], 2.06),
        (["model.norm.weight"], 1.20),
        (of_layers(0, 1), 2.09),
        ([n for n in names if "embed" not in n], 2.80),
    ]:
        total = cost.forward(shape) + cost.backward(shape, trainable)
        assert total / cost.forward(shape) == pytest.approx(ratio, abs=0.0065)


def test_unknown_parameters_and_modules_are_named(llama):
    with pytest.raises(ModelError, match="no such parameter"):
        ModelCost(llama).backward(PLAIN, ["model.nothing.weight"])
    with pytest.raises(ModelError, match="nothing"):
        ModelCost(llama).lora(PLAIN, 2, ["model.nothing"])


def test_experts_are_counted_where_no_formula_holds():
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    model = LanguageModel(AutoModelForCausalLM.from_config(config), None, "experts")
    attention = 32 * (32 + 16 + 16 + 32)
    experts = 2 * 3 * 32 * 48
    matrices = 2 * (attention + experts + 32 * 4) + 32 * VOCAB  # the router is 32 x 4
    expected = 2 * matrices * PLAIN.inputs + 2 * 4 * 32 * PLAIN.inputs**2
    assert not ModelCost(model).by_formula
    assert ModelCost(model).forward(PLAIN) == pytest.approx(expected, rel=ROTARY)
    names = [name for name, _ in model.net.named_parameters()]
    assert ModelCost(model).backward(PLAIN, names) == pytest.approx(2 * expected, rel=ROTARY)


def test_a_model_that_cannot_be_split_unembeds_all_it_reads(monkeypatch):
    monkeypatch.setattr(language_model, "check_split", lambda *given: "for the test")
    model = LanguageModel(tiny_model("llama-untied").net, None, "whole")
    names = subsets(model)["all"]
    forward, backward = counted(model, CONTEXT, names)
    assert ModelCost(model).forward(CONTEXT) == pytest.approx(forward, rel=ROTARY)
    assert ModelCost(model).backward(CONTEXT, names) == pytest.approx(backward, rel=ROTARY)


def test_tracing_leaves_the_shared_weights_alone(llama):
    before = {name: value.clone() for name, value in llama.net.named_parameters()}
    ModelCost(llama).backward(PLAIN, list(before))
    with torch.inference_mode():
        ModelCost(llama).backward(CONTEXT, ["model.norm.weight"])
    for name, value in llama.net.named_parameters():
        assert torch.equal(value, before[name])
        assert not value.requires_grad
        assert value.grad is None
    assert not any(module._forward_hooks for module in llama.net.modules())


METHODS = [
    ("none", {}),
    ("neural-cache", {"window": 64}),
    ("dynamic-eval", {"optimizer": "sgd"}),
    ("dynamic-eval", {"optimizer": "adam", "subset": "mlp"}),
    ("dynamic-eval", {"subset": "lora", "rank": 2}),
]


@pytest.mark.parametrize(("name", "params"), METHODS)
@pytest.mark.parametrize("lanes", [1, 2])
def test_methods_formulas_agree_with_the_counter(llama, name, params, lanes):
    for shape in (CONTEXT, CACHE):
        report = check_flops(make_method(llama, name, lanes, **params), shape, name, steps=2)
        assert report.ratio == pytest.approx(1, rel=ROTARY)
        assert report.warnings == ()


# --- the counter ----------------------------------------------------------------------------


@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_cpu_attention_is_counted_with_fewer_key_heads_too(key_heads):
    query = torch.randn(2, 6, 5, 8, requires_grad=True)
    key, value = (torch.randn(2, key_heads, 9, 8, requires_grad=True) for _ in range(2))
    forward = 4 * 2 * 6 * 5 * 9 * 8

    def attend():
        return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    assert count_flops(attend).flops == forward
    assert count_flops(lambda: attend().sum().backward()).flops == 3 * forward


BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", BACKENDS)
def test_gpu_attention_is_counted_whatever_the_kernel(backend):
    def random(heads, length):
        shape = (2, heads, length, 64)
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    grouped = backend != SDPBackend.EFFICIENT_ATTENTION  # which has no grouped form
    query, key, value = random(4, 128), *(random(2 if grouped else 4, 128) for _ in range(2))
    forward = 4 * 2 * 4 * 128 * 128 * 64

    def attend():
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)

    with sdpa_kernel(backend):
        assert count_flops(attend).flops == forward
        assert count_flops(lambda: attend().sum().backward()).flops == 3 * forward


def test_every_fused_attention_of_this_torch_has_a_formula():
    """A new kernel in a new PyTorch must not be free."""
    named = {name for name in dir(torch.ops.aten) if name.startswith("_scaled_dot_product")}
    assert named - {"_scaled_dot_product_attention_math"} <= set(_FORMULAS)


@torch.library.custom_op("tta_bench_test::opaque", mutates_args=())
def opaque(matrix: torch.Tensor) -> torch.Tensor:
    return matrix @ matrix


@torch.library.custom_op("tta_bench_test::declared", mutates_args=())
def declared(matrix: torch.Tensor) -> torch.Tensor:
    return matrix @ matrix


register_flop_formula(torch.ops.tta_bench_test.declared)(
    lambda shape, *args, out_shape=None, **kwargs: 2 * shape[0] ** 3
)

MATRIX = torch.eye(40) + 0.01 * torch.arange(1600.0).reshape(40, 40) / 1600
VECTOR = torch.arange(40.0)

BLIND = {
    "mv": lambda: torch.mv(MATRIX, VECTOR),
    "matmul": lambda: MATRIX @ VECTOR,
    "dot": lambda: torch.dot(VECTOR, VECTOR),
    "inner": lambda: torch.inner(VECTOR, VECTOR),
    "addmv": lambda: torch.addmv(VECTOR, MATRIX, VECTOR),
    "addr": lambda: torch.addr(MATRIX, VECTOR, VECTOR),
    "outer": lambda: torch.outer(VECTOR, VECTOR),
    "einsum": lambda: torch.einsum("i,j->ij", VECTOR, VECTOR),
    "broadcast": lambda: VECTOR[:, None] * VECTOR,
    "kron": lambda: torch.kron(MATRIX, MATRIX),
    "solve": lambda: torch.linalg.solve(MATRIX, MATRIX),
    "inv": lambda: torch.inverse(MATRIX),
    "cholesky": lambda: torch.linalg.cholesky(torch.eye(8)),
    "cholesky_solve": lambda: torch.cholesky_solve(MATRIX, torch.eye(40)),
    "lstsq": lambda: torch.linalg.lstsq(MATRIX, MATRIX),
    "svd": lambda: torch.linalg.svd(MATRIX),
    "cdist": lambda: torch.cdist(MATRIX, MATRIX),
    "cdist of few": lambda: torch.cdist(MATRIX[:3], MATRIX[:3]),
    "bilinear": lambda: F.bilinear(MATRIX, MATRIX, torch.ones(2, 40, 40)),
    "lstm": lambda: torch.nn.LSTM(40, 40)(MATRIX),
    "sparse": lambda: torch.sparse.mm(MATRIX.to_sparse(), MATRIX),
    "fft": lambda: torch.fft.rfft(VECTOR),
    "custom op": lambda: opaque(MATRIX),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", BLIND)
def test_operations_the_counter_cannot_see_are_named(name, mode):
    with mode():
        assert count_flops(BLIND[name]).blind_ops


def test_ordinary_work_raises_no_alarm(llama):
    def train():
        weight = MATRIX.clone().requires_grad_()
        normal = F.layer_norm(torch.einsum("ij,kj->ik", MATRIX, weight), (40,))
        F.cross_entropy(normal, torch.arange(40)).backward()
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        torch.optim.AdamW([weight]).step()

    assert count_flops(train) == (2 * 2 * 40**3, ())


def test_a_registered_custom_op_is_counted():
    assert count_flops(lambda: declared(MATRIX)) == (2 * 40**3, ())


def test_counting_does_not_keep_a_function_from_being_compiled_later():
    """A function first called inside the stock counter runs eagerly ever after."""
    runs = []

    def backend(graph, inputs):
        def run(*args):
            runs.append(1)
            return graph(*args)

        return run

    compiled = torch.compile(lambda x: x @ x + 1, backend=backend)
    assert count_flops(lambda: compiled(MATRIX)).flops == 2 * 40**3
    assert not runs
    compiled(MATRIX)
    assert runs


# --- reports --------------------------------------------------------------------------------


class MatrixVector(Method):
    """Hides a matrix-vector product in `adapt`, as plugins do."""

    def score(self, window):
        return self.model.logits(window)

    def adapt(self, window, targets, nll):
        torch.mv(MATRIX, VECTOR)

    def flops(self, shape):
        return self.cost.forward(shape)


class Declared(MatrixVector):
    def flops(self, shape):
        return self.cost.forward(shape) + self.invisible_flops(shape)

    def invisible_flops(self, shape):
        return 2 * 40 * 40


class Wrong(Method):
    def score(self, window):
        return self.model.logits(window)

    def flops(self, shape):
        return 1.5 * self.cost.forward(shape)


class Plain(Method):
    def score(self, window):
        return self.model.logits(window)


class Broken(Method):
    def score(self, window):
        return self.model.logits(window)

    def adapt(self, window, targets, nll):
        raise RuntimeError("out of luck\nand lines")


def report_of(cls, model) -> FlopReport:
    return check_flops(cls(model, cls.Params(), 1), CONTEXT, "mine")


def test_undeclared_invisible_work_is_told(llama):
    (warning,) = report_of(MatrixVector, llama).warnings
    assert "mine uses mv" in warning
    assert "invisible_flops()" in warning


def test_declared_invisible_work_is_accepted(llama):
    report = report_of(Declared, llama)
    assert report.blind_ops == ("mv",)
    assert report.ratio == pytest.approx(1, rel=ROTARY)
    assert report.warnings == ()


def test_a_wrong_formula_is_told(llama):
    report = report_of(Wrong, llama)
    assert report.agrees is False
    assert report.flops == report.analytic
    assert "correct the formula" in report.warnings[0]


def test_without_a_formula_the_count_stands_in(llama):
    report = report_of(Plain, llama)
    assert (report.analytic, report.ratio, report.agrees) == (None, None, None)
    assert report.flops == pytest.approx(ModelCost(llama).forward(CONTEXT), rel=ROTARY)


def test_what_cannot_be_counted_is_unknown(llama):
    report = report_of(Broken, llama)
    assert report.counted is None
    assert report.flops is None
    assert report.warnings == (
        "the FLOPs of mine could not be counted (RuntimeError: out of luck).",
    )


def test_measuring_leaves_the_method_fresh(llama):
    method = make_method(llama, "neural-cache", window=32)
    before = {name: value.clone() for name, value in method.state.items()}
    measure_step(method, PLAIN)
    assert all(torch.equal(value, before[name]) for name, value in method.state.items())
