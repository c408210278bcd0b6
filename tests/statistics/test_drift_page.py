"""docs/drift.md says what the stored runs on streams give, and what was found in them."""

from __future__ import annotations

import re
from math import exp
from pathlib import Path

import pytest

from tta_bench.metrics.drift import DRIFT
from tta_bench.statistics.drift import BLOCKS, FIRST_TOKENS, LEAST_DOCUMENTS, Drift, drift_of
from tta_bench.store import Run, load_group
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
    for run in load_group(ROOT / "results" / "drift-tiny"):
        assert run.summary["valid"] is True
        drift, fresh = drift_of(run), fresh_pair(run)
        if drift is not None:
            assert fresh is not None
            dataset = run.manifest["dataset"]["spec"]
            name = "sequence" if dataset.startswith("sequence:") else "messages"
            found[name][run.spec] = run, fresh, drift
    return found


def line(method: str, run: Run, fresh: Run, drift: Drift) -> str:
    """A row of a table on the page."""
    assert drift.forward is not None
    assert drift.retained is not None
    assert drift.forward.estimate is not None
    assert drift.forward.estimate.interval is None
    gains = [drift.forward.estimate, drift.returned.estimate]
    gains.append(None if drift.returned_fresh is None else drift.returned_fresh.estimate)
    cells = [f"{perplexity(fresh):.2f}", f"{perplexity(run):.2f}"]
    values = [None if gain is None else gain.value for gain in gains]
    values.insert(1, drift.retained.gains[-1])
    cells += [f"{value:+.3f}" for value in values if value is not None]
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


def test_what_was_found_on_the_sequence(
    streams: dict[str, dict[str, tuple[Run, Run, Drift]]],
) -> None:
    drifts = {method: drift for method, (_, _, drift) in streams["sequence"].items()}

    def books(method: str) -> str:
        forward = drifts[method].forward
        assert forward is not None
        each = zip(forward.rows, forward.sums, forward.sizes, strict=True)
        found = [f"{gain / size:+.2f}" for row, gain, size in each if row.key.startswith("2/")]
        return " and ".join(found).replace("-", "−")

    def back(method: str) -> str:
        estimate = drifts[method].returned.estimate
        assert estimate is not None
        return f"{estimate.value:.2f}"

    dynamic = "dynamic-eval:lr=0.0001"
    assert f"forward transfer on the two is {books(dynamic)} for dynamic evaluation" in TEXT
    assert f"{books('regression')} for `regression`" in TEXT
    assert f"dynamic evaluation reads the code {back(dynamic)} nats per token better" in TEXT
    others = ", ".join(f"`{name}` {back(name)}" for name in ("regression", "fwl", "neural-cache"))
    assert others in TEXT


def test_what_was_found_on_the_messages(
    streams: dict[str, dict[str, tuple[Run, Run, Drift]]],
) -> None:
    def kept(method: str) -> list[float]:
        retained = streams["messages"][method][2].retained
        assert retained is not None
        return retained.gains

    dynamic, regression = kept("dynamic-eval:lr=0.0001"), kept("regression")
    worst = min(dynamic)
    place = dynamic.index(worst) + 1
    told = f"{worst:.2f} after message {place} and {dynamic[-1]:.2f} at the end"
    assert told.replace("-", "−") in TEXT
    share = regression[2] / regression[-1]
    assert f"{100 * share:.0f} % of what `regression` loses is lost after three messages" in TEXT
    for method in ("fwl", "neural-cache"):
        assert max(map(abs, kept(method))) < 0.03
    for method, (run, fresh, drift) in streams["messages"].items():
        assert drift.forward is not None
        assert (perplexity(run) < perplexity(fresh)) == (method != "none")
        after_one = drift.forward.sums[0] / drift.forward.sizes[0]
        assert drift.forward.estimate is not None
        if method != "none":
            assert min(drift.forward.sums) > 0
            assert after_one > 0.5 * drift.forward.estimate.value
        assert f"each of the {len(drift.forward.rows)} after the first begins better" in TEXT
