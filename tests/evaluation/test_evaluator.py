"""The evaluator's losses and key tokens, beside the definition written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tta_bench.errors import ModelError, UsageError
from tta_bench.evaluation.evaluator import Evaluator
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import load_model
from tta_bench.statistics.key_tokens import KeyRule

STRANGE = "The zephyr of Qwxy met Brontu near Vilk; Karmo sold 7 quilts to Zedda. "
FILLER = "The lazy dog sleeps, and the fox jumps over it. "


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load_model("builtin:tiny", device="cpu")


def literal(model: LanguageModel, ids: np.ndarray, start: int, place: int) -> float:
    """The loss of the token at a place, predicted from those from `start` on."""
    with torch.no_grad():
        logits = model.net(torch.from_numpy(ids[None, start:place])).logits[0, -1]
    return float(-logits.float().log_softmax(-1)[ids[place]])


@pytest.mark.parametrize("length", [45, 53])  # a short last window, and one of a single token
def test_losses_are_those_of_the_definition(tiny: LanguageModel, length: int) -> None:
    rule = KeyRule(16, 12)
    ids = np.array(tiny.tokenizer(STRANGE * 3)["input_ids"][:length])
    full, short = Evaluator(tiny, rule).losses(ids)
    assert (len(full), len(short)) == (length - 1, length - 16)
    whole = [literal(tiny, ids, 0, place) for place in range(1, length)]
    begins = [12 * ((place - 16) // 12) for place in range(16, length)]
    windows = [literal(tiny, ids, s, p) for s, p in zip(begins, range(16, length), strict=True)]
    np.testing.assert_allclose(full, whole, atol=2e-5)
    np.testing.assert_allclose(short, windows, atol=2e-5)


def test_what_comes_back_after_long_is_key(tiny: LanguageModel) -> None:
    text = STRANGE + FILLER * 6 + STRANGE
    again = len(text) - len(STRANGE)
    found = Evaluator(tiny, KeyRule(64, 16)).read(text)
    words = [text[start:stop] for start, stop in found.places]
    assert len(words) > 20
    assert {" Q", "xy", "ont"} < set(words)
    assert found.places[:, 0].min() >= again
    assert found.read > len(found.losses)
    assert found.flops > 0


def test_a_text_that_is_not_longer_than_a_short_context_is_not_read(tiny: LanguageModel) -> None:
    found = Evaluator(tiny, KeyRule(64, 16)).read(FILLER)
    assert (len(found.places), found.read, found.flops) == (0, 0, 0.0)


def test_memory_that_runs_out_is_told(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(window: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(tiny, "logits", full)
    with pytest.raises(ModelError, match="memory ran out while builtin:tiny read"):
        Evaluator(tiny, KeyRule(16, 4)).read(FILLER * 3)


def test_texts_that_cannot_have_key_tokens_are_refused(tiny: LanguageModel) -> None:
    with pytest.raises(UsageError, match=r"more than the 4096 tokens .* ask for longppl-256"):
        Evaluator(tiny, KeyRule()).check(900)
    with pytest.raises(UsageError, match="choose longer documents"):
        Evaluator(tiny, KeyRule(64, 16)).check(60)


def test_texts_beyond_the_positions_are_refused(tiny: LanguageModel) -> None:
    Evaluator(tiny, KeyRule(256, 64)).check(1024)
    with pytest.raises(UsageError) as error:
        Evaluator(tiny, KeyRule(256, 64)).check(5000)
    assert "reads 5000 tokens at once, but builtin:tiny has 1024 positions" in str(error.value)
    assert str(error.value).endswith("cut with --max-tokens 1024.")
    with pytest.raises(UsageError, match="--max-tokens 1024 and ask for longppl-512"):
        Evaluator(tiny, KeyRule()).check(5000)
