"""The work to come, looked at before it is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tta_bench.errors import BenchError

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.setting import Setting

Work = tuple["Setting", "MethodChoice"]


class Feed:
    """Runs to be made, one at a time; an error in it is told once what began has ended.

    Attributes:
        first: what comes next; None where nothing does.
        looked_at: whether it is known not to be stored whole.
    """

    def __init__(self, work: Iterable[Work]):
        self._work: Iterator[Work] = iter(work)
        self._error: BenchError | None = None
        self.first: Work | None = None
        self.looked_at = False
        self.take()

    def take(self) -> None:
        """Goes on to the next."""
        self.looked_at = False
        try:
            self.first = next(self._work, None)
        except BenchError as error:
            self.stop(error)

    def stop(self, error: BenchError) -> None:
        """Nothing comes any more, for this reason."""
        self.first, self._error = None, error

    def raise_error(self) -> None:
        """Raises what ended the work."""
        if self._error is not None:
            raise self._error
