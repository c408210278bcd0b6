"""Every way in which a model or the process can be left changed is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_model
from torch.nn import functional as F

from tta_bench.validity.fingerprint import checksum, differences, fingerprint
from tta_bench.validity.process import ProcessState


def test_an_untouched_model_keeps_its_fingerprint() -> None:
    model = tiny_model()
    before = fingerprint(model)
    model.net(torch.arange(6)[None])
    assert differences(before, fingerprint(model)) == []


def _swap_rows(net: Any) -> None:
    weight = net.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[[0, 1]] = weight[[1, 0]]


def _last_bit(net: Any) -> None:
    with torch.no_grad():
        net.model.norm.weight.view(torch.int32)[3] ^= 1


def _rotary(net: Any) -> None:
    net.model.rotary_emb.inv_freq.mul_(1.01)


def _epsilon(net: Any) -> None:
    net.model.norm.variance_epsilon *= 2


def _hook(net: Any) -> None:
    net.model.layers[1].register_forward_hook(lambda *_: None)


def _train(net: Any) -> None:
    net.model.layers[1].mlp.train()


def _gradients(net: Any) -> None:
    net.lm_head.weight.requires_grad_()


def _forward(net: Any) -> None:
    net.model.layers[0].mlp.forward = lambda x: x


def _configuration(net: Any) -> None:
    net.config.rms_norm_eps = 1.0


CHANGES = [_swap_rows, _last_bit, _rotary, _epsilon, _hook, _train, _gradients, _forward]


@pytest.mark.parametrize("change", [*CHANGES, _configuration], ids=lambda f: f.__name__)
def test_every_change_of_a_model_is_named(change: Callable[[Any], None]) -> None:
    model = tiny_model()
    before = fingerprint(model)
    change(model.net)
    assert differences(before, fingerprint(model))


def test_checksum_sees_places_types_and_nan() -> None:
    values = torch.arange(10.0)
    assert checksum(values) == checksum(values.clone())
    assert checksum(values) != checksum(values.flip(0))
    assert checksum(values) != checksum(values.double())
    assert checksum(torch.full((3,), torch.nan)) == checksum(torch.full((3,), torch.nan))
    assert checksum(torch.zeros(3)) != checksum(torch.zeros(4))
    assert checksum(values.to(torch.bfloat16)) != checksum(values.flip(0).to(torch.bfloat16))


def test_a_process_left_changed_is_seen_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ProcessState()
    assert state.changes() == []
    old = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda *args, **kw: old(*args, **kw))
    torch.Tensor.float = lambda self: self  # a name that it has from a base class
    torch.set_default_dtype(torch.float64)
    assert state.changes() == [
        "Tensor.float",
        "torch default dtype",
        "torch.nn.functional.cross_entropy",
    ]
    state.restore()
    assert state.changes() == []
    assert F.cross_entropy is old
    assert "float" not in vars(torch.Tensor)


def test_a_replaced_function_of_the_bench_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from tta_bench.model import scores

    state = ProcessState()
    monkeypatch.setattr(scores, "token_nll", lambda *args, **kw: args[1])
    assert state.changes() == ["tta_bench.model.scores.token_nll"]
    monkeypatch.undo()
    monkeypatch.setattr(scores.Logits, "rows", lambda self, start, stop: self.hidden)
    assert state.changes() == ["Logits.rows"]
