"""`check` catches every planted cheat with the right probe and passes every honest method."""

from __future__ import annotations

import functools
import json
import random
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import cheats
import cheats_elsewhere
import numpy as np
import pytest
import torch
import typer
from slow import slow
from typer.testing import CliRunner

from tta_bench import Method, validity
from tta_bench.cli import check as check_command
from tta_bench.cli import new_method
from tta_bench.contract.registry import add_plugin, load
from tta_bench.engine.loop import Engine
from tta_bench.errors import MethodError, UsageError
from tta_bench.validity import ProbeResult, ValidityReport, check, quick_checks
from tta_bench.validity.check import run
from tta_bench.validity.limit import OutOfTime, interrupted_at
from tta_bench.validity.models import PREFIX, document, tiny_model
from tta_bench.validity.probes import FULL, QUICK
from tta_bench.validity.reader import CACHE, PLAIN, RECOMPUTE, Reader
from tta_bench.validity.subject import Subject

BUILT_IN = [
    "none",
    "dynamic-eval",
    "fwl",
    "fwl-untrained",
    "knn-lm",
    "neural-cache",
    "streaming-llm",
    "window",
]

LEAKS = {"lanes", "idle lanes", "mid chunk"}
"""Probes that read several lanes: a lane that leaks cannot pass them."""

ALSO = {
    # Whoever sees later tokens sees where a document is cut.
    cheats.PeeksOneAhead: {"mid chunk"},
    cheats.TrainsBeforeScoring: {"mid chunk"},
    cheats.CountsWholeChunk: {"mid chunk"},
    cheats.ReadsTheCallersFrame: {"causality"},
    cheats.AdaptsInScore: {"score twice"},
    cheats.WritesSharedWeights: {"neighbours", "reset", *LEAKS},
    cheats.BatchWideLoss: LEAKS,
    cheats.BatchWideScale: LEAKS,
    cheats.SlowerWithMoreLanes: {"neighbours", "idle lanes", "mid chunk"},
    cheats.CachedByTarget: {"state bytes"},
    cheats.CrashesOnIdleLanes: {"lanes"},
    # The order of documents matters to whoever remembers them.
    cheats.KeepsState: {"lanes"},
    cheats.KeepsHiddenState: {"lanes", "state bytes"},
}
"""What else must fail: consequences of the same cheat."""


SCENES = {"long document", "many steps", "wide context", "built-in model"}
"""Probes that try all rules again at scale, which takes long: built-in methods meet them."""

AT_SCALE = SCENES | {"wide chunks", "nothing to learn"}
"""Probes that most cheats fail as well."""


def checked(cls: type[Method]) -> ValidityReport:
    """The probes of a class that is not registered, without long ones that it need not meet."""
    left_out = SCENES | ({"families", "flops"} - {cheats.CHEATS.get(cls, "flops")})
    probes = [probe for probe in FULL if probe.name not in left_out]
    return run(Subject.of(cls.__name__, cls, cls.Params()), probes)


@slow
@pytest.mark.parametrize("cls", cheats.CHEATS, ids=lambda cls: cls.__name__)
def test_every_cheat_is_caught_by_the_right_probe(cls):
    report = checked(cls)
    expected = cheats.CHEATS[cls]
    assert set(report.failed) - AT_SCALE == {expected} | ALSO.get(cls, set()), report
    assert report.valid is False


def test_every_probe_has_a_cheat():
    planted = {*cheats.CHEATS.values(), *cheats_elsewhere.ELSEWHERE.values()}
    assert planted == {probe.name for probe in FULL}


@slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_passes(name):
    report = check(name, None)
    unjudged = (
        {"off"} if name == "fwl" else set()
    )  # trained weights have no setting that hides them
    assert {r.probe for r in report.results if r.status != "pass"} == unjudged
    assert report.valid is True


@pytest.mark.parametrize(
    "spec",
    [
        "dynamic-eval:optimizer=sgd,interval=20",
        "dynamic-eval:subset=lora,lr=0.001",
        "neural-cache:window=5,weight=0.5",
        "knn-lm:window=40,k=3,similarity=dot,temperature=0.3",
    ],
)
@slow
def test_variants_pass(spec):
    assert check(spec, None).valid is True


def test_an_honest_plugin_without_a_formula_passes():
    report = checked(cheats.Honest)
    assert report.valid is True
    assert [r.probe for r in report.results if r.status == "skip"] == ["flops"]


def test_the_template_of_new_method_passes(tmp_path):
    file = tmp_path / "checked_template.py"
    file.write_text(new_method.source("checked-template"), encoding="utf-8")
    add_plugin(file)
    assert [r for r in check("checked-template", None).results if r.status != "pass"] == []


# quick_checks


@pytest.mark.parametrize("name", BUILT_IN)
def test_quick_checks_are_quick_and_pass(name):
    cls = load(name)
    before = time.process_time()  # of this process alone: what others do takes none of it
    report = quick_checks(cls, cls.Params(), name)
    assert time.process_time() - before < 10  # about 1 on a core of its own
    assert report.valid is True
    assert [result.probe for result in report.results] == [probe.name for probe in QUICK]


@pytest.mark.parametrize(
    "cls",
    [cls for cls, probe in cheats.CHEATS.items() if probe in {probe.name for probe in QUICK}],
    ids=lambda cls: cls.__name__,
)
def test_quick_checks_catch_what_moves_the_number(cls):
    assert cheats.CHEATS[cls] in quick_checks(cls, cls.Params(), "cheat").failed


def test_the_process_is_left_as_it_was():
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    expected = torch.rand(1), np.random.rand(), random.random()
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    quick_checks(cheats.Honest, cheats.Honest.Params(), "honest")
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert torch.get_num_threads() == threads


# What cannot be judged


class NeedsTrainedWeights(cheats.Frozen):
    """Refuses, in words, every model but one."""

    def prepare(self):
        raise MethodError("these weights were trained for another model.")


def test_a_method_that_refuses_tiny_models_is_neither_valid_nor_invalid():
    report = checked(NeedsTrainedWeights)
    assert report.valid is None
    assert report.failed == ()
    assert "trained for another model" in report.results[0].sentence


class Unswitchable(cheats.Counting):
    """Has no parameter that looks like a switch."""

    @dataclass
    class Params:
        boldness: float = 0.3

    def score(self, window):
        return self.logits(window) + self.params.boldness * self.state["counts"][:, None]


def off_result(cls):
    (result,) = [result for result in checked(cls).results if result.probe == "off"]
    return result


def test_an_unknown_switch_is_skipped_with_the_reason_and_found_when_declared():
    assert off_result(Unswitchable).status == "skip"
    assert "off = {" in off_result(Unswitchable).sentence
    Unswitchable.off = {"boldness": 0.0}
    assert off_result(Unswitchable).status == "pass"


# The command

app = typer.Typer()
app.command("check")(check_command.check)
app.command("other")(lambda: None)

CHEATS_FILE = str(Path(cheats.__file__))


def invoke(*words):
    return CliRunner().invoke(app, ["check", *words])


def test_the_table_names_every_probe_and_the_verdict():
    result = invoke("none")
    assert result.exit_code == 0, result.output
    assert all(probe.name.split()[0] in result.stdout for probe in FULL)
    assert re.search(r"25 passed, 0 failed, 0 skipped \(\d+\.\d s\)", result.stdout)


def test_a_failing_probe_is_told_and_sets_the_exit_code():
    result = invoke("crashes", "--plugin", CHEATS_FILE)
    assert result.exit_code == 1
    assert "[bold]what" in result.stdout  # what a method raises is no markup
    assert result.stdout.rstrip().split("\n")[-1].startswith("0 passed, 1 failed, 24 skipped: runs")


def test_json_is_one_object():
    result = invoke("peeks-one-ahead", "--plugin", CHEATS_FILE, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["method"] == "peeks-one-ahead"
    assert found["valid"] is False
    probes = {probe["probe"]: probe for probe in found["probes"]}
    assert list(probes) == [probe.name for probe in FULL]
    assert probes["causality"]["status"] == "fail"
    assert probes["causality"]["value"] > 1e-3


def test_infinite_figures_are_valid_json():
    far = ProbeResult("causality", "fail", float("inf"), "inf nats", "Far away.")
    found = ValidityReport("x", (far,), 0.1).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["probes"][0]["value"] is None


@pytest.mark.parametrize("spec", ["no-such-method", "dynamic-eval:lrr=1", "fwl:step=-1"])
def test_a_wrong_spec_is_a_usage_error(spec):
    assert isinstance(invoke(spec).exception, UsageError)


# The limit to the time


def test_a_slow_method_is_broken_off_and_not_called_valid():
    report = run(Subject.of("sleeps", cheats.Sleeps, cheats.Sleeps.Params()), FULL, seconds=5.0)
    assert report.seconds < 6.5
    status = {result.probe: result.status for result in report.results}
    assert status["runs"] == "pass", "what there was time for is judged"
    assert set(report.unreached) == {name for name in status if status[name] == "skip"}
    assert report.unreached[-1] == FULL[-1].name
    assert "not done within 5 s" in report.results[-1].sentence
    assert (report.failed, report.valid) == ((), None)
    assert report.to_dict()["unreached"] == list(report.unreached)
    assert f"no time for {len(report.unreached)} of 25" in report.summary


def test_the_alarm_is_put_back_as_it_was():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    try:
        with pytest.raises(OutOfTime), interrupted_at(time.monotonic() + 0.05):
            time.sleep(5)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        signal.raise_signal(signal.SIGALRM)
        assert rang == [True]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_failure_found_in_time_still_counts():
    report = run(Subject.of("crashes", cheats.Crashes, cheats.Crashes.Params()), FULL, seconds=60)
    assert (report.valid, report.unreached) == (False, ())


def test_running_out_of_time_has_an_exit_code_of_its_own(monkeypatch):
    monkeypatch.setattr(validity, "check", functools.partial(check, seconds=2.0))
    result = invoke("sleeps", "--plugin", CHEATS_FILE)
    assert result.exit_code == 3
    assert "no time for" in result.stdout
    assert json.loads(invoke("sleeps", "--json").stdout)["valid"] is None


# The loop under the probes


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("protocol", [PLAIN, RECOMPUTE, CACHE], ids=lambda p: p.context_mode)
def test_the_probes_read_as_the_engine_does(name, protocol):
    model = tiny_model()
    cls = load(name)
    documents = [document(40, 1), document(21, 2), document(9, 3)]
    params = cls.probe_params(cls.Params())
    rows = Reader(cls(model, params, 2), protocol).read(documents)
    engine = Engine(cls(model, params, 2), protocol, PREFIX, debug=True)
    for result in engine.run(documents):
        gold = torch.from_numpy(result.document.token_ids.astype(np.int64))
        losses = -rows[result.index].gather(1, gold[:, None])[:, 0]
        np.testing.assert_allclose(result.nll, losses.numpy(), atol=5e-5)
