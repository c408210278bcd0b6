"""Runs probes on a method and leaves the process as it found it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from tta_bench.contract.method import Method
from tta_bench.validity.lab import Lab, Probe
from tta_bench.validity.limit import LIMIT_SECONDS, OutOfTime, interrupted_at
from tta_bench.validity.probes import FULL, QUICK
from tta_bench.validity.report import ProbeResult, ValidityReport
from tta_bench.validity.subject import Subject


def check(spec: str, seconds: float | None = LIMIT_SECONDS) -> ValidityReport:
    """Runs every probe on the method that `name:key=value,...` names, in some seconds.

    Args:
        spec: the method, as `--method` takes it.
        seconds: the time after which the remaining probes are skipped; None: no limit.

    Raises:
        UsageError: an unknown method or parameter.
        MethodError: its module cannot be imported.
    """
    return run(Subject.from_spec(spec), FULL, seconds)


def quick_checks(cls: type[Method], params: Any, name: str) -> ValidityReport:
    """Runs the probes that any evaluation can afford, on a tiny random model, in about a second.

    Args:
        cls: the method's class.
        params: its hyper-parameters, as they will be used; `probe_params` may make them cheaper.
        name: its name in the report.
    """
    return run(Subject.of(name, cls, params), QUICK)


def run(subject: Subject, probes: Sequence[Probe], seconds: float | None = None) -> ValidityReport:
    """Runs these probes on the subject; one whose needs did not pass is skipped.

    Args:
        subject: the method and its hyper-parameters.
        probes: the probes, in order.
        seconds: the time after which the current probe is interrupted, and it and the remaining
            ones are skipped; None: no limit.
    """
    started = time.monotonic()
    deadline = None if seconds is None else started + seconds
    results: dict[str, ProbeResult] = {}
    unreached: list[str] = []
    with _own_randomness():
        lab = Lab(subject)
        with contextlib.suppress(OutOfTime), interrupted_at(deadline):
            lab.choose_model()
        for probe in probes:
            missing = [name for name in probe.needs if results[name].status != "pass"]
            try:
                if missing and not unreached:
                    results[probe.name] = _skip(probe, f"{missing[0]} did not pass.")
                    continue
                with interrupted_at(deadline):
                    results[probe.name] = probe.result(lab)
            except OutOfTime:
                unreached.append(probe.name)
                results[probe.name] = _skip(probe, f"not done within {seconds:g} s.")
            lab.repair()
    took = time.monotonic() - started
    late, notes = tuple(unreached), tuple(lab.notes)
    return ValidityReport(subject.spec, tuple(results.values()), took, late, notes)


def _skip(probe: Probe, why: str) -> ProbeResult:
    return ProbeResult(probe.name, "skip", None, "—", f"Cannot be judged: {why}")


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Uses one thread while inside, and puts every random generator of the process back afterwards.

    For tiny models a second thread costs more time than it saves.
    """
    threads = torch.get_num_threads()
    states = random.getstate(), np.random.get_state()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
