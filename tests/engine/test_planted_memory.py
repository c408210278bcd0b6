"""What a window sees it can say again, and what it does not see it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import make_method

from tta_bench.documents.tokens import tokenized
from tta_bench.engine.loop import Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.model.load import load_model


def test_planted_answers_are_known_within_the_context_alone(tmp_path: Path) -> None:
    model = load_model("builtin:tiny", "float32", "cpu", False)
    for number in range(2):
        lines = [f"value_{i * 7 % 23} = compute({i}, {number})\n" for i in range(200)]
        (tmp_path / f"{number}.txt").write_text("".join(lines))
    spec = f"planted:least=128,most=256,each=1:{tmp_path}"
    pairs = tokenized(spec, model.tokenizer, max_tokens=600, cache_dir=tmp_path / "cache")
    assert len(pairs) == 4
    method = make_method(model, "window", context=128)
    found = list(Engine(method, Protocol(chunk=64), 0, debug=True).run(pairs))
    gained: dict[int, list[float]] = {128: [], 256: []}
    right: dict[int, list[float]] = {128: [], 256: []}
    for told, control in zip(found[::2], found[1::2], strict=True):
        assert told.document.asked is not None
        for start, stop, lag in told.document.asked.answers:
            place, least = slice(start, stop), 256 if lag >= 256 else 128
            gained[least].append(float((control.nll[place] - told.nll[place]).mean()))
            right[least].append(float(told.top1[place].mean() - control.top1[place].mean()))
    assert np.mean(gained[128]) > 2
    assert np.mean(right[128]) > 0.2
    assert gained[256] == pytest.approx([0, 0], abs=0.1)
    assert right[256] == [0, 0]
