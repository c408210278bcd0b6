"""Mini-batches in lanes that stand at different places of theirs."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_bench_methods.head.block.minibatch import grid_of


def stepped(values, mask, size, state):
    """A memory that adds the sum of each whole mini-batch to its start, on a grid.

    Position t reads the start of its mini-batch and ten times the running sum up to t.
    """
    grid = grid_of(state["index"], mask, size)
    laid = grid.lay(values * mask)
    start, total, pieces = state["start"], state["sum"], []
    for j in range(grid.batches):
        running = total[:, None] + laid[:, j].cumsum(1)
        pieces.append(start[:, None] + 10 * running)
        total = running[:, -1]
        start = torch.where(grid.complete[:, j], start + total, start)
        total = torch.where(grid.complete[:, j], 0.0, total)
    reads = grid.lift(torch.stack(pieces, 1))
    return reads, {"start": start, "sum": total, "index": grid.next_index}


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 5),
    pieces=st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=3), min_size=1, max_size=4),
    padding=st.integers(0, 2),
)
def test_a_grid_reads_as_a_loop_over_tokens(size, pieces, padding):
    """Three lanes, of which each reads its own number of tokens of every piece."""
    generator = torch.Generator().manual_seed(size)
    zeros = torch.zeros(3, dtype=torch.float64)
    state = {"start": zeros, "sum": zeros, "index": torch.zeros(3, dtype=torch.int64)}
    loops = [{"start": 0.0, "sum": 0.0, "index": 0} for _ in range(3)]
    for lengths in pieces:
        width = max(1, max(lengths) + padding)
        values = torch.randn(3, width, generator=generator, dtype=torch.float64)
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
        reads, state = stepped(values, mask, size, state)
        for lane, loop in enumerate(loops):
            for t in range(lengths[lane]):
                loop["sum"] += float(values[lane, t])
                wanted = loop["start"] + 10 * loop["sum"]
                torch.testing.assert_close(float(reads[lane, t]), wanted)
                loop["index"] += 1
                if loop["index"] == size:
                    loop.update(start=loop["start"] + loop["sum"], sum=0.0, index=0)
            if lengths[lane] < width:  # the first that is not written reads all before it
                wanted = loop["start"] + 10 * loop["sum"]
                torch.testing.assert_close(float(reads[lane, lengths[lane]]), wanted)
    for key in ("start", "sum", "index"):
        expected = torch.tensor([loop[key] for loop in loops], dtype=state[key].dtype)
        torch.testing.assert_close(state[key], expected)


@settings(max_examples=20, deadline=None)
@given(index=st.lists(st.integers(0, 3), min_size=2, max_size=2), length=st.integers(1, 9))
def test_what_is_laid_out_comes_back(index, length):
    values = torch.randn(2, length, 3, 2)
    mask = torch.rand(2, length).sort(dim=1, descending=True).values > 0.5
    grid = grid_of(torch.tensor(index), mask, 4)
    laid = grid.lay(values)
    assert laid.shape == (2, grid.batches, 4, 3, 2)
    assert torch.equal(grid.lift(laid), values)
    assert torch.equal(grid.there.sum((1, 2)), mask.sum(1))
    assert torch.equal(laid.flatten(1, 2)[grid.there.flatten(1)], values[mask])
    assert torch.equal(grid.lift(grid.lay(mask)), mask)
