"""Choices of an earlier tuning, taken over: `eval --tuned-from RUN`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import add_plugin
from tta_bench.contract.space import Space
from tta_bench.documents import TokenizedDataset, tokenized
from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.errors import BenchError, UsageError
from tta_bench.evaluation.executors import executor_of
from tta_bench.evaluation.group import group_maker
from tta_bench.evaluation.job import Job
from tta_bench.evaluation.plan import setting_specs
from tta_bench.evaluation.setting import Setting, open_settings
from tta_bench.evaluation.shards import own_documents
from tta_bench.store import Portion, Rerun, find_runs, load_group
from tta_bench.store.jsonable import jsonable, without_private_paths
from tta_bench.store.tuning import Tuning, TuningDocuments, read_choices, tuning_of
from tta_bench.tuning.execute import run_tuned
from tta_bench.tuning.overlap import require_no_overlap, require_other_texts
from tta_bench.tuning.parts import reported_part

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.suite import Suite
    from tta_bench.evaluation.workers.asked import AskedWorkers


def stored_choices(name: str, results: Path) -> list[Tuning]:
    """The choices of a group of trials, or of tuned runs.

    Raises:
        UsageError: there is no such run or group, or nothing was tuned in it.
        BenchError: a file is damaged.
    """
    folder = find_runs(name, results, published=True)
    tuned = [tuning_of(run.manifest) for run in load_group(folder)]
    found = read_choices(folder) or [one for one in tuned if one is not None]
    if not found:
        raise UsageError(
            f"nothing was tuned in {folder}; name a group that `tune` wrote, or a tuned run."
        )
    return found


def chosen(
    space: Space, model: str, choices: Sequence[Tuning], where: str
) -> tuple[MethodChoice, Tuning | None]:
    """The method of a space with the values that were chosen for it.

    A choice is for methods of its name: those with sets of values, and the bare name. One made on
    the same model comes before others. A method that names its values keeps them.

    Raises:
        UsageError: no choice, or several, are for a method with sets.
    """
    model, bare = without_private_paths(model), not space.sets
    if bare and any(part.values for part in space.parts):
        return space.choice({}), None
    found: dict[str, tuple[MethodChoice, Tuning]] = {}
    for one in sorted(choices, key=lambda one: one.model != model):
        if one.method == space.method and not (found and one.model != model):
            choice = Space.of(one.space).choice(one.values)
            if bare or _agrees(space, one, choice):
                found[choice.spec] = choice, one
    if len(found) > 1:
        raise UsageError(
            f"{where} has several choices for '{space.spec}': {', '.join(found)}; name the run "
            "with the one you mean."
        )
    if not found:
        if not bare:
            raise UsageError(f"{where} has no choice for '{space.spec}'; run `tune` with it.")
        return space.choice({}), None
    return next(iter(found.values()))


def _agrees(space: Space, one: Tuning, choice: MethodChoice) -> bool:
    """Whether the choice is of the very sets, and has the other values that the space names."""
    values = {name: one.values[name] for name in space.sets if name in one.values}
    if len(values) != len(space.sets):
        return False
    return space.choice(values).spec == choice.spec


def run_from(
    suite: Suite,
    observer: Observer,
    *,
    tuned_from: str,
    name: str | None,
    base: str | None,
    results: Path,
    rerun: Rerun,
    plugins: Iterable[Path],
    trust_remote_code: bool,
    debug: bool,
    workers: AskedWorkers | None = None,
    portion: Portion | None = None,
) -> Iterator[Path]:
    """Runs a suite with the values chosen earlier; yields the folder of each run as it begins.

    Args:
        tuned_from: a group of trials, a tuned run or a group of them.

    The others are those of `run_suite`.

    Raises:
        BenchError: nothing can run, there is no choice, or a text that was tuned on is reported.
    """
    files = tuple(str(Path(file).absolute()) for file in plugins)
    for file in files:
        add_plugin(file)
    choices = stored_choices(tuned_from, results)
    spaces = [Space.of(spec) for spec in suite.methods]
    jobs: list[tuple[Job, Tuning | None]] = []
    for spec in setting_specs(reported_part(suite), trust_remote_code, portion=portion):
        methods = [chosen(space, spec.model, choices, tuned_from) for space in spaces]
        by_spec = {choice.spec: (choice, tuning) for choice, tuning in methods}
        jobs += [(Job(spec, MethodSpec.of(c, files)), tuning) for c, tuning in by_spec.values()]
    if not jobs:
        raise UsageError("no documents are named; give --dataset, such as builtin:pydoc.")
    used = {id(tuning): tuning for _, tuning in jobs if tuning is not None}
    if not used:
        known = ", ".join(dict.fromkeys(one.method for one in choices))
        raise UsageError(
            f"{tuned_from} has no choice for any of these methods; it has some for {known}."
        )
    options: dict[str, Any] = {"rerun": rerun, "debug": debug, "workers": workers}
    yield from run_chosen(jobs, observer, name=name, base=base, results=results, **options)


def run_chosen(
    jobs: Sequence[tuple[Job, Tuning | None]],
    observer: Observer,
    *,
    name: str | None,
    base: str | None,
    results: Path,
    rerun: Rerun,
    debug: bool,
    workers: AskedWorkers | None = None,
) -> Iterator[Path]:
    """Does jobs with values chosen earlier; the arguments are those of `run_from`.

    Raises:
        BenchError: nothing can run, or a text that was tuned on is reported.
    """
    group_of = group_maker([job for job, _ in jobs], name=name, base=base, results=results)
    held = executor_of(workers, observer, debug)
    with held as executor, deterministic_algorithms(jobs[0][0].setting.deterministic):
        for model in dict.fromkeys(job.setting.model for job, _ in jobs):
            mine = [(job, tuning) for job, tuning in jobs if job.setting.model == model]
            loaded = executor.load(mine[0][0].setting)
            settings = [s for s, _ in open_settings([job for job, _ in mine], loaded)]
            for one in {id(t): t for _, t in mine if t is not None}.values():
                _check(one, settings, observer)
            empty = {setting.spec for setting in settings if not own_documents(setting)}
            mine = [(job, tuning) for job, tuning in mine if job.setting not in empty]
            yield from run_tuned(executor, mine, group_of, rerun)


def _check(tuning: Tuning, settings: Sequence[Setting], observer: Observer) -> None:
    """Refuses a choice made on text that is reported; tells how else it was made on other terms."""
    reported = [
        (f"{document.key} of {setting.spec.dataset}", document.sha256)
        for setting in settings
        for document in setting.documents
    ]
    require_other_texts(
        [
            (f"{key} of {part.dataset}", digest)
            for part in tuning.documents
            for key, digest in zip(part.keys, part.sha256, strict=True)
        ],
        reported,
    )
    first = settings[0]
    try:
        read = [_again(part, first) for part in tuning.documents]
    except BenchError as error:
        observer.note(f"{tuning.chosen}: near-equal texts were not looked for: {error}")
    else:
        require_no_overlap(read, [setting.documents for setting in settings])
    model = without_private_paths(first.spec.model)
    if tuning.model != model:
        observer.note(f"{tuning.chosen}: tuned on {tuning.model}, not on {model}")
    if tuning.protocol != jsonable(first.protocol.to_dict()):
        observer.note(f"{tuning.chosen}: tuned under another protocol")


def _again(part: TuningDocuments, setting: Setting) -> TokenizedDataset:
    """Documents that were tuned on, as token ids of a setting's model."""
    options = dataclasses.replace(
        setting.spec.document_options,
        limit=part.limit,
        max_tokens=part.max_tokens,
        min_tokens=part.min_tokens,
    )
    return tokenized(part.dataset, setting.model.tokenizer, **vars(options))
