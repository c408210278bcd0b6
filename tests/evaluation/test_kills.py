"""`eval` with its audit, killed at random moments and taken up again, ends as if undisturbed.

As a script it takes the number of kills and an empty folder: `python test_kills.py 100 FOLDER`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from slow import slow

KILLS = 20
SUPPORT = Path(__file__).parents[1] / "support"
DOCUMENTS = 3
COMMAND = (
    *("eval", "--dataset", "texts", "--max-tokens", "600", "--chunk", "128", "--device", "cpu"),
    *("--method", "none", "--method", "neural-cache", "--audit", "auto", "--quiet"),
    *("--name", "it", "--results"),
)
TEXT = "The quick brown fox jumps over the lazy dog, and dog {} sleeps {} hours. "


def write_texts(folder: Path) -> None:
    (folder / "texts").mkdir()
    for i in range(DOCUMENTS):
        text = "".join(TEXT.format(i, hours * (i + 3) % 23) for hours in range(80))
        (folder / "texts" / f"{i}.txt").write_text(text)


def begin(results: str) -> int:
    """Starts the command as a copy of this process, which has imported all that it needs."""
    child = os.fork()
    if child:
        return child
    from tta_bench.cli.main import app

    code = 1
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        app([*COMMAND, results], standalone_mode=False)
        code = 0
    finally:
        os._exit(code)


def ended(child: int, after: float) -> int | None:
    """The exit status of a process that ends within so many seconds, else None."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def final(results: Path) -> dict[str, object]:
    """All that a run ends with, except times and how often it was taken up."""
    found: dict[str, object] = {}
    for path in sorted(results.glob("it/*/")):
        kind = path.name
        rows = [json.loads(line) for line in (path / "rows.jsonl").read_text().splitlines()]
        for row in rows:
            for name in ("seconds", "session", "crc32"):
                row.pop(name)
        found[f"{kind} rows"] = json.dumps(rows)
        summary = json.loads((path / "summary.json").read_text())
        found[f"{kind} verdict"] = summary["status"], summary["valid"], summary["documents"]
        for vector in sorted((path / "nll").iterdir()):
            found[f"{kind} {vector.name}"] = vector.read_bytes()
    return found


def kill_again_and_again(kills: int) -> dict[str, int]:
    """Kills the command so often, each run until it gets to its end; returns what was counted."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import tta_bench.evaluation.execute
    import tta_bench.store  # noqa: F401

    torch.set_num_threads(1)
    started = time.monotonic()
    assert ended(begin("whole"), 120) == 0
    seconds = time.monotonic() - started
    whole = final(Path("whole"))
    assert len(whole) == 2 * (2 + DOCUMENTS)
    chance = random.Random(7)
    count = {"kills": 0, "runs": 0, "between": 0}
    while count["kills"] < kills or count["runs"] == 0:
        results = f"killed-{count['runs']}"
        code = None
        while code is None:
            child = begin(results)
            last = count["kills"] == kills
            code = ended(child, 120 if last else chance.uniform(0, seconds))
            if code is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                count["kills"] += 1
                count["between"] += any(Path(results).glob("it/*/rows.jsonl"))
        assert code == 0, f"{results}: exit code {code}"
        assert final(Path(results)) == whole, results
        count["runs"] += 1
    return count


@slow
def test_eval_killed_at_random_moments_ends_byte_for_byte_as_undisturbed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(KILLS), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SUPPORT)},
    )
    assert done.returncode == 0, done.stderr
    count = json.loads(done.stdout)
    assert count["kills"] == KILLS
    assert count["between"] > KILLS // 4  # while a run was there, not before


if __name__ == "__main__":
    os.chdir(sys.argv[2])
    write_texts(Path.cwd())
    print(json.dumps(kill_again_and_again(int(sys.argv[1]))))
