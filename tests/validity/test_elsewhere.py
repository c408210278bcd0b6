"""Wrong methods that small probes never meet are caught, each by its probe; honest ones are not."""

from __future__ import annotations

import pytest
from cheats_elsewhere import ELSEWHERE

from tta_bench.validity.check import run
from tta_bench.validity.probes import FULL, QUICK
from tta_bench.validity.subject import Subject


def probes_up_to(name):
    """The quick probes, and this one if it is none of them."""
    return [probe for probe in FULL if probe in QUICK or probe.name == name]


@pytest.mark.parametrize("cls", ELSEWHERE, ids=lambda cls: cls.__name__)
def test_each_is_caught_by_its_probe(cls):
    name = ELSEWHERE[cls]
    report = run(Subject.of(cls.__name__, cls, cls.Params()), probes_up_to(name))
    assert name in report.failed, report
    assert report.valid is False
