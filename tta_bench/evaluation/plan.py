"""Suite -> jobs: every model with every dataset and every method, in that order; loads no model."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import add_plugin, load
from tta_bench.contract.spec import build, split_spec
from tta_bench.documents.limits import LIMITS, Limits
from tta_bench.engine.isolation.limits import check_isolation
from tta_bench.errors import UsageError
from tta_bench.evaluation.job import Job, SettingSpec

if TYPE_CHECKING:
    from tta_bench.evaluation.suite import Suite


def plan(
    suite: Suite, *, plugins: Iterable[Path] = (), trust_remote_code: bool = False
) -> list[Job]:
    """The jobs of a suite.

    Args:
        suite: what is asked for.
        plugins: Python files that register methods.
        trust_remote_code: whether code that a hub repository brings may run.

    Raises:
        UsageError: an unknown method, parameter or protocol, or no dataset.
        MethodError: a plugin cannot be imported.
    """
    files = tuple(str(Path(file).absolute()) for file in plugins)
    for file in plugins:
        add_plugin(file)
    if not suite.datasets:
        raise UsageError("no documents are named; give --dataset, such as builtin:pydoc.")
    methods = [MethodSpec.of(choice, files) for choice in choose_methods(suite.methods)]
    settings = setting_specs(suite, trust_remote_code)
    return [Job(setting, method) for setting in settings for method in methods]


def setting_specs(suite: Suite, trust_remote_code: bool = False) -> list[SettingSpec]:
    """Every model of a suite with every dataset.

    Raises:
        UsageError: an impossible protocol or limit.
    """
    protocol = suite.resolved_protocol()
    if suite.isolate:
        check_isolation(protocol, suite.compile)
    limits = Limits(**{name: getattr(suite, name) for name in LIMITS})
    config = dataclasses.asdict(suite)
    shared = (
        *("text_column", "dtype", "device", "lanes", "compile", "audit", "isolate"),
        *("seed", "deterministic"),
    )
    return [
        SettingSpec(
            model=model,
            dataset=dataset,
            protocol=protocol,
            limits=limits,
            trust_remote_code=trust_remote_code,
            config=config,
            **{name: config[name] for name in shared},
        )
        for model in suite.models
        for dataset in suite.datasets
    ]


def choose_methods(specs: Sequence[str]) -> list[MethodChoice]:
    """Parses and checks method specs, so that a typing mistake costs no model load.

    Raises:
        UsageError: an unknown method or parameter, or the same spec twice.
    """
    choices = []
    for spec in specs:
        name, values = split_spec(spec)
        cls = load(name)
        choices.append(MethodChoice(name, cls, build(cls.Params, values, name)))
    for spec, times in Counter(choice.spec for choice in choices).items():
        if times > 1:
            raise UsageError(f"the method '{spec}' is asked for {times} times; once is enough.")
    return choices


def by_model(jobs: Iterable[Job]) -> list[list[Job]]:
    """Consecutive jobs of one model together."""
    return [list(group) for _, group in groupby(jobs, lambda job: job.setting.model_key)]


def by_setting(jobs: Iterable[Job]) -> list[tuple[SettingSpec, list[Job]]]:
    """Consecutive jobs in one setting together."""
    return [(setting, list(group)) for setting, group in groupby(jobs, lambda job: job.setting)]
