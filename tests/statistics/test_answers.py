"""Answers by lag, from stored rows whose losses are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracle_runs import LENGTH, VOCABULARY, store_oracle_run
from stored_runs import COSTS, make_manifest, make_row, store_run

from tta_bench.documents.document import Asked
from tta_bench.errors import BenchError
from tta_bench.metrics import named
from tta_bench.oracle.best import best_readers
from tta_bench.oracle.name import control_of
from tta_bench.oracle.spec import NAMES, stream_of
from tta_bench.report.recall import recall_figures, recall_tables
from tta_bench.statistics.answers import asks, recalled, recalled_by_lag
from tta_bench.store import Run, RunWriter, load_run

RECALL = "oracle:recall:pairs=9,gap=5"


@pytest.mark.parametrize("spec", [RECALL, "oracle:copy:lag=7"])
def test_an_answer_is_what_stood_so_many_symbols_before(spec: str) -> None:
    stream = stream_of(spec)
    for number in range(3):
        symbols, lags = stream.draw(number, 200), stream.lags(number, 200)
        places = np.flatnonzero(lags)
        assert len(places) > 30
        np.testing.assert_array_equal(symbols[places], symbols[places - lags[places]])
        assert not stream.losses(symbols[None])[0][places].any()
        np.testing.assert_array_equal(stream.lags(number, 90), lags[:90])
        if spec == RECALL:  # behind the same key, once in each episode
            np.testing.assert_array_equal(symbols[places - 1], symbols[places - lags[places] - 1])
            assert len(np.unique(places - lags[places])) == len(places)
    asking = {name for name in NAMES if stream_of(f"oracle:{name}").asks}
    assert asking == {"copy", "recall"}


@pytest.mark.parametrize("left_out", [0, 1])
def test_only_answers_of_a_stream_count(tmp_path: Path, left_out: int) -> None:
    lags = [one.lags for one in best_readers(RECALL, 3, LENGTH, VOCABULARY)]

    def lose(index: int, known: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.where(lags[index] > 0, lags[index] / 8, 9.0)

    run = store_oracle_run(tmp_path, "none", lose, dataset=RECALL, left_out=left_out)
    asked = np.concatenate([one[one > 0] for one in lags])
    whole = recalled(run)
    assert whole is not None
    assert whole.tokens == len(asked)
    assert whole.nll.value == pytest.approx(asked.mean() / 8)
    assert whole.exact is whole.gained is None, "neither bits nor controls"
    by_lag = recalled_by_lag(run)
    assert [one.low for one in by_lag] == [4, 8, 16, 32]
    for one in by_lag:
        inside = asked[(one.low <= asked) & (asked < one.high)]
        assert one.tokens == len(inside)
        assert one.nll.value == pytest.approx(inside.mean() / 8)


def store_planted(group: Path, spec: str = "none", controls: int = 2, asked: bool = True) -> Run:
    """Two texts that ask for two answers each, 10 and 40 tokens after they were told.

    Told, an answer costs its lag / 20 nats a token, else 8; its first token is exact where told.
    """
    dataset = {"spec": "planted:builtin:stdlib", "fingerprint": "f00d", "documents": 4}
    answers = ((20, 23, 10), (60, 62, 40))
    with RunWriter.create(group, make_manifest(spec, dataset=dataset)) as writer:
        for index in range(4):
            told, text = index % 2 == 0, index // 2
            if not told and text >= controls:
                continue
            nll, top1 = np.full(100, 1.0, np.float32), np.ones(100, bool)
            for start, stop, lag in answers:
                nll[start:stop] = lag / 20 if told else 8.0
                top1[start:stop] = told & (np.arange(stop - start) == 0)
            key = f"text{text}"
            row = make_row(
                index,
                key=key if told else control_of(key),
                tokens=100,
                sha256=f"{text:064x}",
                asked=Asked(told, answers) if asked else None,
            )
            writer.append(row, nll, top1)
        writer.finish({"status": "complete", "reason": None, **COSTS})
    return load_run(writer.path)


def test_planted_answers_are_held_against_their_controls(tmp_path: Path) -> None:
    near, far = recalled_by_lag(store_planted(tmp_path))
    assert (near.low, near.tokens, far.low, far.tokens) == (8, 6, 32, 4)
    assert (near.nll.value, far.nll.value) == (0.5, 2.0)
    assert near.exact is not None
    assert near.exact.value == pytest.approx(1 / 3)
    assert near.control is not None
    assert near.control.value == 8.0
    assert near.control_exact is not None
    assert near.control_exact.value == 0.0
    assert far.gained is not None
    assert (far.gained.value, far.gained.documents) == (6.0, 2), "a text and its control are one"


def test_without_all_controls_there_is_no_gain(tmp_path: Path) -> None:
    near, _ = recalled_by_lag(store_planted(tmp_path, controls=1))
    assert near.nll.value == 0.5
    assert near.control is near.gained is None


def test_what_is_not_known_is_a_sentence(tmp_path: Path) -> None:
    run = store_planted(tmp_path / "unplaced", asked=False)
    with pytest.raises(BenchError, match="answers have no place"):
        recalled(run)
    (metric,) = named(["answer_nll"])
    assert metric.of(run, None) is None
    assert "answers have no place" in str(metric.note(run))
    texts = store_run(tmp_path / "texts")
    assert not asks(texts)
    assert metric.of(texts, None) is None
    assert "alone ask for any" in str(metric.note(texts))
    assert recall_tables([texts]) == ([], [])
    missing = replace(store_planted(tmp_path / "unpublished"), path=tmp_path)
    assert recall_tables([missing])[0] == []
    assert "not published" in recall_tables([missing])[1][0]


def test_tables_and_figures_have_a_column_for_each_doubling(tmp_path: Path) -> None:
    runs = [store_planted(tmp_path, "none"), store_planted(tmp_path, "ngram")]
    tables, _ = recall_tables(runs)
    assert [table.rows[1]["of"] for table in tables] == ["nll", "exact", "gained"]
    cells = [[c.show(table.rows[0]) for c in table.columns if c.title] for table in tables]
    assert [[cell.replace("\u200b", "") for cell in row] for row in cells] == [
        ["none", "0.50 (8.00)", "2.00 (8.00)"],
        ["none", "0.33 (0.00)", "0.50 (0.00)"],
        ["none", "+7.50 ±0.00", "+6.00 ±0.00"],
    ]
    figures, _ = recall_figures(runs, {"none": 0, "ngram": 1})
    assert [figure.name for figure in figures] == [
        "answers-nll-by-lag",
        "answers-exact-by-lag",
        "answers-gained-by-lag",
    ]
    assert figures[0].ticks == ("8", "32")
    assert figures[2].series[1].y == (7.5, 6.0)
