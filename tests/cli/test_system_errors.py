"""Errors of the system that no sentence of ours would explain."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from command import Command

from tta_bench.cli import main
from tta_bench.errors import BenchError


@pytest.mark.parametrize("command", ["train", "audit", "reproduce"])
def test_debug_shows_where_an_error_was_raised(
    command: str, tta_bench: Command, tmp_path: Path
) -> None:
    with pytest.raises(BenchError):
        tta_bench(command, "nothing-of-that-name", "--debug", cwd=tmp_path)


def failing(standalone_mode: bool) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_other_errors_of_the_system_are_not_hidden(
    tta_bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "app", failing)
    with pytest.raises(OSError, match="Input/output"):
        tta_bench("list", "methods", cwd=tmp_path)
