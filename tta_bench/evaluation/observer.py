"""What an executor reports while it works: plain calls with plain data, from whatever process."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Is told of each method as it runs; `Progress` shows it to a person."""

    def start_method(self, spec: str, total_documents: int, total_tokens: int) -> None:
        """A method begins.

        Args:
            spec: the method's spec.
            total_documents: documents it will read.
            total_tokens: tokens it will score.
        """

    def update(self, tokens: int, nll_sum: float, documents_done: int) -> None:
        """A step was taken.

        Args:
            tokens: tokens scored since the last call; below 0 where some are read again.
            nll_sum: their summed NLL, nats.
            documents_done: documents ended since the method's start.
        """

    def end_method(self, status: str) -> None:
        """The method has ended: `complete`, or why it stopped."""

    def note(self, text: str) -> None:
        """A sentence that the user must see."""

    def remark(self, text: str) -> None:
        """A sentence that a user who asked for quiet may miss."""

    def beside(self) -> Observer:
        """One for another method, which runs at the same time."""
