"""The tuner: tries methods on tuning documents, stores each trial as a run, and says the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.space import Space
from tta_bench.errors import BenchError, UsageError
from tta_bench.evaluation.group import group_maker
from tta_bench.evaluation.job import Job
from tta_bench.evaluation.plan import choose_methods, setting_specs
from tta_bench.store import Rerun, load_run
from tta_bench.store.tuning import TunedParameter, TunedTrial, Tuning, TuningDocuments, store_choice
from tta_bench.tables.tuned import tuned_text
from tta_bench.tuning.axis import Axis
from tta_bench.tuning.parts import trials_base, trials_name
from tta_bench.tuning.sampled import MOST_GRID, require_optuna, sample
from tta_bench.tuning.search import Point, Search
from tta_bench.tuning.trial import trial_of

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.executor import Executor
    from tta_bench.evaluation.job import SettingSpec
    from tta_bench.evaluation.setting import Setting
    from tta_bench.evaluation.suite import Suite


@dataclass(frozen=True)
class Storage:
    """Where trials go, and which of those that are there are read again.

    Attributes:
        name: of the group of reported runs, which that of the trials follows; None for a name made
            of the documents.
        base: what such a name starts with.
        results: the folder of groups.
        rerun: as for `run_suite`.
    """

    name: str | None
    base: str | None
    results: Path
    rerun: Rerun


class Tuner:
    """Chooses the values of methods on the tuning documents of a suite.

    Args:
        suite: the suite on its tuning documents.
        executor: what makes the runs.
        storage: where they go.
        plugins: Python files that register methods, added already.
        trust_remote_code: whether code that a hub repository brings may run.
        trials: points that Optuna asks for, where a method has more sets than a grid can hold.
        command: what was called, for the manifest; None for the command line.

    Attributes:
        spaces: the methods that have sets of values, in order.

    Raises:
        UsageError: no method has a set, a method or a value is unknown, or nothing can be chosen.
    """

    def __init__(
        self,
        suite: Suite,
        executor: Executor,
        storage: Storage,
        plugins: Iterable[str] = (),
        trust_remote_code: bool = False,
        trials: int = 0,
        command: tuple[str, ...] | None = None,
    ):
        self.suite, self.storage, self.trials = suite, storage, trials
        self._executor, self._plugins = executor, tuple(plugins)
        self.spaces = [space for space in map(Space.of, suite.methods) if space.sets]
        self._check()
        self._specs = setting_specs(suite, trust_remote_code, command)
        self._group_of = group_maker(
            [job for model in suite.models for job in self.jobs(model, self.choices[:1])],
            name=trials_name(storage.name),
            base=trials_base(suite, storage.base),
            results=storage.results,
        )

    def _check(self) -> None:
        if not self.spaces:
            raise UsageError(
                "no method has a set of values to choose from; write one such as --method "
                "'dynamic-eval:lr=1e-5|3e-5|1e-4'."
            )
        if self.suite.audit == "off":
            raise UsageError("only audited trials can be chosen; leave --audit off out.")
        if not self.suite.datasets:
            raise UsageError("no documents are named; give --dataset, such as builtin:pydoc.")
        if any(len(space.sets) > MOST_GRID for space in self.spaces):
            require_optuna()
        choose_methods([space.spec for space in self.spaces if len(space.sets) <= MOST_GRID])

    @property
    def choices(self) -> list[MethodChoice]:
        """Methods of which each must be able to run: every combination, and of a space too large
        for a grid the first.
        """
        found = []
        for space in self.spaces:
            small = len(space.sets) <= MOST_GRID
            first = space.choice(next(space.combinations()))
            found += space.choices() if small else [first]
        return found

    def jobs(self, model: str, choices: Sequence[MethodChoice]) -> list[Job]:
        """The runs of methods with one model on all tuning documents, setting by setting."""
        methods = [MethodSpec.of(choice, self._plugins) for choice in choices]
        return [Job(spec, method) for spec in self.specs(model) for method in methods]

    def specs(self, model: str) -> list[SettingSpec]:
        """The settings of one model."""
        return [spec for spec in self._specs if spec.model == model]

    def tune(
        self, space: Space, settings: Sequence[Setting], reported: Sequence[Setting] = ()
    ) -> Tuning:
        """Chooses the values of one method, stores the choice with its trials, and says it.

        Args:
            space: the method with its sets.
            settings: the tuning documents, opened with one model.
            reported: where the best is to run; what cannot run there is not tried.

        Raises:
            UsageError: no trial can be chosen.
        """
        axes = [Axis.of(space, name) for name in space.sets]
        trials: dict[Point, TunedTrial] = {}

        def measure(points: Sequence[Point]) -> list[float | None]:
            values = [_values(axes, point) for point in points]
            found = self._trials(space, values, settings, (*settings, *reported))
            trials.update(zip(points, found, strict=True))
            return [trials[point].loss for point in points]

        def allowed(point: Point) -> bool:
            try:
                choice = space.choice(_values(axes, point))
                for setting in (*settings, *reported):
                    setting.check_method(choice)
            except BenchError:
                return False
            return True

        search = Search(axes, measure, allowed)
        observer = self._executor.observer
        observer.remark(f"tuning {space.spec} on {', '.join(s.spec.dataset for s in settings)}")
        by_grid = len(axes) <= MOST_GRID
        if by_grid:
            search.grid()
        else:
            sample(search, self.trials, self.suite.seed)
        search.refine()
        tuning = self._tuning(space, search, trials, settings)
        if not by_grid:
            sampler = {"name": "TPE", "trials": self.trials, "seed": self.suite.seed}
            tuning = dataclasses.replace(tuning, sampler=sampler)
        group = tuning.trials[0].runs[0].partition("/")[0]
        store_choice(self.storage.results / group, tuning)
        observer.remark(f"{tuning.chosen}: {tuned_text(tuning)}")
        return tuning

    def _trials(
        self,
        space: Space,
        points: Sequence[Mapping[str, str]],
        settings: Sequence[Setting],
        every: Sequence[Setting],
    ) -> list[TunedTrial]:
        """The trials of some points, of which several may run at a time."""

        def work() -> Iterator[tuple[Setting, MethodChoice]]:
            for values in points:
                for setting in settings:
                    model = self._executor.load(setting.spec)  # anew where a method spoiled it
                    for other in every:  # the spoiled one is held nowhere
                        other.model = model
                    yield setting, space.choice(values)

        paths = list(self._executor.run_all(work(), self._group_of, self.storage.rerun))
        runs, each = [load_run(path) for path in paths], len(settings)
        return [
            trial_of(values, runs[place * each : (place + 1) * each])
            for place, values in enumerate(points)
        ]

    def _tuning(
        self,
        space: Space,
        search: Search,
        trials: Mapping[Point, TunedTrial],
        settings: Sequence[Setting],
    ) -> Tuning:
        best = search.best
        if best is None:
            reason = next((t.reason for t in trials.values() if t.reason), "no point is allowed")
            raise UsageError(
                f"none of the {len(trials):,} trials of {space.spec} can be chosen: {reason}."
            )
        first = settings[0]
        flops = [trial.flops for trial in trials.values() if trial.flops is not None]
        return Tuning(
            space=space.spec,
            method=space.method,
            chosen=trials[best].spec,
            values=_values(search.axes, best),
            parameters=tuple(
                TunedParameter(
                    name=axis.name,
                    label=space.label(axis.name),
                    values=tuple(axis.values if axis.kind is None else axis.ordered),
                    given=tuple(axis.values[: axis.given]),
                    scale=axis.kind is not None,
                    edge=edge,
                )
                for axis, edge in zip(search.axes, search.edges(), strict=True)
            ),
            trials=tuple(trials.values()),
            documents=tuple(map(_documents, settings)),
            flops=sum(flops) if flops else None,
            model=first.spec.model,
            protocol=first.protocol.to_dict(),
            dtype=str(first.model.dtype).removeprefix("torch."),
        )


def _values(axes: Sequence[Axis], point: Point) -> dict[str, str]:
    return {axis.name: value for axis, value in zip(axes, point, strict=True)}


def _documents(setting: Setting) -> TuningDocuments:
    documents = list(setting.documents)
    return TuningDocuments(
        dataset=setting.spec.dataset,
        fingerprint=setting.documents.fingerprint,
        keys=tuple(document.key for document in documents),
        sha256=tuple(document.sha256 for document in documents),
        **vars(setting.spec.limits),
    )
