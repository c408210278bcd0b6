"""Key tokens of LongPPL are those of the authors' code, and so is the number."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from golden import golden

from tta_bench.errors import UsageError
from tta_bench.statistics.key_tokens import (
    KeyRule,
    inside,
    is_key,
    merged_intervals,
    rule_named,
)


def longppl(losses: np.ndarray, length: int, key: np.ndarray) -> float:
    return float(np.exp(losses[is_key(len(losses), length, key)].mean(dtype=np.float64)))


@pytest.mark.parametrize("path", golden("longppl", "*doc*.npz"))
def test_one_tokenizer(path: Path) -> None:
    arrays = np.load(path, allow_pickle=False)
    series, name = path.stem.rsplit("_", 1)
    settings = json.loads(path.with_name(f"{series}.json").read_text())[name]["settings"]
    full, offsets = arrays["loss_full"], arrays["offsets"]
    assert settings
    for label, known in settings.items():
        rule = KeyRule(*(known[field] for field in KeyRule.__dataclass_fields__))
        key = rule.key(full, arrays[f"loss_short_{label}"])
        assert int(key.sum()) == known["n_key_direct"]
        intervals = merged_intervals(offsets[key])
        assert intervals.tolist() == arrays[f"slices_{label}"].tolist()
        mapped = inside(offsets, intervals)
        assert mapped.tolist() == arrays[f"key_{label}"].tolist()
        places = np.flatnonzero(mapped)
        assert len(places) == known["n_key_token"]
        assert longppl(full, known["n_token"], places) == pytest.approx(known["longppl"], rel=1e-4)


def two_tokenizations() -> list:
    return [
        pytest.param(case, id=f"{file.id}-{number}", marks=file.marks)
        for file in golden("longppl", "*two_tokenizations.json")
        for number, case in enumerate(
            json.loads(file.values[0].read_text()) if file.values[0] else [None]
        )
    ]


@pytest.mark.parametrize("case", two_tokenizations())
def test_two_tokenizers(case: dict) -> None:
    rule = KeyRule(*(case[field] for field in KeyRule.__dataclass_fields__))
    of_evaluator, of_model = (
        np.array(case[f"{who}_offsets"]) for who in ("evaluator", "evaluated")
    )
    # The losses in short windows are not stored: the key tokens of the evaluator are.
    assert min(case["evaluator_key_positions"]) >= rule.trunc_len
    intervals = merged_intervals(of_evaluator[case["evaluator_key_positions"]])
    assert intervals.tolist() == case["merged_slices"]
    places = np.flatnonzero(inside(of_model, intervals))
    assert (places - 1).tolist() == case["evaluated_loss_indices"]
    losses = np.array(case["evaluated_nll"], dtype=np.float32)
    assert len(places) == case["n_key_token"]
    assert longppl(losses, case["n_token"], places) == pytest.approx(case["longppl"], rel=1e-4)


def test_every_token_after_the_first_context_is_scored_once_in_a_short_window() -> None:
    rule = KeyRule(8, 4)
    for length in range(1, 30):  # a last window that scores one token is among them
        scored = [p for start, stop in rule.windows(length) for p in range(start + 8, stop)]
        assert scored == list(range(8, length))


def test_both_bounds_are_strict() -> None:
    full = np.array([0.5, 1.0, 2.0, 1.0], dtype=np.float32)
    short = np.array([3.0, 9.0, 3.5], dtype=np.float32)  # of the tokens 2, 3 and 4
    assert KeyRule(2, 1).key(full, short).tolist() == [False, False, False, False, True]


def test_text_that_is_no_longer_than_the_short_context_has_no_key_token() -> None:
    assert not KeyRule(8, 4).key(np.zeros(7, np.float32), np.zeros(0, np.float32)).any()
    none = np.zeros((0, 2), dtype=int)
    assert inside(np.array([[0, 1]]), merged_intervals(none)).tolist() == [False]


def test_losses_are_those_of_the_last_tokens() -> None:
    """With a prefix token the first token is scored as well."""
    assert np.flatnonzero(is_key(5, 5, [0, 3])).tolist() == [0, 3]
    assert np.flatnonzero(is_key(5, 6, [0, 3])).tolist() == [2]
    with pytest.raises(ValueError, match="3 of 8"):
        is_key(5, 8, [3])


def test_a_scaled_down_rule_bears_its_length_in_its_name() -> None:
    assert rule_named("longppl") == KeyRule(4096, 1024, 2, -2)
    rule = rule_named("longppl-512")
    assert rule == KeyRule(512, 128)
    assert rule.name == "longppl-512"
    assert rule_named("perplexity") is None
    for name, why in {
        "longppl-0": "multiple",
        "longppl-6": "multiple",
        "longppl-4096": "called",
    }.items():
        with pytest.raises(UsageError, match=re.escape(name) + f".*{why}"):
            rule_named(name)
