"""Commands of a page, run in a process of their own, where a plugin stays known for good."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RUN = """
import shlex, sys
from typer.testing import CliRunner
from tta_bench.cli.main import app
for line in sys.argv[1:]:
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    if done.exit_code:
        sys.exit(f"{line}: {done.output}{done.exception!r}")
"""


def run_lines(lines: Sequence[str], folder: Path) -> None:
    """Runs `tta-bench ...` lines in a folder, one after another, in one new process."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *lines],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
