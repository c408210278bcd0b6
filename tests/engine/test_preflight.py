"""What a method needs is held against the model before it runs, by one rule for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny import tiny_model

from tta_bench import Method, Needs
from tta_bench.contract.choice import MethodChoice
from tta_bench.engine.preflight import check_needs
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.streams import full_step
from tta_bench.errors import MethodError, ModelError, UsageError
from tta_bench.evaluation.plan import choose_methods
from tta_bench.heads import TrainedBody, TrainedHead
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.shape import load_shape
from tta_bench.model.step_shape import StepShape
from tta_bench.model.window import Window

STEP, POSITIONS = StepShape(64, 64, 0), 512
BUILT_IN = ["none", "window", "neural-cache", "dynamic-eval", "fwl", "fwl-untrained"]


def check(spec: str, model: LanguageModel, longest: int = 10_000) -> None:
    (choice,) = choose_methods([spec])
    check_needs(choice, model, STEP, longest)


@pytest.fixture
def rotary() -> LanguageModel:
    """A model that would read on beyond its positions, badly."""
    model = tiny_model("llama")
    model.config.max_position_embeddings = POSITIONS
    assert model.rotary
    return model


@pytest.fixture
def whole() -> LanguageModel:
    """A model whose body and unembedding could not be told apart."""
    model = tiny_model("gpt2")
    model.split_error = "its logits are not a function of the body's output alone"
    return model


def test_a_window_has_the_positions_of_the_model_and_no_more(rotary: LanguageModel) -> None:
    check("window:context=448", rotary)
    with pytest.raises(UsageError, match=r"window:context=449 reads 513 tokens .* 512 positions"):
        check("window:context=449", rotary)
    check("window:context=1000000000000", rotary, longest=POSITIONS)  # no document has more


@pytest.mark.parametrize("spec", ["neural-cache", "fwl-untrained"])
def test_hidden_states_want_a_model_that_splits(spec: str, whole: LanguageModel) -> None:
    with pytest.raises(ModelError, match=f"^{spec}: random-gpt2 cannot be split"):
        check(spec, whole)


@pytest.mark.parametrize(
    "spec", ["none", "window:context=9", "neural-cache:weight=0", "dynamic-eval"]
)
def test_what_reads_none_runs_on_any_model(spec: str, whole: LanguageModel) -> None:
    check(spec, whole)


def test_a_head_and_a_trained_body_read_hidden_states_without_a_word_of_their_author(
    llama: LanguageModel,
) -> None:
    found = [cls.needs(None, llama, STEP) for cls in (Method, TrainedHead, TrainedBody)]
    assert found == [Needs(), Needs(hidden=True), Needs(hidden=True)]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dynamic-eval:subset=last-9", "has 3 layers"),
        ("dynamic-eval:subset=nine", "there is no subset"),
        ("dynamic-eval:subset=lora,targets=[nine]", "no linear module"),
    ],
)
def test_a_subset_is_looked_for_in_the_model(spec: str, words: str, llama: LanguageModel) -> None:
    with pytest.raises(UsageError, match=words):
        check(spec, llama)


def test_a_subset_of_blocks_wants_blocks() -> None:
    model = tiny_model()
    model.config.num_hidden_layers = 9  # as where they are no list of modules
    with pytest.raises(ModelError, match=r"^dynamic-eval:subset=mlp: the transformer blocks"):
        check("dynamic-eval:subset=mlp", model)


def failing(params: object, model: object, step: object) -> Needs:
    raise KeyError("depth")


@pytest.mark.parametrize(
    ("needs", "words"),
    [(failing, r"needs\(\) raised KeyError"), (lambda *given: None, "must return Needs")],
)
def test_needs_that_fail_are_a_sentence(needs: object, words: str, llama: LanguageModel) -> None:
    odd = type("Odd", (Method,), {"needs": staticmethod(needs)})
    with pytest.raises(MethodError, match=f"^odd: .*{words}"):
        check_needs(MethodChoice("odd", odd, odd.Params()), llama, STEP, 10)


# The guard of the engine


def windows(tokens: int, padding: int) -> Iterator[Window]:
    """A window of one lane, plain and behind another lane of two tokens."""
    ids = torch.ones(2, tokens + padding, dtype=torch.int64)
    lengths = torch.tensor([2, tokens])
    yield Window(ids[1:], lengths[1:], torch.tensor([2]), 2)
    yield Window(ids, lengths, torch.tensor([2, 2]), 2)


@pytest.mark.parametrize("learned", [False, True])
def test_a_method_that_did_not_say_so_reads_no_farther(
    learned: bool, rotary: LanguageModel
) -> None:
    model = tiny_model("gpt2") if learned else rotary
    for window in windows(POSITIONS, 0):
        model.logits(window).full()
    for window in windows(POSITIONS + 1, 0):
        with pytest.raises(MethodError, match="513 tokens does not fit into the 512 positions"):
            model.logits(window)


def test_padding_may_lie_beyond_the_last_position(rotary: LanguageModel) -> None:
    for window in windows(POSITIONS, 7):
        assert torch.isfinite(rotary.logits(window).full()).all()


# Defaults


def test_the_defaults_go_together_on_a_model_of_1024_positions() -> None:
    tiny = load_shape("builtin:tiny", device="cpu")
    assert tiny.max_positions == 1024
    for choice in choose_methods(BUILT_IN):
        check_needs(choice, tiny, full_step(Protocol()), 10_000)
