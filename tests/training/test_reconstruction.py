"""Training on slices of what was written: which they are, and what their loss is."""

import numpy as np
import pytest
import torch
from tiny import PREFIX, random_document, tiny_model
from torch.nn import functional as F

from tta_bench import UsageError, Window
from tta_bench.contract.registry import load
from tta_bench.convert import Converter
from tta_bench.training.loss import SegmentLoss
from tta_bench.training.recipe import make_recipe
from tta_bench.training.streams import LaneSegments, TokenArray
from tta_bench.training.train import train

STEPS, SEGMENT, CHUNK = 12, 32, 4


def segments_of(lengths, windows=(8,), lanes=2, slices=True):
    """Documents whose tokens are all different, so that each can be found again."""
    starts = np.cumsum([0, *(length + 1 for length in lengths)])
    documents = TokenArray(np.arange(starts[-1]), starts)
    return LaneSegments(documents, lanes, windows, SEGMENT, CHUNK, STEPS, seed=3, slices=slices)


@pytest.mark.parametrize("windows", [(8,), (4, 16)])
def test_a_slice_is_a_piece_of_what_the_segment_has_held_of_the_document(windows):
    segments = segments_of((100, 7, 41, 1, 2), windows)
    batch = segments.collate(range(len(segments)))
    lengths, offsets = [], set()
    for row in range(len(segments)):
        width, begin = segments.window_of(row % 2), 0
        for start in range(0, SEGMENT, width):
            if batch["fresh"][row, start // CHUNK]:
                begin = start
            stop = start + int(batch["mask"][row, start : start + width].sum())
            place, length = batch["slices"][row, start // CHUNK].tolist()
            assert 0 <= length <= width
            lengths.append((length, min(width, max(0, stop - begin - 1))))
            if length:
                assert begin <= place < place + length < stop  # the last label was read, too
                offsets.add(place - begin)
                read = batch["input_ids"][row, place : place + length].tolist()
                assert read == list(range(read[0], read[0] + length))
                assert batch["labels"][row, place : place + length].tolist() == [
                    token + 1 for token in read
                ]
    assert all((length > 0) == (most > 0) for length, most in lengths)
    assert any(length == most > 1 for length, most in lengths)
    assert len(offsets) > 10


def test_slices_do_not_depend_on_how_lanes_are_spread():
    segments = segments_of((100, 7, 41))
    whole = segments.collate(range(6))["slices"]
    alone = [segments.collate([item])["slices"] for item in range(6)]
    assert torch.equal(whole, torch.cat(alone))
    assert "slices" not in segments_of((100, 7, 41), slices=False).collate([0])


@pytest.mark.parametrize("name", ["generative-adapter", "in-place-ttt"])
def test_the_loss_adds_what_is_read_of_each_slice_with_what_was_written(name):
    model = tiny_model()
    cls = load(name)
    torch.manual_seed(0)
    with torch.no_grad():
        module = cls.random_weights(model)
    read = module.attach(model)
    documents = [random_document(f"d{n}", length, n) for n, length in enumerate((70, 19))]
    ids = np.concatenate([[PREFIX, *document.token_ids] for document in documents])
    starts = np.cumsum([0, *(len(document.token_ids) + 1 for document in documents)])
    texts = TokenArray(ids, starts)
    segments = LaneSegments(texts, 2, (16,), 48, 16, 2, seed=0, slices=True)
    batch = segments.collate([0, 1])
    slices = batch.pop("slices")
    loss = SegmentLoss(read, module, False, (16,), 16, 2, 1.0)
    plain = float(loss(**batch)["loss"].detach())
    loss.forget()
    found = loss(**batch, slices=slices)["loss"]
    again = 0.0
    for row in range(2):
        state = module.fresh_state(1)
        for number, start in enumerate(range(0, 48, 16)):
            if batch["fresh"][row, number]:
                state = module.fresh_state(1)
            part = slice(start, start + 16)
            count = batch["mask"][row, part].sum()[None]
            window = Window(batch["input_ids"][None, row, part], count, count, 16)
            labels = batch["labels"][None, row, part]
            _, memo = module.read(read, window, state)
            state = module.write(memo, window, labels, model.unembedding, state)
            place, length = slices[row, number].tolist()
            if length == 0:
                continue
            piece, size = slice(place, place + length), torch.tensor([length])
            window = Window(batch["input_ids"][None, row, piece], size, size, length)
            hidden, _ = module.read(read, window, state)
            logits, told = model.unembed(hidden)[0], batch["labels"][row, piece]
            again += float(F.cross_entropy(logits, told, reduction="sum").detach())
    assert again > 10
    assert float(found.detach()) == pytest.approx(plain + again / 2, rel=1e-5)
    nats, tokens = loss.take_sums()
    assert (nats, tokens) == (pytest.approx(2 * plain, rel=1e-5), int(batch["mask"].sum()))
    found.backward()  # of slices alone would do: the last window's writes are read by its slice
    assert all(bool(value.grad.isfinite().all()) for value in module.parameters())


def test_a_head_has_nothing_to_reconstruct_from(tmp_path):
    (tmp_path / "a.txt").write_text("some words to read " * 40)
    values = {"name": "r", "method": "fwl", "dataset": str(tmp_path), "body": "frozen"}
    values["train"] = {"steps": 1, "lanes": 1, "reconstruction": True}
    recipe = make_recipe(values, {}, Converter("the recipe"))
    with pytest.raises(UsageError, match=r"train\.reconstruction is for methods that act inside"):
        train(recipe, tmp_path / "out", "cpu", lambda _: None)
