"""Choices as they are stored, read again and taken over."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from stored_runs import store_run

from tta_bench.contract.space import Space
from tta_bench.errors import BenchError, UsageError
from tta_bench.report.tuning import tuning_figures
from tta_bench.store import amend_manifest, load_run
from tta_bench.store.tuning import (
    TUNING,
    TunedParameter,
    TunedTrial,
    Tuning,
    TuningDocuments,
    read_choices,
    store_choice,
    tuning_of,
)
from tta_bench.tables import summary_rows, summary_tables
from tta_bench.tables.tuned import tuned_text
from tta_bench.tuning.stored import chosen, stored_choices
from tta_bench.tuning.trial import trial_of

ROOT = Path(__file__).parents[2]
VALUES = {"1e-5": 3.2, "3e-5": 3.0, "9e-05": 3.1, "1": None}


def make_tuning(edge=None, best="3e-5", **changes) -> Tuning:
    trials = tuple(
        TunedTrial(
            spec=f"dynamic-eval:lr={value}",
            values={"lr": value},
            nll_per_token=loss,
            valid=True,
            reason=None if loss else "diverged",
            documents=12,
            tokens=900,
            flops=1e15,
            runs=(f"it-tuning/{value}",),
        )
        for value, loss in VALUES.items()
    )
    values = tuple(sorted(VALUES, key=float))
    parameter = TunedParameter("lr", "lr", values, ("1e-5", "3e-5"), True, edge)
    fields = {
        "space": "dynamic-eval:lr=1e-5|3e-5",
        "method": "dynamic-eval",
        "chosen": f"dynamic-eval:lr={best}",
        "values": {"lr": best},
        "parameters": (parameter,),
        "trials": trials,
        "documents": (TuningDocuments("builtin:stdlib", "f00d", ("a",), ("ab12",), 1, None, 0),),
        "flops": 3.1e15,
        "model": "builtin:tiny",
        "protocol": {"name": "stream", "chunk": 64},
        "dtype": "float32",
    }
    return Tuning(**fields | changes)


def read_back(tuning):
    return tuning_of({"tuning": json.loads(json.dumps(tuning.to_dict()))})


@pytest.mark.parametrize(
    ("tuning", "text"),
    [
        (make_tuning(), "tuned over 4 of lr=1e-5|3e-5 on 12 documents, 3.10 PFLOPs"),
        (
            make_tuning("bound", "1"),
            "tuned over 4 of lr=1e-5|3e-5 on 12 documents, 3.10 PFLOPs; lr AT THE EDGE: 1 is the "
            "highest of 4 values tried, so the best is not known",
        ),
        (
            make_tuning("allowed", "1e-5", flops=None),
            "tuned over 4 of lr=1e-5|3e-5 on 12 documents, FLOPs unknown; lr at the edge of what "
            "is allowed: 1e-5 is the lowest",
        ),
    ],
)
def test_how_values_were_chosen_is_one_sentence(tuning, text):
    assert tuned_text(tuning) == text
    assert read_back(tuning) == tuning


@pytest.mark.parametrize("junk", [None, 3, [], {}, {"space": 1}, {"values": {"lr": 2}}])
def test_a_section_that_nobody_can_read_is_none(junk):
    assert tuning_of({"tuning": junk}) is None


def test_a_group_keeps_one_choice_of_each_search(tmp_path: Path):
    assert read_choices(tmp_path) == []
    store_choice(tmp_path, make_tuning())
    store_choice(tmp_path, make_tuning(model="other"))
    store_choice(tmp_path, make_tuning(best="1e-5"))
    assert [(one.model, one.values["lr"]) for one in read_choices(tmp_path)] == [
        ("other", "3e-5"),
        ("builtin:tiny", "1e-5"),
    ]
    (tmp_path / TUNING).write_text('{"choices": [{"space": 3}]}')
    with pytest.raises(BenchError, match=r"tuning.json is damaged"):
        read_choices(tmp_path)


def test_the_manifest_gets_it_and_keeps_its_key(tmp_path: Path):
    none = store_run(tmp_path / "it", "none")
    run = store_run(tmp_path / "it", "dynamic-eval:lr=3e-5", gain=0.1)
    amend_manifest(run.path, {"tuning": make_tuning().to_dict()})
    tuned = load_run(run.path)
    assert tuned.manifest == {**run.manifest, "tuning": make_tuning().to_dict()}
    before = (run.path / "manifest.json").stat().st_mtime_ns
    amend_manifest(run.path, {"tuning": make_tuning().to_dict()})
    assert (run.path / "manifest.json").stat().st_mtime_ns == before
    (table,) = summary_tables([none, tuned])
    assert f"dynamic-eval:lr=3e-5: {tuned_text(make_tuning())}" in table.notes
    rows = summary_rows([none, tuned])
    assert rows[0]["tuning"] is None
    assert rows[1]["tuning"]["text"] == tuned_text(make_tuning())
    assert rows[1]["tuning"]["trials"][1]["nll_per_token"] == 3.0
    assert stored_choices("it", tmp_path) == [make_tuning()]
    with pytest.raises(UsageError, match="nothing was tuned in"):
        stored_choices(str(none.path), tmp_path)


def test_the_report_draws_a_curve_with_the_chosen_value(tmp_path: Path):
    run = store_run(tmp_path / "it", "dynamic-eval:lr=3e-5")
    amend_manifest(run.path, {"tuning": make_tuning().to_dict()})
    (figure,), (sentence,) = tuning_figures([load_run(run.path)], {"dynamic-eval:lr=3e-5": 1})
    line, points = figure.series
    assert line.x == points.x == (1e-5, 3e-5, 9e-5)  # what diverged has no place
    assert points.y == (3.2, 3.0, 3.1)
    assert points.hollow == (True, False, True)
    assert figure.x_log
    assert [label for _, label in figure.x_ticks] == ["1e-05", "3e-05", "9e-05"]
    assert sentence.startswith("dynamic-eval:lr=3e-5: tuned over 4")
    assert tuning_figures([store_run(tmp_path / "it", "none")], {"none": 0}) == ([], [])


@pytest.mark.parametrize(
    ("spec", "takes", "values"),
    [
        ("dynamic-eval:lr=1e-5|1", "dynamic-eval:lr=3e-05", True),
        ("dynamic-eval", "dynamic-eval:lr=3e-05", True),
        ("dynamic-eval:lr=7", "dynamic-eval:lr=7", False),
        ("none", "none", False),
    ],
)
def test_a_choice_is_taken_over(spec, takes, values):
    choice, tuning = chosen(Space.of(spec), "builtin:tiny", [make_tuning()], "it")
    assert choice.spec == takes
    assert (tuning is not None) == values


def test_a_choice_on_the_same_model_comes_first():
    other = make_tuning(best="1e-5", model="other")
    space = Space.of("dynamic-eval")
    assert chosen(space, "builtin:tiny", [other, make_tuning()], "it")[1] == make_tuning()
    assert chosen(space, "third", [other], "it")[1] == other


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("neural-cache:weight=0.1|0.2", "it has no choice for 'neural-cache:weight=0.1|0.2'"),
        ("dynamic-eval:lr=1|2,subset=mlp", "it has no choice for"),
        ("dynamic-eval:subset=all|mlp", "it has no choice for"),
    ],
)
def test_a_set_without_a_choice_is_refused(spec, words):
    with pytest.raises(UsageError) as raised:
        chosen(Space.of(spec), "builtin:tiny", [make_tuning()], "it")
    assert words in str(raised.value)


def test_several_choices_for_one_method_are_refused():
    both = [make_tuning(), make_tuning(best="1e-5")]
    with pytest.raises(UsageError, match="has several choices for 'dynamic-eval'"):
        chosen(Space.of("dynamic-eval"), "builtin:tiny", both, "it")


def test_only_audited_whole_trials_can_be_chosen(tmp_path: Path):
    good = store_run(tmp_path / "it", "a")
    trial = trial_of({"lr": "1"}, [good])
    nll, tokens = sum(row.nll for row in good.rows), sum(row.tokens for row in good.rows)
    assert trial.loss == pytest.approx(nll / tokens)
    assert trial.flops == pytest.approx(2.7e8 * tokens)
    assert trial.runs == (f"it/{good.path.name}",)
    row = dataclasses.replace(good.rows[0], key="z", index=9, status="diverged", reason="inf")
    row = dataclasses.replace(row, nll=None, tokens=0, nll_file=None, nll_sha256=None)
    for spec, summary, extra, reason in (
        ("b", {"valid": None, "valid_reason": "not audited"}, (), "not audited"),
        ("c", {"valid": False, "valid_reason": "it looks ahead"}, (), "it looks ahead"),
        ("d", {"status": "oom", "reason": "memory ran out"}, (), "memory ran out"),
        ("e", {}, (row,), "z: inf"),
    ):
        bad = store_run(tmp_path / "it", spec, summary=summary, extra=extra)
        both = trial_of({"lr": "1"}, [good, bad])
        assert (both.loss, both.reason) == (None, reason)


def test_the_example_of_the_page_is_what_is_stored():
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    (one,) = read_choices(ROOT / "results" / "which-step-size-tuning")
    assert f"{one.chosen}: {tuned_text(one)}" in page
    for trial in one.trials:
        assert f"{trial.nll_per_token:.5f}" in page
    (stored,) = (
        tuning_of(load_run(path.parent).manifest)
        for path in (ROOT / "results" / "which-step-size").glob("dynamic-eval*/manifest.json")
    )
    assert stored == one
