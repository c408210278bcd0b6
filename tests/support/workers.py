"""Runs of `eval` in processes of their own, and what of them must not depend on who read what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

TEXT = "The quick brown fox jumps over the lazy dog, and dog {} sleeps {} hours. "
COMMAND = ("eval", "--dataset", "texts", "--chunk", "64", "--device", "cpu", "--name", "it")


def write_texts(folder: Path, documents: int, sentences: int = 40) -> None:
    """Texts of some 500 tokens each, `texts/0.txt` and so on."""
    (folder / "texts").mkdir(parents=True)
    for i in range(documents):
        text = "".join(TEXT.format(i, hours * (i + 3) % 23) for hours in range(sentences))
        (folder / "texts" / f"{i}.txt").write_text(text)


def start(folder: Path, *words: object, results: str = "results") -> subprocess.Popen[str]:
    """The command, begun in a process group of its own, as a shell begins it."""
    # A background job is started with Ctrl-C ignored, and would hand that on.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "tta_bench", *COMMAND, "--results", results, *map(str, words)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    finally:
        signal.signal(signal.SIGINT, usual)


def run(folder: Path, *words: object, results: str = "results") -> str:
    """The command, to its end."""
    process = start(folder, *words, results=results)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def final(results: Path, indices: Sequence[int] | None = None) -> dict[str, object]:
    """All that runs end with, except times, sessions and who did it."""
    found: dict[str, object] = {}
    for path in sorted(results.glob("it/*/")):
        rows = [json.loads(line) for line in (path / "rows.jsonl").read_text().splitlines()]
        rows = [row for row in rows if indices is None or row["index"] in indices]
        for row in rows:
            for name in ("seconds", "session", "crc32"):
                row.pop(name)
        rows.sort(key=lambda row: row["index"])
        found[f"{path.name} rows"] = json.dumps(rows)
        summary = json.loads((path / "summary.json").read_text())
        names = ("status", "valid", "lanes", "flops_per_token", "flops_per_token_counted")
        if indices is None:
            found[f"{path.name} summary"] = [summary[name] for name in names]
        for row in rows:
            if row["nll_file"]:
                found[f"{path.name} {row['nll_file']}"] = (path / row["nll_file"]).read_bytes()
    return found


def processes_of(session: int) -> list[int]:
    """Living processes of a session, by their ids."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[3]) == session and words[0] != "Z":
                found.append(int(folder.name))
    return found


def workers_of(session: int) -> list[int]:
    """The workers among them: those that were spawned to do tasks, by when they began."""
    found = []
    for process in processes_of(session):
        try:
            line = (Path("/proc") / str(process) / "cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in line:
            found.append(process)
    return sorted(found)


POISON = "~~~ ~~~ ~~~ ~~~ " * 80
_PLUGIN = """
import os
from tta_bench import Method, register

HOW = WHAT

@register("poisoned")
class Poisoned(Method):
    def score(self, window):
        if HOW is not None and (window.input_ids == TOKEN).sum() > 3:
            HOW()
        return self.model.logits(window)

    def flops(self, shape):
        return self.cost.forward(shape)
"""


def poisoned(how: str) -> str:
    """A plugin: the method `poisoned`, which does that on a document of `POISON`, else nothing."""
    from tta_bench.model.load import load_tokenizer

    ids = load_tokenizer("builtin:tiny")("~~~ ~~~ ~~~ ~~~")["input_ids"]
    token = Counter(ids).most_common(1)[0][0]
    return _PLUGIN.replace("TOKEN", str(token)).replace("WHAT", how)
