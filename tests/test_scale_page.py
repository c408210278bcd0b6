"""docs/scale.md says what sharing costs as the published runs have it."""

from __future__ import annotations

import csv
import re
import tarfile
from datetime import datetime
from pathlib import Path

import pytest

from tta_bench.store import Run, find_runs, load_group

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")


def runs_of(group: str) -> dict[str, Run]:
    return {run.spec: run for run in load_group(find_runs(group, ROOT / "results", published=True))}


def run_of(group: str) -> Run:
    (run,) = load_group(find_runs(group, ROOT / "results", published=True))
    return run


@pytest.mark.parametrize(
    ("group", "row"),
    [("workers-none", "reading 655,360 tokens, without workers"), ("workers-1", "the same, ")],
)
def test_seconds_of_reading_are_among_those_of_the_page(group: str, row: str) -> None:
    run = run_of(group)
    assert sum(each.tokens for each in run.rows) == 655_360
    (line,) = [text for text in PAGE.splitlines() if text.startswith(f"| {row}")]
    assert f"{run.summary['seconds']:.1f}" in re.findall(r"\d+\.\d", line)


def test_two_workers_read_in_half_the_time() -> None:
    (line,) = [text for text in PAGE.splitlines() if text.startswith("| the same, ")]
    alone = [float(value) for value in re.findall(r"\d+\.\d", line)]
    longest = max(share["seconds"] for share in run_of("workers-2").summary["workers"])
    times = float(re.findall(r"reading alone ×(\d\.\d+)", PAGE)[0])
    assert sum(alone) / len(alone) / longest == pytest.approx(times, abs=0.03)


def test_the_losses_do_not_depend_on_the_workers() -> None:
    rows = [[(row.key, row.nll) for row in run_of(f"workers-{n}").rows] for n in ("1", "2")]
    assert rows[0] == rows[1]


def mean_nll(run: Run) -> float:
    return sum(row.nll for row in run.rows) / sum(row.tokens for row in run.rows)


def test_the_table_of_two_gpus() -> None:
    (table,) = re.findall(r"<!-- gpus -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    alone, shared = runs_of("gpus-1"), runs_of("gpus-2")
    expected = []
    for spec in ("none", "dynamic-eval:optimizer=sgd", "dynamic-eval"):
        shares = sorted(shared[spec].summary["workers"], key=lambda share: share["worker"])
        shares = [share for share in shares if share["documents"]]
        seconds = ", ".join(f"{share['seconds']:.1f}" for share in shares)
        documents = ", ".join(str(share["documents"]) for share in shares)
        apart = abs(mean_nll(alone[spec]) - mean_nll(shared[spec]))
        apart_text = f"{apart:.1e}" if apart else "0"
        one = f"{alone[spec].summary['seconds']:.1f}"
        expected.append(f"| `{spec}` | {one} | {seconds} | {documents} | {apart_text} |")
    assert [line for line in table.splitlines() if line.startswith("| `")] == expected


def test_two_gpus_take_half_the_time() -> None:
    took = []
    for group in ("gpus-1", "gpus-2"):
        runs = runs_of(group).values()
        times = [run.sessions[0]["started"] for run in runs] + [
            run.summary["ended"] for run in runs
        ]
        began, *_, ended = sorted(map(datetime.fromisoformat, times))
        took.append((ended - began).total_seconds())
    assert (
        f"{took[0]:.1f} s with one worker and {took[1]:.1f} s with two: ×{took[0] / took[1]:.2f}"
        in PAGE
    )
    busy = [0.0, 0.0]
    for run in runs_of("gpus-2").values():
        for share in run.summary["workers"]:
            busy[share["worker"]] += share["seconds"]
    assert f"{sum(busy):.1f} s in sum" in PAGE
    assert f"the longer half ended after {max(busy):.1f} s" in PAGE


def test_the_farthest_document_of_two_gpus() -> None:
    (bound,) = re.findall(r"by up to ([\d.]+) nats a token", PAGE)
    farthest = max(
        abs(one.nll - other.nll) / one.tokens
        for spec, run in runs_of("gpus-1").items()
        for one, other in zip(run.rows, runs_of("gpus-2")[spec].rows, strict=True)
    )
    assert f"{farthest:.4f}" == bound


def logged(training: str, archive: str = "h200") -> list[dict[str, float]]:
    """The rows of a training's log."""
    with tarfile.open(ROOT / f"results/training-logs/{archive}.tar.xz") as packed:
        file = packed.extractfile(f"{archive}/{training}/log.csv")
        assert file is not None
        lines = file.read().decode().splitlines()
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def speed(rows: list[dict[str, float]]) -> float:
    """Tokens a second from the second row to the last: none of these steps compiles."""
    first, last = rows[1], rows[-1]
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])


def test_training_on_two_gpus() -> None:
    one, two = logged("torchrun-1"), logged("torchrun-2")
    text = " ".join(PAGE.split())
    said = f"{speed(two) / 1e6:.2f} million tokens a second, one process {speed(one) / 1e6:.2f}"
    assert said in text
    assert f"×{speed(two) / speed(one):.2f} (goal 1.8)" in text
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two, strict=True))
    assert f"equal to {apart:.0e}".replace("e-0", "e-") in text
    few = speed(logged("torchrun-64-lanes-2")) / speed(logged("torchrun-64-lanes-1"))
    assert f"64 lanes it is ×{few:.2f}" in text
    before = speed(logged("torchrun-2", "heads")) / speed(logged("torchrun-1", "heads"))
    assert f"launched by Python, with the recipe's 64 lanes, it was ×{before:.2f}" in text
