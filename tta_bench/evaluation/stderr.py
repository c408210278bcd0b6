"""A console on standard error that nobody need read: a run does not end because its reader has."""

from __future__ import annotations

import os

from rich.console import Console


class StderrConsole(Console):
    """Writes to standard error, and nothing more once that is a closed pipe (`2>&1 | head`)."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False)

    def on_broken_pipe(self) -> None:
        """Falls silent. Rich would end the process, which looks like a failure of the method."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
