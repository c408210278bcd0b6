"""Runs probes on a method and leaves the process as it found it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from tta_bench.method import Method
from tta_bench.validity.lab import Lab, Probe, Subject
from tta_bench.validity.probes import FULL, QUICK
from tta_bench.validity.report import ProbeResult, ValidityReport


def check(spec: str) -> ValidityReport:
    """Every probe, of the method that `name:key=value,...` names; some seconds.

    Raises:
        UsageError: an unknown method or parameter.
        MethodError: its module cannot be imported.
    """
    return run(Subject.from_spec(spec), FULL)


def quick_checks(cls: type[Method], params: Any, name: str) -> ValidityReport:
    """The probes that any evaluation can afford, on a tiny random model; about a second.

    Args:
        cls: the method's class.
        params: its hyper-parameters, as they will be used.
        name: what it is called in the report.
    """
    return run(Subject(name, cls, params), QUICK)


def run(subject: Subject, probes: Sequence[Probe]) -> ValidityReport:
    """These probes of this subject; one whose needs did not pass is skipped."""
    started = time.perf_counter()
    results: dict[str, ProbeResult] = {}
    with _own_randomness():
        lab = Lab(subject)
        for probe in probes:
            missing = [name for name in probe.needs if results[name].status != "pass"]
            if missing:
                sentence = f"Cannot be judged: {missing[0]} did not pass."
                results[probe.name] = ProbeResult(probe.name, "skip", None, "—", sentence)
            else:
                results[probe.name] = probe.result(lab)
    seconds = time.perf_counter() - started
    return ValidityReport(subject.spec, tuple(results.values()), seconds)


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """One thread, and every generator of the process put back afterwards.

    Tiny models: a second thread costs more than it gives.
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
