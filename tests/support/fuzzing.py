"""What the fuzzing tests share: damaged bytes, arbitrary values, and what may come out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tta_bench.errors import BenchError

fuzzed = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Lets a BenchError pass, which the command line prints in a line; all else fails the test."""
    with suppress(BenchError):
        yield


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes cut short, with bits flipped, or with other bytes put in."""
    place = st.integers(0, max(0, len(data) - 1))

    def flip(flips: list[tuple[int, int]]) -> bytes:
        changed = bytearray(data)
        for where, bit in flips:
            changed[where] ^= 1 << bit
        return bytes(changed)

    return (
        place.map(lambda end: data[:end])
        | st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=4).map(flip)
        | st.tuples(place, st.binary(max_size=8)).map(
            lambda put: data[: put[0]] + put[1] + data[put[0] + len(put[1]) :]
        )
    )
