"""docs/oracle.md says what the streams are, and what the stored runs on them give."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tta_bench.oracle.spec import NAMES, stream_of
from tta_bench.statistics.best_reader import grade_of
from tta_bench.statistics.paired import Estimate
from tta_bench.store import find_runs, load_group

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/oracle.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
SMOLLM2 = "oracle-smollm2"
CHAINS, CACHES = ("markov-1", "markov-2", "tree"), ("neural-cache", "knn-lm")
DYNAMIC = "dynamic-eval:lr=0.0001"
CONTEXTS = ("window:context=1024", "streaming-llm:recent=1020")


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


@pytest.mark.parametrize(("mark", "group"), [("shares", "oracle"), ("shares-smollm2", SMOLLM2)])
def test_the_shares_on_the_page_are_those_of_the_stored_runs(mark: str, group: str) -> None:
    (table,) = re.findall(rf"<!-- {mark} -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    found, lines = grades(group), []
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


def each_token(group: str, column: str) -> dict[tuple[str, str], float]:
    """By method and stream, the mean of a column of the rows over tokens."""
    found = {}
    for run in load_group(find_runs(group, ROOT / "results", published=True)):
        stream = run.manifest["dataset"]["spec"].removeprefix("oracle:")
        total = sum(getattr(row, column) or 0 for row in run.rows)
        found[run.spec, stream] = total / sum(row.tokens for row in run.rows)
    return found


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ("oracle", "The frozen model loses {} nats a token here"),
        (SMOLLM2, "The frozen model does not find the alphabet in its context: it loses {} nats"),
    ],
)
def test_what_the_frozen_model_loses(group: str, sentence: str) -> None:
    lost = [nll for (method, _), nll in each_token(group, "nll").items() if method == "none"]
    assert sentence.format(f"{min(lost):.1f} to {max(lost):.1f}") in TEXT


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


def percent(values: Iterable[float]) -> str:
    low, *_, high = sorted(values)
    return f"{100 * low:.0f} % to {100 * high:.0f} %"


def of_smollm2() -> dict[tuple[str, str], float]:
    return {key: share.value for key, share in grades(SMOLLM2).items()}


def test_what_was_run_on_smollm2() -> None:
    stored, tiny = (
        load_group(find_runs(group, ROOT / "results", published=True))
        for group in (SMOLLM2, "oracle")
    )
    assert f"All {len(stored)} runs are valid." in PAGE  # `grades` asserts that they are
    (words,) = {run.manifest["dataset"]["vocabulary"] for run in stored}
    (few,) = {run.manifest["dataset"]["vocabulary"] for run in tiny}
    assert f"of which {words:,} can be drawn ({few:,} of `builtin:tiny`)" in TEXT
    assert {row.tokens for run in stored for row in run.rows} == {65_536}
    assert all(len(run.rows) == 8 for run in stored)
    for group, steps in ((stored, 64), (tiny, 16)):
        chunks = {
            row.tokens // run.manifest["protocol"]["chunk"] for run in group for row in run.rows
        }
        assert chunks == {steps}
        assert f"in {steps} steps" in TEXT
    (command,) = re.findall(rf"^tta-bench eval .* --name {SMOLLM2} (.*)$", PAGE, re.MULTILINE)
    named = {spec.replace("1e-4", "0.0001") for spec in re.findall(r"--method (\S+)", command)}
    assert named == {run.spec for run in stored}
    remembers = {run.spec: run.manifest["method"]["params"].get("window") for run in stored}
    assert {remembers[cache] for cache in CACHES} == {2048}
    assert remembers["ngram"] == 4096
    grown = [
        abs(grade.share_learning.value - grade.share.value)
        for run in stored
        for other in stored
        if other.spec == "none" and run.spec != "none"
        if other.manifest["dataset"]["spec"] == run.manifest["dataset"]["spec"]
        if (grade := grade_of(run, other)) and grade.share and grade.share_learning
    ]
    assert len(grown) == len(NAMES) * 8
    assert 0.005 < max(grown) < 0.006


def test_what_smollm2_takes_of_the_gain() -> None:
    found, tiny = of_smollm2(), both_seeds()[0]
    dynamic = percent(found[DYNAMIC, name] for name in NAMES)
    assert f"Dynamic evaluation takes {dynamic} on every stream" in TEXT
    before = percent(tiny[DYNAMIC, name] for name in NAMES)
    assert f"in 16 steps, it takes {before}." in TEXT
    best, second = sorted((found[m, "copy"], m) for m, name in found if name == "copy")[:-3:-1]
    assert best[1] == DYNAMIC
    assert best[0] - second[0] > 0.1
    caches = [found[cache, name] for cache in CACHES for name in CHAINS]
    assert f"both caches, which take {percent(caches)}, and behind `ngram`" in TEXT
    for name in CHAINS:
        beside = max(found[cache, name] for cache in CACHES)
        assert beside < found[DYNAMIC, name] < found["ngram", name]

    chains = percent(found["ngram", name] for name in CHAINS)
    assert f"It takes {chains} of `markov-1`, `markov-2` and `tree`" in TEXT
    for name in set(NAMES) - set(CHAINS):
        assert f"{100 * found['ngram', name]:.0f} % of `{name}`" in TEXT
        assert found["ngram", name] < 0.82
    assert max((found[m, name], m) for m, name in found if name == "switching")[1] == "ngram"
    ahead = {name for name in NAMES if found["knn-lm", name] > found["ngram", name]}
    assert ahead == {"bursty", "recall", "nothing"}
    assert ahead | {"unigram", "copy"} == {
        name for name in NAMES if tiny["knn-lm", name] > tiny["ngram", name]
    }

    taken = [found["regression", name] for name in NAMES]
    assert f"takes {percent(taken)}, less than with the tiny model on every stream" in TEXT
    assert all(found["regression", name] < tiny["regression", name] for name in NAMES)
    lost = {m: 1 - found[m, "switching"] / found[m, "unigram"] for m, _ in found}
    assert f"dynamic evaluation loses {100 * lost[DYNAMIC]:.0f} % of its share" in TEXT
    others = f"`neural-cache` {100 * lost['neural-cache']:.0f} %, `knn-lm` "
    others += f"{100 * lost['knn-lm']:.0f} % and `ngram` {100 * lost['ngram']:.0f} %."
    assert others in TEXT
    assert lost["regression"] < 0
    gaining = {m: share for m, share in lost.items() if m not in CONTEXTS}
    assert max(gaining, key=gaining.__getitem__) == DYNAMIC


def test_more_context_does_harm_to_smollm2() -> None:
    found, lost = grades(SMOLLM2), each_token(SMOLLM2, "nll")
    below: list[set[str]] = []
    for context in CONTEXTS:
        shares = {name: found[context, name] for name in NAMES}
        assert all(share.value < 0 for share in shares.values())
        below.append({name for name, share in shares.items() if (share.interval or (0, 0))[1] < 0})
    assert below[0] == {"unigram", "tree", "switching", "recall"}
    assert below[1] - below[0] == {"markov-2", "nothing"}
    assert below[0] < below[1]
    guess = math.log(48_821)
    above = sum(lost["none", name] > guess for name in NAMES)
    assert above == 5
    assert (
        f"on five of nine streams more than a uniform guess among the 48,821 ({guess:.1f})" in TEXT
    )
    assert 1024 % (2 * stream_of("oracle:copy").lag) == 0  # type: ignore[attr-defined]


def test_no_method_reaches_what_nothing_leaves() -> None:
    lost = {m: nll for (m, name), nll in each_token(SMOLLM2, "nll").items() if name == "nothing"}
    first, second, *_ = sorted(lost, key=lost.__getitem__)
    floor = stream_of("oracle:nothing").uniform
    sentence = f"where ln V is {floor:.2f} nats, `{first}` comes nearest with {lost[first]:.2f}, "
    sentence += (
        f"then dynamic evaluation with {lost[second]:.2f}; `ngram` loses {lost['ngram']:.2f}"
    )
    assert sentence in TEXT
    assert second == DYNAMIC
    assert min(lost.values()) > floor


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        (
            "recall",
            "so at least {least[dynamic]} % of the answers are exact; `ngram` has at most "
            "{most[ngram]} %, the rest at most {most[rest]} %.",
        ),
        (
            "copy",
            "it has at least {least[dynamic]} % exact, `ngram` at least {least[ngram]} %, "
            "the rest at most {most[rest]} %.",
        ),
    ],
)
def test_exact_answers_of_smollm2_within_bounds(name: str, sentences: str) -> None:
    """Rows count exact tokens; what the best reader could guess beside the answers bounds them."""
    stream = stream_of(f"oracle:{name}")
    answer = stream.lags(0, 65_536) > 0
    certain = np.exp(-stream.losses(np.zeros((1, 65_536), np.int64))[0])
    exact = {m: hits for (m, at), hits in each_token(SMOLLM2, "top1").items() if at == name}
    guessed, asked = float(certain[~answer].mean()), float(answer.mean())
    if name == "recall":
        assert f"has {100 * exact[DYNAMIC]:.1f} % of the tokens of `recall` exact." in TEXT
        assert f"of the others the best reader could guess {100 * guessed:.1f} %" in TEXT
        assert abs(asked - 1 / 6) < 0.001

    def least(method: str) -> int:
        return math.floor(100 * (exact[method] - guessed * (1 - asked)) / asked)

    def most(method: str) -> int:
        return math.ceil(100 * exact[method] / asked)

    rest = max(most(method) for method in exact if method not in (DYNAMIC, "ngram"))
    low = {"dynamic": least(DYNAMIC), "ngram": least("ngram")}
    assert sentences.format(least=low, most={"ngram": most("ngram"), "rest": rest}) in TEXT
