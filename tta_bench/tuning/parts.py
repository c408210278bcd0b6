"""The two parts of a suite: what is tuned on, and what is reported."""

from __future__ import annotations

from dataclasses import replace

from tta_bench.documents.limits import LIMITS
from tta_bench.documents.split import REST, SHARE, part_spec
from tta_bench.evaluation.suite import Suite
from tta_bench.store import short_name


def tuning_part(suite: Suite) -> Suite:
    """The suite on its tuning documents; one without `tune` names them itself.

    Values are chosen by the loss over the stream alone: no probe and no fresh readings.
    """
    suite = replace(suite, probe=None, fresh=False)
    tune = suite.tune
    if tune is None:
        return suite
    datasets = tune.datasets
    if tune.share is not None:
        datasets = [part_spec(SHARE, tune.share, dataset) for dataset in suite.datasets]
    limits = {name: getattr(tune, name) for name in LIMITS if getattr(tune, name) is not None}
    return replace(suite, datasets=datasets, tune=None, **limits)


def reported_part(suite: Suite) -> Suite:
    """The suite on the documents that are reported."""
    if suite.tune is None or suite.tune.share is None:
        return suite
    share = suite.tune.share
    return replace(suite, datasets=[part_spec(REST, share, name) for name in suite.datasets])


def trials_name(name: str | None) -> str | None:
    """The name of the group of trials beside a group of reported runs; None where that has none."""
    return name and f"{name}-tuning"


def trials_base(tuning: Suite, base: str | None) -> str:
    """What the name of the group of trials starts with where none is given.

    Args:
        tuning: the suite on its tuning documents.
        base: that of the reported runs.
    """
    first = base or f"{short_name(tuning.models[0])}-{short_name(tuning.datasets[0])}"
    return f"{first}-tuning"
