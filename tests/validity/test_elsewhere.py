"""Wrong methods that small probes never meet are caught, each by its probe; honest ones are not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cheats
import cheats_elsewhere
import pytest
import torch
import typer
from cheats_elsewhere import ELSEWHERE, Spoiling
from slow import slow
from torch.nn import functional as F
from typer.testing import CliRunner

from tta_bench import MethodError
from tta_bench.cli import check as check_command
from tta_bench.validity.check import run
from tta_bench.validity.lab import Lab
from tta_bench.validity.models import document, tiny_model
from tta_bench.validity.probes import FULL, QUICK, scenes
from tta_bench.validity.probes.switch import Frozen
from tta_bench.validity.reader import Reader, largest_difference
from tta_bench.validity.subject import Subject


def probes_up_to(name):
    """The quick probes, and this one if it is none of them."""
    return [probe for probe in FULL if probe in QUICK or probe.name == name]


@slow
@pytest.mark.parametrize("cls", ELSEWHERE, ids=lambda cls: cls.__name__)
def test_each_is_caught_by_its_probe(cls):
    name = ELSEWHERE[cls]
    report = run(Subject.of(cls.__name__, cls, cls.Params()), probes_up_to(name))
    assert name in report.failed, report
    assert report.valid is False


@pytest.mark.parametrize(
    "cls", [cls for cls in ELSEWHERE if issubclass(cls, Spoiling)], ids=lambda cls: cls.__name__
)
def test_what_a_method_leaves_changed_is_put_back(cls):
    loss, dtype = F.cross_entropy, torch.get_default_dtype()
    subject = Subject.of(cls.__name__, cls, cls.Params())
    lab = Lab(subject)

    def read_frozen():
        return Reader(Frozen(lab.model, None, 1)).read([document(20, 1)])

    before = read_frozen()
    cls(lab.model, cls.Params(), 1).spoil()
    lab.repair()
    assert len(lab.spoiled) > 0
    assert lab.harm() == []
    assert largest_difference(before, read_frozen()) == 0
    assert (F.cross_entropy, torch.get_default_dtype()) == (loss, dtype)


def found(cls, name):
    report = run(Subject.of(cls.__name__, cls, cls.Params()), probes_up_to(name))
    (result,) = [result for result in report.results if result.probe == name]
    return report, result


@pytest.mark.parametrize(
    ("cls", "probe", "place"),
    [
        (cheats.BatchWideScale, "neighbours", "token 8, in chunk 1"),
        (cheats.BatchWideLoss, "neighbours", "state['counts'] after chunk 0"),
        (cheats.SlowerWithMoreLanes, "lanes", "state['counts'] after chunk 0"),
        (cheats.ScalesByPadding, "idle lanes", None),
        (cheats_elsewhere.RemembersAfterAThousand, "long document", "token 1024 differs"),
    ],
)
def test_a_failure_says_where_readings_part(cls, probe, place):
    _, result = found(cls, probe)
    assert place is None or place in result.sentence, result


def test_an_exception_is_told_with_its_place_in_the_source():
    _, result = found(cheats.Crashes, "runs")
    file, line = re.search(r"ValueError \((\S+):(\d+)\)", result.sentence).groups()
    source = Path(cheats.__file__)
    assert file == source.name
    assert "[bold]what a plugin may raise" in source.read_text().splitlines()[int(line) - 1]
    assert "Traceback (most recent call last)" in result.trace


def test_debug_prints_the_traceback_and_json_does_not_hold_it():
    app = typer.Typer()
    app.command("check")(check_command.check)
    app.command("other")(lambda: None)
    words = ["check", "crashes", "--plugin", str(Path(cheats.__file__))]
    assert "Traceback" not in CliRunner().invoke(app, words).output
    assert "cheats.py" in CliRunner().invoke(app, [*words, "--debug"]).output.split("Traceback")[1]
    probe = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)["probes"][0]
    assert sorted(probe) == ["figure", "probe", "sentence", "status", "value"]


def test_what_probe_params_changed_is_told():
    report = run(Subject.from_spec("window:context=300"), FULL[:3])
    assert report.valid is True
    assert report.notes == ("probed with context=24 in place of 300.",)
    assert report.method == "window:context=300"
    assert report.to_dict()["notes"] == list(report.notes)


class NeverSeen(cheats_elsewhere.OffWithASmallMemory):
    """Runs as given on no model of the probes, and does nothing with what they give it."""

    def prepare(self):
        if self.params.memory > 8:
            raise MethodError("this much memory needs a model of its own.")


def test_a_method_whose_effect_no_probe_sees_is_not_called_valid():
    report, result = found(NeverSeen, "as given")
    assert (result.status, report.valid, report.failed) == ("skip", None, ())


def test_a_method_that_refuses_tiny_models_is_probed_on_the_built_in_one():
    class Particular(cheats.Counting):
        family = "output"

        def prepare(self):
            if self.model.vocab_size < 1000:
                raise MethodError("a real vocabulary is needed.")

    subject = Subject.of("particular", Particular, Particular.Params())
    report = run(subject, FULL[:5])
    assert report.valid is True
    assert "probed on builtin:tiny" in report.notes[0]


RANDOM_SETTINGS = [
    "dynamic-eval:lr=0.05",
    "dynamic-eval:optimizer=sgd,lr=0.3",
    "dynamic-eval:subset=lora,rank=2,lr=0.02",
    "dynamic-eval:subset=norm,interval=7",
    "dynamic-eval:subset=last1,lr=0.003",
    "neural-cache:window=700,weight=0.3",
    "window:context=40",
    "fwl-untrained",
]


@slow
@pytest.mark.parametrize("spec", RANDOM_SETTINGS)
def test_honest_settings_raise_no_alarm_at_scale(spec):
    names = {"runs", "deterministic", "wide chunks", "nothing to learn", "many steps", "untouched"}
    report = run(Subject.from_spec(spec), [probe for probe in FULL if probe.name in names])
    assert report.failed == (), report


class WritesToItsWindow(cheats.Frozen):
    """Masks and edits in place what it was given, which is its own copy."""

    def score(self, window):
        logits = self.logits(window)
        window.mask[:, :4] = False
        window.input_ids[:] = 0
        window.scored[:] = 1
        return logits


def test_what_a_method_writes_to_its_window_reaches_nothing():
    report = run(Subject.of("writes", WritesToItsWindow, WritesToItsWindow.Params()), QUICK)
    assert report.failed == (), report


def test_needs_that_fail_are_told():
    class Odd(cheats.Counting):
        @classmethod
        def needs(cls, params, model, step):
            raise KeyError("depth")

    report = run(Subject.of("odd", Odd, Odd.Params()), FULL[:1])
    assert report.valid is not True
    assert "its needs() raised KeyError: 'depth'" in report.results[0].sentence


def test_a_document_of_a_probe_has_no_more_tokens_than_its_model_positions():
    """However much a method reads again; else an honest one would be refused for its windows."""
    lengths = [scene.length for scene in vars(scenes).values() if isinstance(scene, scenes.Scene)]
    assert 2048 < max(lengths) < tiny_model().max_positions
