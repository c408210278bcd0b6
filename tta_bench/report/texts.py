"""What a report asks of the documents that runs read: whoever opens them again hands them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Texts(Protocol):
    """The documents of a run, by their place in the dataset."""

    @property
    def documents(self) -> Sized:
        """All of them; a report counts them."""

    def ids(self, index: int) -> NDArray[np.int32]:
        """[n] token ids of a document."""

    def pieces(self, indices: set[int]) -> Iterator[tuple[int, list[str]]]:
        """The text of each token of the documents asked for, in the order of the dataset."""


Reopen = Callable[[dict[str, Any]], Texts]
"""Opens the documents of a manifest; raises a `BenchError` where they cannot be had."""
