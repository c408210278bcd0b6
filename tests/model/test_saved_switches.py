"""Switches that a saved configuration may hold, and that must not move a number."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, VOCAB

from tta_bench.model.language_model import LanguageModel
from tta_bench.model.window import Window
from tta_bench.validity.models import random_net


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_saved_with_tuples_for_outputs_is_read(family: str) -> None:
    ids = torch.arange(1, 13)[None] % VOCAB
    window = Window(ids, torch.tensor([12]), torch.tensor([12]), 12)
    found = []
    for switch in (True, False):
        net = random_net(family, layers=2)
        net.config.return_dict = switch
        found.append(LanguageModel(net, None, family).logits(window).full())
    assert torch.equal(*found)
