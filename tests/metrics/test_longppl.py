"""LongPPL of stored runs and stored key tokens, without a model."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import make_losses, store_run

from tta_bench.errors import UsageError
from tta_bench.metrics import available, named
from tta_bench.metrics.longppl import key_of
from tta_bench.report.gains import gains_of, losses_of
from tta_bench.report.key_tokens import key_figures
from tta_bench.store import Run
from tta_bench.store.key_tokens import KeyDocument, key_tokens_file, written_key_tokens
from tta_bench.tables import summary_rows, summary_tables
from tta_bench.tables.slices import slice_tables

NAME = "longppl-32"
KEY = {0: (40, 41, 90), 1: (), 2: (33, 119), 3: (64,)}


def write_key_tokens(run: Run, key: dict[int, tuple[int, ...]] = KEY, **changes: Any) -> Path:
    """Stores places of key tokens for the documents of a run, all of whose tokens are scored."""
    header = {
        "metric": NAME,
        "rule": {"trunc_len": 32, "sliding_window": 8, "alpha": 2.0, "beta": -2.0},
        "evaluator": {"name": "judge", "sha256": "ee"},
        "dtype": "float32",
        "fingerprint": run.manifest["dataset"]["fingerprint"],
    }
    path = key_tokens_file(run, NAME)
    with written_key_tokens(path, header | changes) as writer:
        for row in run.rows:
            if row.index in key:
                places = key[row.index]
                writer.append(KeyDocument(row.index, row.tokens, places, 500, 1e9, 0.5))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return [store_run(tmp_path / "mine", spec, gain) for spec, gain in (("none", 0), ("fwl", 0.1))]


def expected(gain: float, key: dict[int, tuple[int, ...]] = KEY) -> float:
    losses = [float(make_losses(index, gain)[i]) for index, of in key.items() for i in of]
    return math.exp(np.mean(losses))


def test_a_row_has_the_mean_over_all_key_tokens_of_its_documents(runs: list[Run]) -> None:
    write_key_tokens(runs[0])
    rows = summary_rows(runs, [NAME])
    assert [row["key_tokens-32"] for row in rows] == [6, 6]
    assert [row[NAME] for row in rows] == pytest.approx([expected(0), expected(0.1)])
    assert key_of(runs[0], NAME).with_key == 3


def test_the_note_counts_tokens_documents_and_what_the_evaluator_cost(runs: list[Run]) -> None:
    write_key_tokens(runs[0])
    (table,) = summary_tables(runs, metrics=[NAME])
    assert table.notes[-1] == (
        "longppl-32: 6 key tokens in 3 of 4 documents (1 without any), found by judge in float32, "
        "which read 2,000 tokens once (4.00 GFLOPs, 0:02), not counted in rows"
    )
    assert [column.key for column in table.shown][-1] == NAME
    assert not any(NAME in note for note in summary_tables(runs)[0].notes)


def test_a_slice_has_its_own(runs: list[Run]) -> None:
    write_key_tokens(runs[0])
    (table,) = slice_tables(runs, "document", metrics=[NAME])
    values = [row[NAME] for row in table.rows if row["method"] == "fwl"]
    alone = [expected(0.1, {index: KEY[index]}) for index in (0, 2, 3)]
    assert values == [pytest.approx(alone[0]), None, *map(pytest.approx, alone[1:])]
    assert any(note.startswith("longppl-32: 6 key tokens") for note in table.notes)


def test_key_tokens_of_other_evaluators_do_not_stand_in_line(tmp_path: Path) -> None:
    runs = [store_run(tmp_path / spec, spec) for spec in ("none", "fwl")]
    write_key_tokens(runs[0])
    write_key_tokens(runs[1], evaluator={"name": "another", "sha256": "ff"})
    (table,) = summary_tables(runs, metrics=[NAME])
    assert [row[NAME] for row in table.rows] == [pytest.approx(expected(0)), None]
    notes = [note for note in table.notes if "found by" in note]
    assert [note.split(":")[0] for note in notes] == ["none", "fwl"]


def test_what_is_missing_is_said(runs: list[Run]) -> None:
    (table,) = summary_tables(runs, metrics=[NAME])
    assert "are not there; `tta-bench key-tokens" in table.notes[-1]
    assert named([NAME])[0].lacks(runs[0]) is not None
    write_key_tokens(runs[0], {0: (40,), 1: ()})
    (table,) = summary_tables(runs, metrics=[NAME])
    assert "the key tokens of 2 of 4 documents are not there" in table.notes[-1]
    assert table.rows[0][NAME] is None
    write_key_tokens(runs[0], dtype="bfloat16")  # another evaluator: begun anew
    shutil.rmtree(runs[0].path / "nll")
    (table,) = summary_tables(runs, metrics=[NAME])
    assert table.rows[0][NAME] is None
    assert any("were not stored or not published" in note for note in table.notes)


def test_the_report_has_every_gain_on_key_tokens_in_sight(runs: list[Run]) -> None:
    write_key_tokens(runs[0])
    losses = [losses_of(run) for run in runs]
    gains = gains_of(losses[1], losses[0])
    values = tuple(value.copy() for value in gains.values)
    values[0][40] = 60.0  # far from the crowd, where other curves show an arrow at the edge
    gains = replace(gains, values=values)
    (figure,), left_out = key_figures([gains], runs[0], {"fwl": 1}, "none")
    assert not left_out
    assert figure.ticks == ("other tokens", "key tokens")
    (series,) = figure.series
    key = [
        float(value[i]) for value, places in zip(values, KEY.values(), strict=True) for i in places
    ]
    assert series.y[1] == pytest.approx(np.mean(key))
    assert figure.y_range[1] > series.y[1]
    assert series.hover[1][1] == "key tokens"


def test_losses_without_a_known_place_have_none(runs: list[Run]) -> None:
    path = write_key_tokens(runs[0])
    path.unlink()
    with written_key_tokens(
        path,
        {
            "metric": NAME,
            "rule": {},
            "evaluator": {},
            "dtype": "float32",
            "fingerprint": "f00d",
        },
    ) as writer:
        for row in runs[0].rows:
            writer.append(KeyDocument(row.index, row.tokens + 2, (50,), 1, 1.0, 1.0))
    (table,) = summary_tables(runs, metrics=[NAME])
    assert table.rows[0][NAME] is None
    assert "no known place: 2 of 102 tokens are unscored" in table.notes[-1]


def test_scaled_down_metrics_are_there_when_they_are_asked_for() -> None:
    assert {"longppl", "key_tokens"} <= set(available())
    assert "longppl-512" not in available()
    assert {"longppl-512", "key_tokens-512"} <= set(available(["longppl-512"]))
    assert named(["key_tokens-512"])[0] is available(["longppl-512"])["key_tokens-512"]
    with pytest.raises(UsageError, match="no metric 'perplexity-512'"):
        named(["perplexity-512"])
    with pytest.raises(UsageError, match="multiple of 4"):
        named(["longppl-7"])
