"""docs/drift.md says what the stored runs on streams give, and what was found in them."""

from __future__ import annotations

import re
from math import exp
from pathlib import Path

import pytest

from tta_bench.metrics.drift import DRIFT
from tta_bench.statistics.drift import (
    BLOCKS,
    FIRST_TOKENS,
    LEAST_DOCUMENTS,
    Drift,
    Gained,
    drift_of,
)
from tta_bench.store import Run, find_runs, load_group
from tta_bench.store.fresh import fresh_pair

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/drift.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def perplexity(run: Run) -> float:
    return exp(sum(row.nll or 0 for row in run.rows) / sum(row.tokens for row in run.rows))


@pytest.fixture(scope="module")
def streams() -> dict[str, dict[str, tuple[Run, Run, Drift]]]:
    """Run, fresh run and drift of each method, on messages and on the sequence."""
    found: dict[str, dict[str, tuple[Run, Run, Drift]]] = {"messages": {}, "sequence": {}}
    for run in load_group(find_runs("drift-tiny", ROOT / "results", published=True)):
        assert run.summary["valid"] is True
        drift, fresh = drift_of(run), fresh_pair(run)
        if drift is not None:
            assert fresh is not None
            dataset = run.manifest["dataset"]["spec"]
            name = "sequence" if dataset.startswith("sequence:") else "messages"
            found[name][run.spec] = run, fresh, drift
    return found


def shown(gain: Gained) -> str:
    """A gain with half its interval, where there is one."""
    assert gain.estimate is not None
    value, interval = gain.estimate.value, gain.estimate.interval
    return f"{value:+.3f}" + (
        "" if interval is None else f" ±{(interval[1] - interval[0]) / 2:.3f}"
    )


def line(method: str, run: Run, fresh: Run, drift: Drift) -> str:
    """A row of a table on the page."""
    assert drift.forward is not None
    assert drift.retained is not None
    cells = [f"{perplexity(fresh):.2f}", f"{perplexity(run):.2f}", shown(drift.forward)]
    cells.append(f"{drift.retained.gains[-1]:+.3f}")
    if drift.returned.rows:
        assert drift.returned_fresh is not None
        cells += [shown(drift.returned), shown(drift.returned_fresh)]
    return f"| `{method}` | {' | '.join(cells)} |"


@pytest.mark.parametrize("name", ["messages", "sequence"])
def test_the_tables_are_what_the_rows_give(
    name: str, streams: dict[str, dict[str, tuple[Run, Run, Drift]]]
) -> None:
    (table,) = re.findall(rf"<!-- drift {name} -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    expected = [line(method, *of) for method, of in streams[name].items()]
    assert [text for text in table.splitlines() if text.startswith("| `")] == expected


def test_numbers_of_the_protocol_are_those_of_the_code() -> None:
    assert f"the first {FIRST_TOKENS:,} tokens of the dataset's first document" in TEXT
    assert f"**{BLOCKS} blocks of consecutive documents**" in TEXT
    assert f"It needs {LEAST_DOCUMENTS} documents" in TEXT
    names = {metric.name for metric in DRIFT if "_ci95_" not in metric.name}
    assert names == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) & names
    assert len(names) == 4


DYNAMIC, LEARNERS = "dynamic-eval:lr=0.0001", ("dynamic-eval:lr=0.0001", "regression")
FROZEN, CONTEXTS = ("none", "fwl:weights=control"), ("window:context=256", "streaming-llm")


def forward(drift: Drift, part: str = "") -> float:
    """Forward transfer on the documents of one part of the stream, nats per token."""
    assert drift.forward is not None
    each = zip(drift.forward.rows, drift.forward.sums, drift.forward.sizes, strict=True)
    found = [(gain, size) for row, gain, size in each if row.key.startswith(part)]
    return sum(gain for gain, _ in found) / sum(size for _, size in found)


def interval(gain: Gained) -> tuple[float, float]:
    assert gain.estimate is not None
    assert gain.estimate.interval is not None
    return gain.estimate.interval


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def test_what_was_found_on_the_sequence(
    streams: dict[str, dict[str, tuple[Run, Run, Drift]]],
) -> None:
    drifts = {method: drift for method, (_, _, drift) in streams["sequence"].items()}
    for method, drift in drifts.items():
        low, high = interval(drift.returned)
        assert (low > 0) == (method in LEARNERS)
        assert method in LEARNERS or (low <= 0 <= high and abs(low + high) / 2 < 0.004)
    dynamic, regression = (drifts[method] for method in LEARNERS)
    values = [each.returned.estimate.value for each in (dynamic, regression)]  # type: ignore[union-attr]
    told = "dynamic evaluation reads the code {:.2f} nats per token better than at first, and"
    assert told.format(values[0]) + f" `regression` {values[1]:.2f}." in TEXT
    books = [signed(forward(each, "2/")) for each in (dynamic, regression)]
    assert f"is {books[0]} for dynamic evaluation and {books[1]} for `regression`" in TEXT
    manuals = [signed(forward(each, "3/")) for each in (dynamic, regression)]
    assert f"On the manuals after them it is {manuals[0]} and {manuals[1]}." in TEXT
    count = dict.fromkeys("1234", 0)
    for row in streams["sequence"]["none"][0].rows:
        count[row.key[0]] += 1
    assert count == {"1": 48, "2": 2, "3": 48, "4": 48}


def test_what_was_found_on_the_messages(
    streams: dict[str, dict[str, tuple[Run, Run, Drift]]],
) -> None:
    drifts = {method: drift for method, (_, _, drift) in streams["messages"].items()}
    for method, drift in drifts.items():
        assert drift.forward is not None
        if method not in FROZEN:
            assert min(drift.forward.sums) > 0
            assert interval(drift.forward)[0] > 0
    assert f"each of the {len(drifts['none'].forward.rows)} after the first begins better" in TEXT  # type: ignore[union-attr]
    named = ("regression", "ngram", "fwl", "neural-cache")
    gains = ", ".join(f"`{method}` {forward(drifts[method]):.2f}" for method in named)
    assert f"Dynamic evaluation gains {forward(drifts[DYNAMIC]):.2f}, {gains}" in TEXT
    contexts = [f"{forward(drifts[method]):.2f}" for method in CONTEXTS]
    assert f"a longer context {contexts[0]} to {contexts[1]}." in TEXT

    kept = {method: drift.retained.gains for method, drift in drifts.items()}  # type: ignore[union-attr]
    for method in LEARNERS:
        assert kept[method][-1] == min(kept[method])
    price = {method: f"{-gains[-1]:.2f}" for method, gains in kept.items()}
    told = f"{price[DYNAMIC]} nats per token more than a fresh method and `regression` "
    assert told + price["regression"] in TEXT
    assert f"any message before; `ngram` {price['ngram']}, and" in TEXT
    assert all(-kept[method][-1] < 0.04 for method in ("fwl", "neural-cache"))
    assert f"it is {price[CONTEXTS[0]]} and {price[CONTEXTS[1]]}." in TEXT


def test_all_messages_on_a_gpu() -> None:
    """Without losses there is no forward transfer; what was read fresh stands beside the stream."""
    runs = {}
    for run in load_group(find_runs("drift", ROOT / "results", published=True)):
        assert run.summary["valid"] is True
        if not run.manifest["dataset"]["spec"].startswith("sequence:"):
            runs[run.manifest["protocol"]["reset"], run.spec] = run
    expected = []
    for method in [spec for reset, spec in runs if reset == "never"]:
        stream, fresh = runs["never", method], runs.get(("document", method))
        drift = drift_of(stream)
        assert drift is not None
        assert drift.retained is not None
        alone = "—" if fresh is None else f"{perplexity(fresh):.2f}"
        kept = drift.retained.fresh - drift.retained.after[-1][1]
        expected.append(f"| `{method}` | {alone} | {perplexity(stream):.2f} | {kept:+.3f} |")
    (table,) = re.findall(r"<!-- drift all messages -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert [row for row in table.splitlines() if row.startswith("| `")] == expected
