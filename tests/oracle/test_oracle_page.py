"""docs/oracle.md says what the streams are, and what the stored runs on them give."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from tta_bench.oracle.spec import NAMES, stream_of
from tta_bench.statistics.best_reader import grade_of
from tta_bench.store import load_group

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/oracle.md").read_text(encoding="utf-8")


def test_every_option_and_its_default_is_on_the_page() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| (`\w+=.*`) \| [^|]* \|$", PAGE, re.MULTILINE)
    shown = {name.replace("-K", "-2"): re.findall(r"`(\w+)=([\d.]+)`", cell) for name, cell in rows}
    assert set(shown) == set(NAMES) - {"markov-1"}
    for name, options in shown.items():
        stream = stream_of(f"oracle:{name}")
        known = {field.name for field in fields(stream)} - {"seed"}
        if name != "switching":
            known -= {"order"}  # it is in the name
        assert {option for option, _ in options} == known, name
        for option, value in options:
            assert float(value) == getattr(stream, option), (name, option)


def shares(group: Path) -> list[str]:
    """A line for each method: its share of each stream's gain, from stored rows."""
    runs = {(run.spec, run.manifest["dataset"]["spec"]): run for run in load_group(group)}
    lines = []
    for method in dict.fromkeys(spec for spec, _ in runs):
        cells = []
        for stream in NAMES:
            mine, none = (runs[spec, f"oracle:{stream}"] for spec in (method, "none"))
            grade = grade_of(mine, none)
            assert mine.summary["valid"] is True
            assert grade is not None
            if grade.share is None or grade.share.interval is None:
                continue
            low, high = grade.share.interval
            cells.append(f"{grade.share.value:.2f} ±{(high - low) / 2:.2f}")
        if cells:
            lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return lines


def test_the_shares_on_the_page_are_those_of_the_stored_runs() -> None:
    (table,) = re.findall(r"<!-- shares -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert [line for line in table.splitlines() if line.startswith("| `")] == shares(
        ROOT / "results" / "oracle-tiny"
    )
