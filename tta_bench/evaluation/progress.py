"""Shows progress on stderr: a live line per method on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from tta_bench.format import DASH, count, duration, fixed, plain, plural
from tta_bench.statistics import exp

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_INTERVAL = 5.0
"""Seconds between two plain lines of one method, at least, where documents end."""

LONGEST_SILENCE = 30.0
"""Seconds after which a plain line comes even if no document has ended."""


@dataclass
class _Method:
    """A method being run; totals since its start.

    The rate is of the time since the first step was taken: what was spent on set-up says nothing
    about how fast it reads. What it comes to in all, the summary table says, by the steps alone.
    """

    spec: str
    started: float = field(default_factory=lambda: time.monotonic())
    tokens: int = 0
    nll: float = 0.0
    documents: int = 0
    last_line: float = field(default_factory=lambda: time.monotonic())
    reading_since: float | None = None
    tokens_before: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def perplexity(self) -> str:
        return fixed(exp(self.nll / self.tokens), 2) if self.tokens else DASH

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens scored since the first step over the time since then."""
        since = self.reading_since
        seconds = 0.0 if since is None else time.monotonic() - since
        tokens = self.tokens - self.tokens_before
        return tokens / seconds if tokens > 0 and seconds > 0 else None

    @property
    def rate(self) -> str:
        return count(None if self.tokens_per_second is None else round(self.tokens_per_second))


class Progress:
    """An `Observer` that shows a person how far each method has come.

        with Progress(quiet=False) as progress:
            progress.start_method("none", total_documents=23, total_tokens=90_000)
            progress.update(tokens, nll_sum, documents_done)   # after each step
            progress.end_method("complete")

    Args:
        total_documents: documents each method reads; None if not known.
        total_tokens: tokens each method scores; None if not known, and then no time left is shown.
        quiet: show nothing but notes.
        console: console to write to; None: one on stderr.
    """

    def __init__(
        self,
        total_documents: int | None = None,
        total_tokens: int | None = None,
        quiet: bool = False,
        console: Console | None = None,
    ):
        from tta_bench.evaluation.stderr import StderrConsole

        self.total_documents = total_documents
        self.total_tokens = total_tokens
        self.quiet = quiet
        self.console = console or StderrConsole()
        self._method: _Method | None = None
        self._task: TaskID | None = None
        self._live: RichProgress | None = None
        if self.console.is_terminal and not quiet:
            self._live = _live_display(self.console)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._method is not None:
            self.end_method("interrupted" if kind in (None, KeyboardInterrupt) else "error")
        if self._live is not None:
            self._live.stop()

    def start_method(
        self, spec: str, total_documents: int | None = None, total_tokens: int | None = None
    ) -> None:
        """A method begins; totals given here replace those of the constructor."""
        self.total_documents = total_documents or self.total_documents
        self.total_tokens = total_tokens or self.total_tokens
        self._method = _Method(plain(spec))
        if self._live is not None:
            self._task = self._live.add_task(self._method.spec, total=None, text="", left="")
            self._show("")
        else:
            self.remark(f"{self._method.spec}: started")

    def update(self, tokens: int, nll_sum: float, documents_done: int) -> None:
        """A step was taken.

        Args:
            tokens: tokens scored since the last call.
            nll_sum: their summed NLL, nats.
            documents_done: documents ended since the method's start.
        """
        method = self._method
        if method is None:
            raise RuntimeError("update belongs between start_method and end_method")
        ended = documents_done > method.documents
        method.tokens += tokens
        method.nll += nll_sum
        method.documents = documents_done
        if method.reading_since is None:
            method.reading_since, method.tokens_before = time.monotonic(), method.tokens
        if self._live is not None:
            self._show(self._time_left())
        elif time.monotonic() - method.last_line >= (PLAIN_INTERVAL if ended else LONGEST_SILENCE):
            method.last_line = time.monotonic()
            left = self._time_left()
            figures = f"{self._figures()}, {method.rate} tokens/s"
            self.remark(f"{method.spec}: {figures}" + (f", {left}" if left else ""))

    def end_method(self, status: str) -> None:
        """The method has ended; `complete`, or why it stopped."""
        method = self._method
        if method is None:
            return
        took = duration(method.seconds)
        if self._live is not None:
            self._show(took if status == "complete" else f"{status}, {took}", ended=True)
            if self._task is not None:
                self._live.stop_task(self._task)
        else:
            self.remark(f"{method.spec}: {status}, {self._figures()}, {took}")
        self._method = self._task = None

    def beside(self) -> Progress:
        """One for another method that runs at the same time: a line of its own in this display."""
        other = copy(self)
        other._method = other._task = None
        return other

    def note(self, text: str) -> None:
        """A line for the user, above the live display; shown even when quiet."""
        from rich.text import Text

        self.console.print(Text(plain(text)), soft_wrap=True)

    def remark(self, text: str) -> None:
        """A line for the user that is left out when quiet."""
        if not self.quiet:
            self.note(text)

    def _figures(self) -> str:
        method = self._method
        assert method is not None
        done = plural(method.documents, "document")
        if self.total_documents is not None:
            done = f"{method.documents:,}/{plural(self.total_documents, 'document')}"
        return f"{done}, {method.tokens:,} tokens, perplexity {method.perplexity}"

    def _time_left(self) -> str:
        method = self._method
        assert method is not None
        rate = method.tokens_per_second
        if not self.total_tokens or rate is None:
            return ""
        return f"{duration(max(0, self.total_tokens - method.tokens) / rate)} left"

    def _show(self, left: str, ended: bool = False) -> None:
        method = self._method
        if self._live is None or self._task is None or method is None:
            return
        of = "" if self.total_documents is None else f"/{self.total_documents:,}"
        # Short enough, with the bar, for 80 columns.
        text = (
            f"{method.documents:,}{of} docs  {method.tokens:,} tokens  ppl {method.perplexity}"
        ) + ("" if ended else f"  {method.rate}/s")
        total = self.total_tokens or self.total_documents
        done = method.tokens if self.total_tokens else method.documents
        self._live.update(self._task, completed=done, total=total, text=text, left=left)


def _live_display(console: Console) -> RichProgress:
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    return Progress(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(overflow="ellipsis", no_wrap=True, ratio=1),
        ),
        BarColumn(bar_width=8),
        TextColumn("{task.fields[text]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False, justify="right"),
        console=console,
        expand=True,
    )
