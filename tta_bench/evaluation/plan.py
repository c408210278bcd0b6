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
from tta_bench.contract.registry import add_plugin
from tta_bench.contract.space import Space
from tta_bench.documents.limits import LIMITS, Limits
from tta_bench.engine.isolation.limits import check_isolation
from tta_bench.errors import UsageError
from tta_bench.evaluation.job import Job, SettingSpec
from tta_bench.model.loading import LOADING, Loading

if TYPE_CHECKING:
    from tta_bench.engine.protocol import Protocol
    from tta_bench.evaluation.suite import Suite
    from tta_bench.store import Portion


def plan(
    suite: Suite,
    *,
    plugins: Iterable[Path] = (),
    trust_remote_code: bool = False,
    portion: Portion | None = None,
) -> list[Job]:
    """The jobs of a suite.

    Args:
        suite: what is asked for.
        plugins: Python files that register methods.
        trust_remote_code: whether code that a hub repository brings may run.
        portion: the portion of the documents that is read; None for all.

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
    settings = setting_specs(suite, trust_remote_code, portion=portion)
    return [Job(setting, method) for setting in settings for method in methods]


def setting_specs(
    suite: Suite,
    trust_remote_code: bool = False,
    command: tuple[str, ...] | None = None,
    portion: Portion | None = None,
) -> list[SettingSpec]:
    """Every model of a suite with every dataset, and without a reset also with fresh methods.

    Args:
        suite: what is asked for.
        trust_remote_code: whether code that a hub repository brings may run.
        command: what was called, for the manifest; None for the command line.
        portion: the portion of the documents that is read; None for all.

    Raises:
        UsageError: an impossible protocol, limit, seed or way of loading.
    """
    protocol = suite.resolved_protocol()
    _check_drift(suite, protocol)
    readings = [(protocol, suite.probe)]
    if suite.fresh:
        readings.append((dataclasses.replace(protocol, reset="document"), None))
    if suite.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {suite.seed}.")
    if suite.isolate:
        check_isolation(protocol, suite.compile)
    limits = Limits(**{name: getattr(suite, name) for name in LIMITS})
    loading = Loading(**{name: getattr(suite, name) for name in LOADING})
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
            loading=loading,
            config=config,
            command=command,
            portion=portion,
            elsewhere=suite.elsewhere,
            words=tuple(suite.words),
            probe=probe,
            **{name: config[name] for name in shared},
        )
        for model in suite.models
        for dataset in suite.datasets
        for protocol, probe in readings
    ]


def _check_drift(suite: Suite, protocol: Protocol) -> None:
    """Raises UsageError where a probe or fresh readings make no sense."""
    for flag, given in (("--probe", suite.probe is not None), ("--fresh", suite.fresh)):
        if given and protocol.reset != "never":
            raise UsageError(f"{flag} belongs to --reset never; add that, or leave out {flag}.")
        if given and protocol.join is not None:
            raise UsageError(
                f"{flag} needs documents that stay apart, and --protocol {protocol.name} joins "
                f"them; leave out {flag}."
            )
    if suite.probe is not None and suite.isolate:
        raise UsageError(
            "--probe reads with a method's state and puts it back, which --isolate keeps out of "
            "reach; leave out one of them."
        )


def choose_methods(specs: Sequence[str]) -> list[MethodChoice]:
    """Parses and checks method specs, so that a typing mistake costs no model load.

    Of a parameter with a set of values, each value is a method of its own.

    Raises:
        UsageError: an unknown method or parameter, or the same method twice.
    """
    return all_different([choice for spec in specs for choice in Space.of(spec).choices()])


def all_different(choices: list[MethodChoice]) -> list[MethodChoice]:
    """The methods.

    Raises:
        UsageError: one of them is there twice.
    """
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
