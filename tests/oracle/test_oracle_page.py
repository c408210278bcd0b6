"""docs/oracle.md says what the streams are, and what the stored runs on them give."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from tta_bench.oracle.spec import NAMES, stream_of
from tta_bench.statistics.best_reader import grade_of
from tta_bench.statistics.paired import Estimate
from tta_bench.store import find_runs, load_group

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


@cache
def grades(group: str, seed: str = "") -> dict[tuple[str, str], Estimate]:
    """The share of each stream's gain that a method has, from stored rows."""
    stored = load_group(find_runs(group, ROOT / "results", published=True))
    assert all(run.summary["valid"] is True for run in stored)
    runs = {(run.spec, run.manifest["dataset"]["spec"]): run for run in stored}
    found = {}
    for method, dataset in runs:
        grade = grade_of(runs[method, dataset], runs["none", dataset])
        if grade is not None and grade.share is not None:
            stream = dataset.removeprefix("oracle:").removesuffix(seed)
            found[method, stream] = grade.share
    return found


def both_seeds() -> list[dict[tuple[str, str], float]]:
    groups = grades("oracle"), grades("oracle-seed-1", ":seed=1")
    return [{key: share.value for key, share in found.items()} for found in groups]


def test_the_shares_on_the_page_are_those_of_the_stored_runs() -> None:
    (table,) = re.findall(r"<!-- shares -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    found, lines = grades("oracle"), []
    methods = {method for method, _ in found}
    for method in sorted(methods, key=lambda m: -sum(found[m, name].value for name in NAMES)):
        cells = []
        for stream in NAMES:
            low, high = found[method, stream].interval or (0, 0)
            cells.append(f"{found[method, stream].value:.2f} ±{(high - low) / 2:.2f}")
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    assert [line for line in table.splitlines() if line.startswith("| `")] == lines


@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_found_holds_under_both_seeds(seed: int) -> None:
    found = both_seeds()[seed]
    chains, memories = ("markov-1", "markov-2", "tree"), ("neural-cache", "knn-lm")
    assert all(0.915 <= found["ngram", name] < 0.975 for name in chains)
    assert all(found[memory, name] < 0.775 for memory in memories for name in chains)
    assert all(found["knn-lm", name] > found["ngram", name] for name in ("unigram", "bursty"))
    for context in ("window:context=256", "streaming-llm"):
        assert all(found[context, name] < 0.15 for name in NAMES if name != "copy")
    lag = stream_of("oracle:copy").lag  # type: ignore[attr-defined]
    assert f"whose blocks come again after {lag} tokens" in " ".join(PAGE.split())
    assert 0.355 < found["streaming-llm", "copy"] < 0.365
    assert 0.045 < found["window:context=256", "copy"] < 0.065

    def kept(method: str) -> float:
        return found[method, "switching"] / found[method, "unigram"]

    assert kept("dynamic-eval:lr=0.0001") < 0.8
    assert 0.885 < kept("regression") < 0.925
    assert all(kept(method) > 1 for method in (*memories, "ngram"))


def test_the_front_page_gives_the_same_shares() -> None:
    found, chains = both_seeds()[0], ("markov-1", "markov-2", "tree")
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())

    def taken(method: str) -> str:
        values = [found[method, name] for name in chains]
        return f"{100 * min(values):.0f} % to {100 * max(values):.0f} %"

    assert f"`ngram` takes {taken('ngram')} of what there was to gain" in text
    assert f"dynamic evaluation {taken('dynamic-eval:lr=0.0001')}" in text


def test_seeds_differ_as_the_page_says() -> None:
    one, other = both_seeds()
    apart = {key: abs(one[key] - other[key]) for key in one}
    near = sum(value < 0.01 for value in apart.values())
    assert f"{near} of the {len(apart)} shares differ by less than 0.01" in " ".join(PAGE.split())
    assert max(apart.values()) < 0.035
    assert {method for method, _ in sorted(apart, key=lambda k: -apart[k])[:2]} == {"slot", "tint"}


def test_what_the_frozen_model_loses() -> None:
    stored = load_group(find_runs("oracle", ROOT / "results", published=True))
    lost = [
        sum(row.nll or 0 for row in run.rows) / sum(row.tokens for row in run.rows)
        for run in stored
        if run.spec == "none"
    ]
    assert f"loses {min(lost):.1f} to {max(lost):.1f} nats a token" in PAGE


def test_the_sentence_of_the_readme_is_what_the_rows_say() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found, chains = grades("oracle"), ("markov-1", "markov-2", "tree")

    def percent(method: str) -> list[int]:
        return sorted(round(100 * found[method, name].value) for name in chains)

    ngram, dynamic = percent("ngram"), percent("dynamic-eval:lr=0.0001")
    caches = max(percent("neural-cache") + percent("knn-lm"))
    assert f"on chains `ngram` takes {ngram[0]} % to {ngram[-1]} % of what there was" in readme
    most = int(re.findall(r"no cache more than (\d+) %", readme)[0])
    assert caches <= most <= caches + 1  # both seeds lie below
    assert f"dynamic evaluation {dynamic[0]} % to {dynamic[-1]} % (" in readme
