"""Presets of published benchmarks, on folders in the form that their data has."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from slow import slow

from tta_bench.errors import UsageError
from tta_bench.evaluation.manifest import run_manifest
from tta_bench.evaluation.plan import plan
from tta_bench.evaluation.recorded import recorded_suite
from tta_bench.evaluation.setting import open_setting
from tta_bench.evaluation.suite import load_suite
from tta_bench.metrics.quality import quality_of
from tta_bench.model.shape import load_shape
from tta_bench.store import load_run
from tta_bench.tables import summary_tables

PRESETS = ("pg19", "proof-pile", "govreport", "wikitext-103", "wikitext-2-gpt2")
BOOK = "It was the year of the long rain, and the river stood in every field.\n"
ARTICLE = " = River =\n \n The river is long , @,@ and it rains .\n \n"
QUICK = ("--model", "builtin:tiny", "--method", "none", "--json")


@pytest.fixture(autouse=True)
def _no_cache_at_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))


def books(home: Path) -> str:
    """The layout of the authors' bucket: metadata beside folders of numbered books."""
    (home / "pg19/test").mkdir(parents=True)
    (home / "pg19/metadata.csv").write_text("10,The Rain by A. Pen,1880,http://example.org/10\n")
    for number in (10, 11, 12):
        (home / f"pg19/test/{number}.txt").write_text(BOOK * (number - 8))
    return "pg19/test"


def lines_of(file: Path, rows: list[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def papers(home: Path) -> str:
    meta = '{"config": "arxiv", "file": "math/1.gz"}'
    lines_of(home / "proof/proofpile_test.jsonl", [{"text": BOOK * 4, "meta": meta}] * 2)
    return "proof"


def reports(home: Path) -> str:
    row = {"id": "crs_1", "pid": "crs_1_0", "input": BOOK * 4, "output": "It rained."}
    lines_of(home / "gov_report/test.jsonl", [row, {**row, "id": "crs_2", "pid": "crs_2_0"}])
    return "gov_report/test.jsonl"


def articles(home: Path) -> str:
    """The hub's dataset of whole articles."""
    for split in ("train", "validation", "test"):
        file = home / f"wiki/data/{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"page": [ARTICLE * 9, ARTICLE * 6]}), file)
    return "hf:wiki::test"


SHORT = ("--min-tokens", 0, "--max-tokens", 120)
FORMS = {
    "pg19": (books, ("--max-tokens", 120)),
    "proof-pile": (papers, SHORT),
    "govreport": (reports, (*SHORT, "--context", 700)),
    "wikitext-103": (articles, ("--max-tokens", 120)),
    "wikitext-2-gpt2": (articles, ("--window", 64)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_reads_a_local_folder_of_its_form(name, tmp_path, tta_bench):
    make, less = FORMS[name]
    words = ("--suite", name, "--dataset", make(tmp_path), *less, *QUICK)
    done = tta_bench("plan", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (job,) = json.loads(done.stdout)["jobs"]
    assert job["documents"] == {"pg19": 3, "wikitext-2-gpt2": 1}.get(name, 2)
    assert 64 <= job["tokens"] < 500


@slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs_on_it(name, tmp_path, tta_bench):
    make, less = FORMS[name]
    words = ("--suite", name, "--dataset", make(tmp_path), *less, *QUICK)
    done = tta_bench("eval", *words, "--audit", "off", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["status"] == "complete"
    # In none of these is the text that was counted: no published count may stand for it.
    assert "words" not in load_run(tmp_path / row["run"]).manifest["dataset"]


def test_where_the_hub_is_out_of_reach_one_sentence_says_what_to_give(
    tmp_path, tta_bench, monkeypatch
):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    done = tta_bench("plan", "--suite", "pg19", cwd=tmp_path)
    assert done.returncode == 2
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    for name in PRESETS:
        advice = load_suite(name).elsewhere
        assert re.fullmatch(r"fetch [^.].* give --dataset \S.*\.", advice)
        assert sentence.endswith(f"the Hugging Face Hub cannot be reached: {advice}") is (
            name == "pg19"
        )


def test_the_windows_of_yarn():
    """Steps of 256, each token behind all of its document or at least 32,511 tokens and BOS."""
    protocol = load_suite("govreport").resolved_protocol()
    spans = list(protocol.plan(40_001))
    assert sum(span.scored for span in spans) == 40_000
    for span in spans:
        assert span.scored <= 256
        assert span.start == 0 or span.stop - span.start - span.scored == 32_511
    suite = load_suite("proof-pile")
    protocol = suite.resolved_protocol()
    assert suite.max_tokens + 1 == protocol.context + protocol.chunk  # so that no key is evicted


# Published counts of words

WORDS = len((BOOK * 9).split())
SUITE = f"""
datasets: pg19/test
protocol: {{chunk: 64}}
words:
  - {{documents: 3, words: {round(1.09 * WORDS)}, source: "another part"}}
  - {{documents: 3, words: {WORDS - 1}, source: "its README"}}
  - {{documents: 2, words: {WORDS - 1}, source: "two books"}}
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite with published counts of the books, of which one is right."""
    books(tmp_path)
    (tmp_path / "mine.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return load_suite("mine.yaml")


@pytest.fixture(scope="module")
def shape():
    return load_shape("builtin:tiny", "auto", "auto")


def manifest_of(suite, shape):
    (job,) = plan(suite)
    return run_manifest(open_setting(job.setting, shape), job.method.choice())


def test_whole_documents_are_held_against_the_published_count(suite, tmp_path, tta_bench):
    done = tta_bench("eval", "--suite", "mine.yaml", *QUICK, "--audit", "off", cwd=tmp_path)
    run = load_run(tmp_path / json.loads(done.stdout)["rows"][0]["run"])
    dataset = run.manifest["dataset"]
    assert (dataset["words"], dataset["words_source"]) == (WORDS - 1, "its README")
    found = quality_of(run)
    assert found.word_perplexity == math.exp(found.nll / (WORDS - 1))
    (table,) = summary_tables([run])
    assert "word_perplexity" in [column.key for column in table.shown]
    assert any(f"over {WORDS - 1} words as published (its README)" in note for note in table.notes)
    # Some of the documents, or of their tokens, are not what was counted.
    first, *others = run.rows
    for part in (others, [replace(first, status="oom"), *others], [replace(first, words=0)]):
        less = replace(run, rows=tuple(part))
        assert less.published_words is None
        assert (quality_of(less).words or 0) < WORDS - 1
        (table,) = summary_tables([less])
        assert not any("as published (" in note for note in table.notes)
    for words in ("many", -1, True, None):  # a manifest is a file: it may hold anything
        other = {**run.manifest, "dataset": {**dataset, "words": words}}
        assert replace(run, manifest=other).published_words is None


def test_a_part_of_the_documents_has_no_published_count(suite, shape):
    whole = manifest_of(suite, shape)
    assert whole["dataset"]["words"] == WORDS - 1
    for limit in ({"limit": 2}, {"limit": 3}, {"max_tokens": 40}, {"min_tokens": 1}):
        assert "words" not in manifest_of(replace(suite, **limit), shape)["dataset"]
    counts = [replace(count, words=2 * count.words) for count in suite.words]
    assert "words" not in manifest_of(replace(suite, words=counts), shape)["dataset"]


def test_the_count_is_kept_for_a_repetition_and_no_part_of_the_key(suite, shape):
    manifest = manifest_of(suite, shape)
    assert recorded_suite(manifest, "it").words == suite.words
    assert manifest_of(replace(suite, words=[]), shape)["key"] == manifest["key"]


def test_an_impossible_count_names_its_line(tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "datasets: a.txt\nwords: {documents: 1, words: 0, source: x}"
    )
    with pytest.raises(UsageError, match="line 2: documents and words must be at least 1"):
        load_suite(str(tmp_path / "bad.yaml"))


def test_the_page_has_every_preset_with_its_data_and_counts():
    page = (Path(__file__).parents[2] / "docs/presets.md").read_text(encoding="utf-8")
    for name in PRESETS:
        suite = load_suite(name)
        assert f"| `{name}` | `{suite.datasets[0]}`" in page
        assert all(f"{count.words:,}" in page for count in suite.words)
