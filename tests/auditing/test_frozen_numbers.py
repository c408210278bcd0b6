"""The frozen model compared with itself, where what it reads gives no numbers."""

import torch
from tiny import random_document, tiny_model

from tta_bench.auditing.frozen import FrozenModel


def test_losses_that_are_no_numbers_are_the_same_as_before():
    model = tiny_model()
    ids = random_document("text", 40, 1).token_ids
    with torch.no_grad():
        model.parameter("model.embed_tokens.weight")[int(ids[20])] = torch.nan
    frozen = FrozenModel(model, ids)
    assert frozen.finding().status == "pass"


@torch.inference_mode()
def test_a_loss_that_becomes_no_number_is_a_change():
    model = tiny_model()
    ids = random_document("text", 40, 1).token_ids
    frozen = FrozenModel(model, ids)
    frozen._losses[0, 3] = torch.nan
    assert frozen.finding().status == "fail"
