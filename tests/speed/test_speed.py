"""`tta-bench speed`: real runs of small models; no test looks at how long anything took."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import Result
from slow import slow
from tiny import PREFIX, tiny_model
from torch.autograd import DeviceType
from typer.testing import CliRunner

from tta_bench.cli.main import app
from tta_bench.errors import BenchError
from tta_bench.model.load import load_model
from tta_bench.speed.documents import synthetic_documents, synthetic_tokens
from tta_bench.speed.figures import goals, with_ratios
from tta_bench.speed.matrix_rate import matrix_rate
from tta_bench.speed.methods import chosen_methods, default_methods
from tta_bench.speed.plan import SpeedPlan
from tta_bench.speed.profile import category, gpu_spans, idle_share, times_of
from tta_bench.speed.reference import eager_loop
from tta_bench.speed.store import FILE, read_speed, write_speed

ROOT = Path(__file__).parents[2]
SMALL = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
REFERENCES = [
    "transformers forward, eager",
    "eager loop, one document, adam",
    "eager loop, one document, sgd",
]
PLUGIN = '''
import torch
from tta_bench import Method, register


class Frozen(Method):
    def score(self, window):
        self.judge(window)
        return self.model.logits(window).full()


@register("greedy")
class Greedy(Frozen):
    """Wants more memory than there is on three lanes."""
    def judge(self, window):
        if self.lanes > 2:
            raise torch.OutOfMemoryError("out of memory on many lanes")


@register("vast")
class Vast(Frozen):
    """Never fits."""
    def judge(self, window):
        raise torch.OutOfMemoryError("out of memory")


@register("broken")
class Broken(Frozen):
    """Fails."""
    def judge(self, window):
        raise ValueError("this is no method")


@register("blind")
class Blind(Method):
    """Its losses are not numbers."""
    def score(self, window):
        return self.model.logits(window).full() * float("nan")


@register("stopped")
class Stopped(Frozen):
    """As if someone pressed a key."""
    def judge(self, window):
        raise KeyboardInterrupt
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("speed")
    (home / "small.json").write_text(json.dumps(SMALL))
    (home / "plugin.py").write_text(PLUGIN)
    return home


def speed(home: Path, *words: str, lanes: int = 2) -> Result:
    shape = ["--model", f"config:{home / 'small.json'}", "--lanes", str(lanes), "--chunk", "16"]
    options = ["--steps", "2", "--device", "cpu", "--results", str(home / "results")]
    return CliRunner().invoke(app, ["speed", *shape, *options, *words])


def rows_of(result: Result) -> list[dict[str, Any]]:
    return json.loads(result.stdout.splitlines()[-1])["rows"]


@pytest.fixture(scope="module")
def stored(home: Path) -> Result:
    """Everything that is measured by default, stored and profiled."""
    profile = ["--profile", str(home / "profile.txt")]
    done = speed(home, "--name", "mine", "--json", *profile)
    assert done.exit_code == 0, done.output
    return done


# What is measured


def test_there_is_a_row_for_each_reference_and_method(stored: Result) -> None:
    rows = rows_of(stored)
    assert [row["label"] for row in rows] == [
        *REFERENCES,
        "none",
        "fwl-untrained",
        "neural-cache",
        "dynamic-eval:optimizer=sgd",
        "dynamic-eval",
        "dynamic-eval:subset=mlp",
        "dynamic-eval:subset=last-2",
        "dynamic-eval:subset=lora",
    ]
    assert {row["status"] for row in rows} == {"complete"}
    for row in rows:
        assert len(row["step_seconds"]) == 2, row["label"]
        assert row["lanes"] == (1 if "loop" in row["label"] else 2)
        assert row["warm_up_seconds"] > 0
        assert row["kind"] == "reference" or 0 <= row["harness_share"] < 1
    flops = {row["label"]: row["flops_x_none"] for row in rows}
    assert [flops[label] for label in (*REFERENCES, "none", "dynamic-eval")] == pytest.approx(
        [1, 3, 3, 1, 3], rel=0.02
    )


def test_ratios_are_computed_from_the_rows(stored: Result) -> None:
    whole = json.loads(stored.stdout.splitlines()[-1])
    rows = {row["label"]: row for row in whole["rows"]}
    rate = {label: 16 * row["lanes"] / row["step_seconds_median"] for label, row in rows.items()}
    none, method = rows["none"], rows["neural-cache"]
    assert method["tokens_per_second"] == pytest.approx(rate["neural-cache"])
    assert method["time_x_none"] == pytest.approx(
        method["step_seconds_median"] / none["step_seconds_median"]
    )
    assert method["flops_x_none"] == method["flops_per_token"] / none["flops_per_token"]
    assert method["matrix_share"] == pytest.approx(
        method["flops_per_token"] * rate["neural-cache"] / whole["matrix_rate"]["flops_per_second"]
    )
    assert rows[REFERENCES[1]]["time_x_none"] is None  # on one lane, and none was on two
    ratios = whole["ratios"]
    assert ratios["none_over_forward_eager"] == pytest.approx(rate["none"] / rate[REFERENCES[0]])
    assert ratios["none_over_forward_compiled"] is None
    for optimizer, spec in (("adam", "dynamic-eval"), ("sgd", "dynamic-eval:optimizer=sgd")):
        loop = rate[f"eager loop, one document, {optimizer}"]
        found = ratios[f"dynamic_eval_{optimizer}_over_eager_loop"]
        assert found == pytest.approx(rate[spec] / loop)
    assert ratios["time_minus_flops"]["neural-cache"] == pytest.approx(
        method["time_x_none"] - method["flops_x_none"]
    )


def test_ratios_are_of_the_same_lanes() -> None:
    def row(lanes: int, rate: float, **about: Any) -> dict[str, Any]:
        return {"lanes": lanes, "tokens_per_second": rate, "status": "complete", **about}

    rows = with_ratios(
        [
            row(4, 50.0, kind="reference", reference="forward", compiled=True),
            row(8, 160.0, kind="method", method="none"),
            row(4, 40.0, kind="method", method="x", flops_per_token=6.0),
            row(4, 80.0, kind="method", method="none", flops_per_token=3.0),
        ],
        matrix_flops=None,
    )
    assert rows[2]["time_x_none"] == 2.0
    assert rows[2]["matrix_share"] is None
    assert rows[2]["flops_per_second"] == 240.0
    assert goals(rows)["none_over_forward_compiled"] == 80 / 50


def test_every_lane_is_full_in_every_step() -> None:
    for prefix in (None, PREFIX):
        plan = SpeedPlan(lanes=3, chunk=16, steps=2, prefix_id=prefix, compile=False)
        documents = synthetic_documents(plan, 3, 3, 97)
        tokens = synthetic_tokens(plan, 3, 3, 97)
        assert tokens.shape == (3, 3 * 16 + 1)
        for document, read in zip(documents, tokens, strict=True):
            assert document.token_ids.tolist() == read.tolist()[prefix is not None :]
        alone = synthetic_documents(plan, 1, 3, 97)[0]
        assert (alone.token_ids == documents[0].token_ids).all()
        assert (documents[1].token_ids != documents[0].token_ids).any()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_usual_loop_leaves_the_weights_as_they_were(optimizer: str) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.net.named_parameters()}
    plan = SpeedPlan(lanes=1, chunk=16, steps=2, prefix_id=PREFIX, compile=False)
    assert len(eager_loop(model, plan, optimizer).step_seconds) == 2
    for name, value in model.net.named_parameters():
        assert torch.equal(value, before[name]), name
        assert (value.requires_grad, value.grad) == (False, None)


def test_the_default_methods_fit_the_model() -> None:
    assert "fwl" in default_methods(load_model("builtin:tiny", device="cpu"))
    assert "fwl-untrained" in default_methods(tiny_model())  # three layers
    assert "dynamic-eval:subset=last-3" in default_methods(tiny_model())


def test_what_a_model_lacks_is_left_out_of_the_defaults_and_refused_by_name() -> None:
    model = tiny_model()
    model.split_error = "it has no output embedding"
    plan = SpeedPlan(lanes=1, chunk=16, steps=2, prefix_id=PREFIX, compile=False)
    names = {choice.name for choice in chosen_methods(None, model, plan)}
    assert names == {"none", "dynamic-eval"}
    with pytest.raises(BenchError, match=r"neural-cache: .* cannot be split"):
        chosen_methods(["none", "neural-cache"], model, plan)
    model.config.max_position_embeddings = 512
    with pytest.raises(BenchError, match="window reads 812 tokens at once"):
        chosen_methods(["window"], model, replace(plan, chunk=300, steps=9))
    with pytest.raises(BenchError, match="a chunk holds 513 tokens at once"):
        chosen_methods(["none"], model, replace(plan, chunk=513))


def test_the_matrix_rate_is_of_the_models_dtype() -> None:
    rate = matrix_rate(torch.device("cpu"), torch.float32)
    assert rate.flops_per_second > 0
    assert rate.dtype == "float32"


@pytest.mark.parametrize(
    ("name", "parameters"), [("llama-1b", 1_235_814_400), ("llama-8b", 8_030_261_248)]
)
def test_shapes_of_large_models(name: str, parameters: int) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**json.loads((ROOT / f"suites/shapes/{name}.json").read_text()))
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config)
    assert sum(value.numel() for value in net.parameters()) == parameters
    assert config.rope_parameters["rope_theta"] == 500_000


# What goes wrong


@slow
def test_a_method_that_needs_too_much_memory_gets_fewer_lanes(home: Path) -> None:
    named = [word for name in ("none", "greedy", "vast") for word in ("--method", name)]
    words = ["--plugin", str(home / "plugin.py"), *named]
    done = speed(home, *words, "--json", "--name", "fewer", lanes=5)
    assert done.exit_code == 0, done.output
    none, greedy, vast, peer = rows_of(done)[3:]
    assert (none["lanes"], peer["label"], peer["lanes"]) == (5, "none", 2)
    assert (greedy["status"], greedy["lanes"], greedy["lanes_asked"]) == ("complete", 2, 5)
    assert greedy["time_x_none"] == pytest.approx(
        peer["tokens_per_second"] / greedy["tokens_per_second"]
    )
    assert (vast["status"], vast["lanes"]) == ("oom", 1)
    folder = str(home / "results" / "fewer")
    text = CliRunner().invoke(app, ["show", folder, "--format", "markdown"]).stdout
    assert "| greedy | 2 of 5 |" in text
    assert "| vast | does not fit | — |" in text
    assert "OutOfMemoryError" not in text  # the row itself says it


@slow
def test_a_method_that_fails_is_a_row_with_the_reason(home: Path) -> None:
    named = ["broken", "blind", "none"]
    words = [word for spec in named for word in ("--method", spec)]
    done = speed(home, "--plugin", str(home / "plugin.py"), *words, "--json")
    assert done.exit_code == 1
    rows = rows_of(done)[3:]
    assert [row["status"] for row in rows] == ["error", "error", "complete"]
    assert rows[0]["reason"] == "ValueError: this is no method"
    assert "the loss of token 0 is nan" in rows[1]["reason"]


@slow
def test_what_was_measured_before_an_interrupt_is_kept(home: Path) -> None:
    words = ["--method", "none", "--method", "stopped", "--name", "cut"]
    done = speed(home, "--plugin", str(home / "plugin.py"), *words)
    assert done.exit_code != 0
    assert "PARTIAL: interrupted" in done.stdout
    kept = read_speed(home / "results" / "cut")
    assert kept is not None
    assert [row["label"] for row in kept["rows"]] == [*REFERENCES, "none"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "nonee"], "did you mean 'none'"),
        (["--method", "none", "--method", "none"], "once is enough"),
        (["--chunk", "65"], "64 positions"),
        (["--method", "dynamic-eval:subset=last-9"], "has 2 layers"),
        (["--dtype", "int3"], "is not a dtype"),
        (["--name", "../x"], "must be a plain name"),
        (["--name", "taken"], "holds runs of tta-bench eval"),
        (["--profile", "no/such/folder.txt"], "there is no folder"),
        (["--plugin", "none.py"], "no plugin file"),
        (["--model", "config:none.json"], "no configuration file"),
    ],
)
def test_mistakes_are_one_sentence(home: Path, words: list[str], sentence: str) -> None:
    run = home / "results" / "taken" / "none-1"
    run.mkdir(parents=True, exist_ok=True)
    (run / "manifest.json").touch()
    error = speed(home, *words).exception
    assert isinstance(error, BenchError), error
    assert sentence in str(error)
    assert "\n" not in str(error)


# What is kept and shown


def test_a_stored_table_is_shown_again(home: Path, stored: Result) -> None:
    results = ["--results", str(home / "results")]
    kept = read_speed(home / "results" / "mine")
    assert kept == json.loads(stored.stdout.splitlines()[-1])
    assert str(home) not in json.dumps(kept["manifest"]["software"])
    shown = CliRunner().invoke(app, ["show", "mine", "--json", *results])
    assert json.loads(shown.stdout) == kept
    markdown = CliRunner().invoke(app, ["show", "mine", "--format", "markdown", *results]).stdout
    lines = markdown.splitlines()
    assert lines[0].startswith("**Speed of config:")
    assert len([line for line in lines if line.startswith("| ")]) == 2 + len(kept["rows"])
    assert "- random tokens, chunk 16, 2 lanes of a document each" in markdown
    csv = CliRunner().invoke(app, ["show", "mine", "--format", "csv", *results]).stdout
    assert len(csv.splitlines()) == 1 + len(kept["rows"])
    listed = CliRunner().invoke(app, ["runs", "mine", *results])
    assert listed.exit_code == 0
    assert "holds no run yet" in listed.stdout


def test_showing_loads_no_pytorch(home: Path, stored: Result) -> None:
    code = (
        "import sys; from tta_bench.cli.main import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    words = ["show", str(home / "results" / "mine")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Speed of" in done.stdout


def test_a_damaged_or_newer_file_is_a_sentence(tmp_path: Path, home: Path, stored: Result) -> None:
    whole = read_speed(home / "results" / "mine")
    assert whole is not None
    write_speed(tmp_path, whole | {"schema_version": 99})
    with pytest.raises(BenchError, match="version 99"):
        read_speed(tmp_path)
    text = (home / "results" / "mine" / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"chunk": 16', '"chunk": 17', 1))
    with pytest.raises(BenchError, match="damaged"):
        read_speed(tmp_path)


# The profile


def test_every_method_has_a_profile(home: Path, stored: Result) -> None:
    text = (home / "profile.txt").read_text()
    assert (home / "results" / "mine" / "profile.txt").read_text() == text
    for row in rows_of(stored)[3:]:
        assert f"== {row['label']} ==" in text
    assert "matmul" in text
    assert "GPU idle" not in text  # nothing ran on one


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "matmul"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matmul"),
        ("aten::addmm", "matmul"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("triton_poi_fused_add_mul_silu_0", "elementwise/triton"),
        ("void at::native::vectorized_elementwise_kernel<4, ...>", "elementwise/triton"),
        ("Memcpy DtoD (Device -> Device)", "memory copy"),
        ("aten::copy_", "memory copy"),
        ("void something_else()", "other"),
    ],
)
def test_kernels_fall_into_categories(name: str, kind: str) -> None:
    assert category(name) == kind


def test_a_profile_of_a_gpu_is_of_its_kernels_alone() -> None:
    def event(name: str, kind: str, start: float, end: float) -> SimpleNamespace:
        return SimpleNamespace(
            name=name,
            device_type=DeviceType.CPU if kind == "call" else DeviceType.CUDA,
            is_user_annotation=kind == "annotation",
            time_range=SimpleNamespace(start=start, end=end),
        )

    events = [
        event("aten::mm", "call", 0, 9),
        event("nvjet_x", "kernel", 0, 10),
        event("Optimizer.step", "annotation", 0, 50),
        event("triton_poi", "kernel", 20, 30),
        event("triton_poi", "kernel", 30, 35),
    ]
    spans = gpu_spans(SimpleNamespace(events=lambda: events))
    assert [name for name, _, _ in spans] == ["nvjet_x", "triton_poi", "triton_poi"]
    assert times_of(spans) == {"nvjet_x": (10.0, 1), "triton_poi": (15.0, 2)}


def test_the_gpu_is_idle_where_no_kernel_runs() -> None:
    spans = [("a", 0.0, 2.0), ("b", 1.0, 3.0), ("c", 6.0, 10.0), ("d", 7.0, 8.0)]
    assert idle_share(spans) == pytest.approx(0.3)
    assert idle_share([]) is None
