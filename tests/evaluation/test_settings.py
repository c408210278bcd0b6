"""What a setting cannot read is told before anything runs, exactly at the limit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import VOCAB, tiny_model

from tta_bench.errors import BenchError, ModelError, UsageError
from tta_bench.evaluation.estimate import estimate
from tta_bench.evaluation.plan import plan, setting_specs
from tta_bench.evaluation.setting import open_setting
from tta_bench.evaluation.suite import Suite
from tta_bench.model.load import load_tokenizer
from tta_bench.model.prefix import prefix_id
from tta_bench.model.shape import load_shape

TEXT = "The quick brown fox jumps over the lazy dog, and the lazy dog sleeps. "
POSITIONS = 64


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_text(TEXT * 9)
    return str(tmp_path / "a.txt")


@pytest.fixture
def short(tmp_path: Path) -> str:
    """A model of few positions, by its configuration."""
    folder = Path(__file__).parents[2] / "tta_bench" / "data" / "tiny"
    config = json.loads((folder / "config.json").read_text())
    changed = config | {"max_position_embeddings": POSITIONS}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    return f"config:{tmp_path}"


def suite_of(text: str, **changes: object) -> Suite:
    return Suite(**{"datasets": [text], "device": "cpu", "audit": "off"} | changes)


@pytest.mark.parametrize("method", ["none", "window:context=1000"])
def test_a_document_may_fill_every_position(
    method: str, text: str, short: str, tmp_path: Path
) -> None:
    """However wide chunk or context are, no more is read than the document has."""
    protocol = {"chunk": 2000 if method == "none" else 8}
    suite = suite_of(text, models=[short], methods=[method], protocol=protocol)
    for tokens in (POSITIONS, POSITIONS + 1):
        suite.max_tokens = tokens
        if tokens == POSITIONS:
            assert list(estimate(plan(suite), results=tmp_path))
        else:
            with pytest.raises(UsageError, match=f"65 tokens at once, but .* {POSITIONS} posit"):
                list(estimate(plan(suite), results=tmp_path))


@pytest.mark.parametrize(
    ("protocol", "single"),
    [
        ({"chunk": 50}, True),
        ({"chunk": 49}, False),
        ({"chunk": 50, "reset": "never"}, False),
        ({"name": "krause", "window": 26}, True),
        ({"name": "krause", "window": 25}, False),
    ],
)
def test_one_chunk_for_a_whole_document_is_noticed(
    protocol: dict[str, object], single: bool, text: str
) -> None:
    model = load_shape("builtin:tiny", device="cpu")
    (spec,) = setting_specs(suite_of(text, max_tokens=50, protocol=protocol))
    assert open_setting(spec, model).single_step == single


def test_tokens_of_another_model_are_refused(text: str) -> None:
    model = tiny_model()
    model.tokenizer = load_tokenizer("builtin:tiny")
    (spec,) = setting_specs(suite_of(text))
    with pytest.raises(ModelError, match=rf"has the token id \d+, and .* those below {VOCAB}"):
        open_setting(spec, model)


@pytest.mark.parametrize("kind", ["auto", "bos", "eos"])
def test_a_prefix_that_the_model_does_not_know_is_refused(kind: str) -> None:
    tokenizer = SimpleNamespace(bos_token_id=300, eos_token_id=260)
    with pytest.raises(UsageError, match=r"has the id (300|260), .* those below 260: use --prefix"):
        prefix_id(kind, tokenizer, 260)
    assert prefix_id("none", tokenizer, 260) is None
    assert prefix_id("auto", SimpleNamespace(bos_token_id=None, eos_token_id=4), 260) == 4


def test_a_model_that_does_not_read_without_weights_is_not_refused_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import LlamaModel

    def silent(*given: object, **named: object) -> None:
        raise NotImplementedError("no values")

    monkeypatch.setattr(LlamaModel, "forward", silent)
    assert load_shape("builtin:tiny", device="cpu").split_error is None


def test_a_plan_refuses_what_eval_would(text: str, tmp_path: Path) -> None:
    suite = suite_of(text, methods=["none", "window"], max_tokens=2000, protocol={"chunk": 1024})
    (Path(text)).write_text(TEXT * 90)
    with pytest.raises(BenchError, match="window reads 1536 tokens at once"):
        list(estimate(plan(suite), results=tmp_path))
