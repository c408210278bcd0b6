"""The command line as a user has it: in a process of its own, or through its entry point here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}


def in_a_process(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`tta-bench WORDS` in a process of its own, which takes seconds to import PyTorch."""
    return subprocess.run(
        [sys.executable, "-m", "tta_bench", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | ENVIRONMENT | environment,
    )


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def tta_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`tta-bench WORDS` in this process: the same entry point, exit code and streams."""
    from tta_bench.cli import main
    from tta_bench.contract import registry

    def run(*words: object, cwd: Path) -> Done:
        with monkeypatch.context() as here:
            for name, value in ENVIRONMENT.items():
                here.setenv(name, value)
            here.setattr(registry, "_plugin_files", {})
            here.chdir(cwd)
            here.setattr(sys, "argv", ["tta-bench", *map(str, words)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as stopped:
                main.run()
        written = capsys.readouterr()
        return Done(int(stopped.value.code or 0), written.out, written.err)

    return run
