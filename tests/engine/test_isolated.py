"""A method in a process of its own gives the same losses, steals nothing, and may die."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from slow import slow
from tiny import random_document

from tta_bench import StepShape
from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import add_plugin
from tta_bench.contract.spec import build, split_spec
from tta_bench.cost.counter import count_flops
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.isolation.child import Origin
from tta_bench.engine.isolation.host import Host, IsolatedError
from tta_bench.engine.isolation.method import ask
from tta_bench.engine.loop import DocumentResult, Engine
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.trial import TrialSetup, halved_until_it_fits
from tta_bench.errors import ChangedError, UsageError
from tta_bench.evaluation.plan import setting_specs
from tta_bench.evaluation.suite import Suite
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import load_model

KEY = ("builtin:tiny", "float32", "cpu", False)
SHAPE = StepShape(32, 32, 0)
PLUGIN = '''
import gc
import os
import signal
import sys

import torch

from tta_bench import Method, MethodError, register


class Plus(Method):
    """Adds to the logits of what it takes for the targets [B, C]."""

    def score(self, window):
        logits = self.model.logits(window).full()
        found = self.find(window)
        if found is not None and found.shape == logits.shape[:2]:
            logits = logits.scatter_add(2, found[..., None], torch.full_like(logits[..., :1], 5.0))
        return logits

    def find(self, window):
        return None


@register("honest")
class Honest(Plus):
    pass


@register("frames")
class Frames(Plus):
    """Looks at the variables of whoever called."""

    def find(self, window):
        frame = sys._getframe(1)
        while frame is not None:
            read = frame.f_locals.get("read_targets")
            if read is not None:
                return read()
            frame = frame.f_back


@register("objects")
class Objects(Plus):
    """Looks for the document among all that lives."""

    def find(self, window):
        ids = window.input_ids[0, : int(window.lengths[0])].tolist()
        for thing in gc.get_objects():
            if type(thing).__name__ == "Stream" and hasattr(thing, "sequence"):
                whole = thing.sequence.tolist()
                for start in range(len(whole) - len(ids)):
                    if whole[start : start + len(ids)] == ids:
                        return torch.tensor([whole[start + 1 : start + len(ids) + 1]])


@register("fails")
class Fails(Method):
    """Fails in its third step, in a way of its own for each number of lanes."""

    def prepare(self):
        self.steps = 0

    def score(self, window):
        self.steps += 1
        if self.steps == 3:
            if self.lanes == 1:
                raise MethodError("the third step is too much.")
            if self.lanes == 2:
                sys.exit("enough")
            if self.lanes == 3:
                open("not there")
            if self.lanes == 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.model.logits(window)


@register("learns")
class Learns(Method):
    """A bias over the vocabulary, by gradient."""

    family = "output"
    gradients = True

    def init_state(self):
        return {"bias": torch.zeros(self.model.vocab_size)}

    def score(self, window):
        self.now = self.state["bias"].clone().requires_grad_()
        return self.model.logits(window).full() + self.now[:, None]

    def adapt(self, window, targets, nll):
        (gradient,) = torch.autograd.grad(nll.sum(), self.now)
        self.state["bias"] -= 0.1 * gradient

    def figures(self, lane):
        return {"bias": self.state["bias"][lane].norm().item()}
'''


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(*KEY)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from tta_bench.contract import registry

    file = tmp_path_factory.mktemp("plugin") / "thieves.py"
    file.write_text(PLUGIN)
    before = dict(registry._plugin_files)
    add_plugin(file)
    yield str(file)
    registry._plugin_files.clear()
    registry._plugin_files.update(before)


def make_setup(
    model: LanguageModel, spec: str, isolated: bool, plugins: tuple[str, ...] = ()
) -> TrialSetup:
    from tta_bench.contract.registry import load

    name, values = split_spec(spec)
    cls = load(name)
    choice = MethodChoice(name, cls, build(cls.Params, values, name))
    identity = model_identity(describe_model(model))
    origin = Origin(KEY, identity, MethodSpec.of(choice, plugins), False, 1)
    host = Host(origin) if isolated else None
    return TrialSetup(model, choice, Protocol(chunk=32), 0, SHAPE, 3, host=host)


def read(setup: TrialSetup, lanes: int = 1) -> list[DocumentResult]:
    """Three documents, one of which ends in mid chunk."""
    documents = [random_document(f"doc{i}", n, i) for i, n in enumerate((150, 97, 128))]
    engine = Engine(setup.build(lanes), setup.protocol, setup.prefix_id)
    return list(engine.run(documents))


def losses(results: list[DocumentResult]) -> np.ndarray:
    assert all(result.status == "done" for result in results), results
    ordered = sorted(results, key=lambda result: result.index)
    return np.concatenate([result.nll for result in ordered if result.nll is not None])


@pytest.mark.parametrize(
    ("spec", "lanes"),
    [
        ("dynamic-eval", 2),
        ("fwl", 1),
        ("neural-cache", 2),
        ("learns", 2),
    ],
)
def test_losses_and_figures_are_those_of_the_method_in_this_process(
    model: LanguageModel, plugin: str, spec: str, lanes: int
) -> None:
    here, there = (make_setup(model, spec, isolated, (plugin,)) for isolated in (False, True))
    ours, theirs = read(here, lanes), read(there, lanes)
    expected = losses(ours)
    np.testing.assert_allclose(losses(theirs), expected, atol=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        assert other.figures == pytest.approx(one.figures, rel=1e-4)
        assert (spec == "learns") == bool(one.figures)
    one, other = here.build(lanes), there.build(lanes)
    assert other.state_bytes() == one.state_bytes()
    assert other.flops(SHAPE) == one.flops(SHAPE)
    assert other.invisible_flops(SHAPE) == one.invisible_flops(SHAPE)
    assert other.offline_flops == one.offline_flops
    assert other.offline_seconds == one.offline_seconds
    assert other.notes == one.notes
    counted = [check_flops(method, SHAPE, spec).counted for method in (one, other)]
    assert counted[0] == counted[1]
    assert other.gradients is False  # here nothing is differentiated
    assert ask(other, attrgetter("gradients")) is one.gradients
    assert not np.allclose(expected, losses(read(make_setup(model, "none", False), lanes)))


def test_what_steals_targets_finds_none_in_a_process_of_its_own(
    model: LanguageModel, plugin: str
) -> None:
    honest = losses(read(make_setup(model, "honest", False)))
    for thief in ("frames", "objects"):
        stolen = losses(read(make_setup(model, thief, False)))
        assert stolen.mean() < honest.mean() - 1
        isolated = losses(read(make_setup(model, thief, True, (plugin,))))
        np.testing.assert_allclose(isolated, honest, atol=1e-6)


FAILURES = {
    1: ("error", "the third step is too much."),
    2: ("error", "SystemExit: enough"),
    3: ("error", "FileNotFoundError: [Errno 2] No such file or directory: 'not there'"),
    4: ("oom", "OutOfMemoryError: CUDA out of memory"),
    5: ("error", "the method's process ended before it answered (killed by SIGKILL)."),
}


def test_what_goes_wrong_there_becomes_rows_here(model: LanguageModel, plugin: str) -> None:
    setup = make_setup(model, "fails", True, (plugin,))
    host = setup.host
    assert host is not None
    for lanes, (status, reason) in FAILURES.items():
        method = setup.build(lanes)
        process = host._process
        results = read(setup, lanes)
        in_flight = min(lanes, 3)
        assert [(r.status, r.reason) for r in results] == [(status, reason)] * in_flight
        if lanes < 5:
            assert host.lives
            assert host._process is process
            assert method.state_bytes() == 0
    assert not host.lives
    assert np.isnan(method.state_bytes())
    with pytest.raises(IsolatedError, match="has ended, and its state with it"):
        method.reset(0)
    assert setup.build(1).state_bytes() == 0  # another process takes its place
    assert np.isnan(method.state_bytes())


def test_the_process_ends_with_its_host(model: LanguageModel, plugin: str) -> None:
    setup = make_setup(model, "honest", True, (plugin,))
    method = setup.build(2)
    assert ask(method, attrgetter("lanes")) == 2
    assert ask(method, attrgetter("name")) == "honest"
    assert count_flops(partial(method.reset, 0)).flops == 0
    assert setup.host is not None
    process = setup.host._process
    assert process is not None
    assert process.is_alive()
    del method
    assert setup.host.dropped == [0]
    first = setup.build(1)
    assert setup.host.dropped == []
    setup.host.start()
    with pytest.raises(IsolatedError, match="has ended"):
        first.reset(0)
    fresh = setup.host._process
    assert fresh is not None
    assert fresh is not process
    assert fresh.is_alive()
    del first, setup
    with pytest.raises(ValueError, match="closed"):
        fresh.is_alive()


def test_memory_that_runs_out_there_halves_the_lanes_here() -> None:
    from tta_bench.engine.isolation.host import IsolatedMemoryError

    def attempt(lanes: int) -> int:
        if lanes > 1:
            raise IsolatedMemoryError("none left")
        return lanes

    assert halved_until_it_fits(4, attempt, lambda *_: None) == 1


def test_what_cannot_be_isolated_is_refused() -> None:
    cache = {"context": 64, "context_mode": "cache"}
    with pytest.raises(UsageError, match="--context-mode cache"):
        setting_specs(Suite(datasets=["x"], isolate=True, protocol=cache))
    with pytest.raises(UsageError, match="--compile on"):
        setting_specs(Suite(datasets=["x"], isolate=True, compile="on"))


@slow
def test_eval_isolates_and_audits(tmp_path: Path, tta_bench) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(2):
        text = f"Number {i}. " + "The quick brown fox jumps over the lazy dog. " * 8
        (tmp_path / "texts" / f"{i}.txt").write_text(text)
    (tmp_path / "thieves.py").write_text(PLUGIN)
    words = ["eval", "--dataset", "texts", "--chunk", "32", "--plugin", "thieves.py", "--json"]
    words += ["--device", "cpu", "--method", "honest", "--method", "frames"]
    apart = tta_bench(*words, "--isolate", "--name", "apart", cwd=tmp_path)
    assert apart.returncode == 0, apart.stderr
    honest, frames = json.loads(apart.stdout.strip().split("\n")[-1])["rows"]
    assert honest["nll"] == frames["nll"]
    summaries = {
        path.parent.name.split("-")[0]: json.loads(path.read_text())
        for path in tmp_path.glob("results/apart/*/summary.json")
    }
    assert summaries["honest"]["isolated"] is True
    assert summaries["honest"]["valid"] is True
    assert {f["status"] for f in summaries["honest"]["audit"]["findings"]} == {"pass"}
    assert summaries["honest"]["peak_process_bytes"] is None
    # The audit reads through processes of their own, too, and finds nothing stolen there.
    assert {f["status"] for f in summaries["frames"]["audit"]["findings"]} == {"pass"}
    together = tta_bench(*words, "--name", "together", cwd=tmp_path)
    honest, frames = json.loads(together.stdout.strip().split("\n")[-1])["rows"]
    assert frames["nll"] < 0.8 * honest["nll"]
    (path,) = tmp_path.glob("results/together/frames*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["isolated"] is False
    assert summary["valid"] is False
    assert "targets" in summary["rules_broken"]
    again = tta_bench(*words, "--isolate", "--name", "together", cwd=tmp_path)
    assert "was not run with --isolate" in again.stderr


def test_a_model_that_is_another_one_by_now_ends_the_run() -> None:
    from tta_bench.contract.registry import load

    cls = load("none")
    method = MethodSpec.of(MethodChoice("none", cls, cls.Params()))
    host = Host(Origin(KEY, {"sha256": "of before"}, method, False, 1))
    with pytest.raises(ChangedError, match="was changed while it was in use"):
        host.start()
    host.close()
