"""The progress display: plain lines, the live one, and what it never does."""

from __future__ import annotations

import io
import math
import re

import pytest
from rich.console import Console

from tta_bench.evaluation import progress as module
from tta_bench.evaluation.progress import Progress

ADAM = "dynamic-eval:optimizer=adam,lr=0.0001"


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def lines_of(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_plain_lines_come_as_documents_end_and_not_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    console = plain_console()
    with Progress(console=console) as progress:
        progress.start_method("none", 10, 10_000)
        for document in range(1, 11):
            for _ in range(2):
                clock.now += 1
                progress.update(500, 500 * math.log(20), document - 1)
            progress.update(0, 0.0, document)
        progress.end_method("complete")
    assert lines_of(console) == [
        "none: started",
        "none: 3/10 documents, 3,000 tokens, perplexity 20.00, 500 tokens/s, 0:14 left",
        "none: 6/10 documents, 6,000 tokens, perplexity 20.00, 500 tokens/s, 0:08 left",
        "none: 9/10 documents, 9,000 tokens, perplexity 20.00, 500 tokens/s, 0:02 left",
        "none: complete, 10/10 documents, 10,000 tokens, perplexity 20.00, 0:20",
    ]


def test_the_time_of_set_up_is_not_that_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    console = plain_console()
    progress = Progress(console=console)
    progress.start_method("none", 4, 4000)
    clock.now += 600  # compiling, warming up
    for document in range(1, 4):
        clock.now += 10
        progress.update(1000, 1000 * math.log(20), document)
    assert "100 tokens/s, 0:10 left" in lines_of(console)[-1]


def test_one_long_document_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    console = plain_console()
    progress = Progress(console=console)
    progress.start_method("none", 1)
    for _ in range(100):
        clock.now += 1
        progress.update(10, 20.0, 0)
    assert len(lines_of(console)) == 1 + 3
    assert "left" not in lines_of(console)[-1]  # the number of tokens is not known


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "error")]
)
def test_leaving_early_ends_the_method(error: type[BaseException], status: str) -> None:
    console = plain_console()

    def breaks_off() -> None:
        with Progress(console=console) as progress:
            progress.start_method("none", 2)
            raise error

    with pytest.raises(error):
        breaks_off()
    assert lines_of(console)[-1].startswith(f"none: {status}, 0/2 documents, 0 tokens")


def test_quiet_shows_notes_alone() -> None:
    console = plain_console()
    with Progress(quiet=True, console=console) as progress:
        progress.start_method("none")
        progress.update(10, 20.0, 1)
        progress.end_method("complete")
        progress.note("[b]a note[/b] \x1b[31m")
    assert lines_of(console) == ["[b]a note[/b] \\x1b[31m"]


def test_the_live_display_has_a_line_a_method() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with Progress(3, 3000, console=console) as progress:
        for spec, status in (("none", "complete"), (ADAM, "oom")):
            progress.start_method(spec)
            for document in range(1, 4):
                progress.update(1000, 1000 * math.log(20), document)
            progress.end_method(status)
        progress.note("a note")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    final = text.splitlines()[-3:]
    assert all(len(line) <= 80 for line in final)
    none, adam = (line for line in final if "docs" in line)
    for line in (none, adam):
        assert "3/3 docs  3,000 tokens  ppl 20.00" in line
    assert none.startswith("none")
    assert adam.startswith("dynamic-")
    assert "oom" in adam
    assert "a note" in text


def test_update_needs_a_method() -> None:
    with pytest.raises(RuntimeError):
        Progress(console=plain_console()).update(1, 1.0, 0)
