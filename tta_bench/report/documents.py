"""What a report needs of the documents of its runs, which are opened outside of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any, Protocol

from tta_bench.errors import BenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Reopened(Protocol):
    """The very documents that a run read, as token ids and as text."""

    @property
    def documents(self) -> Sized:
        """All documents of the dataset."""

    def ids(self, index: int) -> NDArray[np.int32]:
        """[n] token ids of a document, by its index in the dataset."""

    def pieces(self, indices: set[int]) -> Iterator[tuple[int, list[str]]]:
        """The text of each token of the documents asked for, in the order of the dataset."""


Reopen = Callable[[Mapping[str, Any]], Reopened]
"""Opens the documents of a manifest again; a BenchError says why they are not to be had."""


def once(reopen: Reopen) -> Reopen:
    """Remembers the first outcome: settings of one family have the same documents."""
    outcomes: list[Reopened | BenchError] = []

    def remembered(manifest: Mapping[str, Any]) -> Reopened:
        if not outcomes:
            try:
                outcomes.append(reopen(manifest))
            except BenchError as error:
                outcomes.append(error)
        if isinstance(outcomes[0], BenchError):
            raise outcomes[0]
        return outcomes[0]

    return remembered
