"""`tune` and `eval` of a suite that tunes: first the checks, then trials, then what is reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import add_plugin
from tta_bench.contract.space import Space
from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.errors import WeightlessError
from tta_bench.evaluation.executors import executor_of
from tta_bench.evaluation.group import GroupOf, group_maker
from tta_bench.evaluation.job import Job
from tta_bench.evaluation.plan import setting_specs
from tta_bench.evaluation.setting import Setting, open_settings
from tta_bench.model.shape import load_shape
from tta_bench.store import Rerun, amend_manifest, is_locked
from tta_bench.tuning.overlap import require_no_overlap
from tta_bench.tuning.parts import reported_part, tuning_part
from tta_bench.tuning.tuner import Storage, Tuner

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.executor import Executor
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.suite import Suite
    from tta_bench.evaluation.workers.asked import AskedWorkers
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.store.tuning import Tuning


class TuningRun:
    """Tunes the methods of a suite, and runs the best where the suite says on what.

    Args:
        suite: methods with sets of values; with `tune`, or on tuning documents itself.
        observer: is told how far each trial has come.
        name: name of the group of reported runs; that of the trials is NAME-tuning.
        base: what a name starts with where none is given.
        results: the folder that the groups lie in.
        rerun: which documents of stored runs are read again.
        plugins: Python files that register methods.
        trust_remote_code: whether code that a hub repository brings may run.
        debug: let exceptions of methods through.
        trials: points that Optuna asks for, where a method has more sets than a grid can hold.
        workers: which share the work; None: this process does it.
        command: what was called, for the manifest; None for the command line.

    Raises:
        UsageError: no method has a set, or one cannot be had.
    """

    def __init__(
        self,
        suite: Suite,
        observer: Observer,
        *,
        name: str | None,
        base: str | None,
        results: Path,
        rerun: Rerun,
        plugins: Iterable[Path],
        trust_remote_code: bool,
        debug: bool,
        trials: int,
        workers: AskedWorkers | None = None,
        command: tuple[str, ...] | None = None,
    ):
        self.suite, self.observer = suite, observer
        self._files = tuple(str(Path(file).absolute()) for file in plugins)
        for file in self._files:
            add_plugin(file)
        self._held = ExitStack()
        self._executor = self._held.enter_context(executor_of(workers, observer, debug))
        self._storage = Storage(name, base, results, rerun)
        self._trust = trust_remote_code
        self.tuner = Tuner(
            tuning_part(suite),
            self._executor,
            self._storage,
            self._files,
            trust_remote_code,
            trials,
            command,
        )

    def tune(self) -> Iterator[Tuning]:
        """The choice of each method with sets, model by model.

        Raises:
            BenchError: nothing can run; told before the first trial.
        """
        with self._held, deterministic_algorithms(self.suite.deterministic):
            for model in self._models(()):
                loaded = self._executor.load(self.tuner.specs(model)[0])
                settings, _ = self._open(model, (), loaded)
                for space in self.tuner.spaces:
                    yield self.tuner.tune(space, settings)

    def evaluate(self) -> Iterator[Path]:
        """Tunes, then runs the best of each method on the reported documents; yields the folder of
        each reported run as it begins.

        Raises:
            BenchError: nothing can run, or a text is in both parts; told before the first trial.
        """
        with self._held, deterministic_algorithms(self.suite.deterministic):
            yield from self._evaluate(reported_part(self.suite))

    def _evaluate(self, suite: Suite) -> Iterator[Path]:
        specs = setting_specs(suite, self._trust)
        spaces = [Space.of(spec) for spec in suite.methods]
        fixed = [space.choice({}) for space in spaces if not space.sets]
        every = [
            Job(spec, self._method(c)) for spec in specs for c in [*self.tuner.choices, *fixed]
        ]
        storage = self._storage
        group_of = group_maker(every, name=storage.name, base=storage.base, results=storage.results)
        for model in self._models(every):
            mine = [job for job in every if job.setting.model == model]
            loaded = self._executor.load(mine[0].setting)
            settings, reported = self._open(model, mine, loaded)
            best: dict[str, tuple[MethodChoice, Tuning | None]] = {}
            for space in spaces:
                tuning = self.tuner.tune(space, settings, reported) if space.sets else None
                choice = space.choice(tuning.values if tuning else {})
                if tuning or choice.spec not in best:
                    best[choice.spec] = choice, tuning
            jobs = [
                (Job(spec, self._method(choice)), tuning)
                for spec in specs
                if spec.model == model
                for choice, tuning in best.values()
            ]
            yield from run_tuned(self._executor, jobs, group_of, storage.rerun)

    def _method(self, choice: MethodChoice) -> MethodSpec:
        return MethodSpec.of(choice, self._files)

    def _models(self, reported: Sequence[Job]) -> list[str]:
        """The models; what can be said of all but the first without its weights is said now."""
        models = list(dict.fromkeys(self.suite.models))
        for model in models[1:]:
            mine = [job for job in reported if job.setting.model == model]
            with suppress(WeightlessError):  # such a model is checked when its turn comes
                self._open(model, mine, load_shape(*self.tuner.specs(model)[0].model_key))
        return models

    def _open(
        self, model: str, reported: Sequence[Job], loaded: LanguageModel
    ) -> tuple[list[Setting], list[Setting]]:
        """The tuning and the reported settings of one model, which share no text."""
        tuning = self.tuner.jobs(model, self.tuner.choices)
        mine = [setting for setting, _ in open_settings(tuning, loaded)]
        theirs = [setting for setting, _ in open_settings(reported, loaded)]
        require_no_overlap([one.documents for one in mine], [one.documents for one in theirs])
        return mine, theirs


def has_sets(suite: Suite) -> bool:
    """Whether a method of the suite has values to choose from."""
    return any(Space.of(spec).sets for spec in suite.methods)


def run_tuned(
    executor: Executor,
    jobs: Sequence[tuple[Job, Tuning | None]],
    group_of: GroupOf,
    rerun: Rerun,
) -> Iterator[Path]:
    """Runs jobs and adds to the manifest of each, once it has ended, how its values were chosen."""
    begun: list[tuple[Path, Tuning | None]] = []
    paths = executor.execute([job for job, _ in jobs], group_of, rerun)
    try:
        for path, (_, tuning) in zip(paths, jobs, strict=True):
            begun = [one for one in begun if not _amended(*one)]
            begun.append((path, tuning))
            yield path
    finally:
        paths.close()  # which ends runs that were broken off, so that their folders are free
        for one in begun:
            _amended(*one)


def _amended(path: Path, tuning: Tuning | None) -> bool:
    """Says in the manifest of a run how its values were chosen, unless it is being written."""
    if tuning is None:
        return True
    if is_locked(path):
        return False
    amend_manifest(path, {"tuning": tuning.to_dict()})
    return True
