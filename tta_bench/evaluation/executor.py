"""Executors: what turns a plan into stored runs, and the one that does so in this process."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.contract.method import Method
from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.evaluation.manifest import run_manifest
from tta_bench.evaluation.plan import by_model
from tta_bench.evaluation.run import run_method
from tta_bench.evaluation.setting import Setting, open_settings
from tta_bench.evaluation.shards import own_documents, shards
from tta_bench.format import listed, plural
from tta_bench.model.load import load_model
from tta_bench.store import FAILED, Rerun, RunWriter, is_whole, load_run, run_folder

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.group import GroupOf
    from tta_bench.evaluation.job import Job, SettingSpec
    from tta_bench.evaluation.observer import Observer
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.loading import ModelKey


class Executor(ABC):
    """Does jobs, each as far as it is not stored.

    Args:
        observer: is told how far each method has come.
        debug: let exceptions of methods through.
    """

    def __init__(self, observer: Observer, debug: bool = False):
        self.observer = observer
        self.debug = debug
        self._model: tuple[ModelKey, LanguageModel] | None = None

    def execute(
        self, jobs: Sequence[Job], group_of: GroupOf, rerun: Rerun
    ) -> Generator[Path, None, None]:
        """Does what is not stored yet; yields the folder of each run as it begins.

        Raises:
            BenchError: a setting cannot be opened; told before the first method on its model runs.
        """
        yield from self.run_all(self._opened(jobs), group_of, rerun)

    @abstractmethod
    def run_all(
        self, work: Iterable[tuple[Setting, MethodChoice]], group_of: GroupOf, rerun: Rerun
    ) -> Generator[Path, None, None]:
        """Runs methods in opened settings, as far as they are not stored; yields each folder.

        All have ended when this has; the next may begin before one has ended.
        """

    @abstractmethod
    def read_model(self, spec: SettingSpec) -> LanguageModel:
        """The model that settings are opened with."""

    def load(self, spec: SettingSpec) -> LanguageModel:
        """The setting's model: the one in memory where it is that, else loaded in its place."""
        if self._model is None or self._model[0] != spec.model_key:
            self._model = None  # never two models in memory
            self._model = spec.model_key, self.read_model(spec)
        return self._model[1]

    def forget_model(self) -> None:
        """Loads the model anew when it is needed next: a method has changed it."""
        self._model = None

    @abstractmethod
    def close(self) -> None:
        """Ends what was started for the work."""

    def _opened(self, jobs: Sequence[Job]) -> Iterator[tuple[Setting, MethodChoice]]:
        for jobs_of_model in by_model(jobs):
            with deterministic_algorithms(jobs_of_model[0].setting.deterministic):
                model = self.load(jobs_of_model[0].setting)
                datasets = dict.fromkeys(job.setting.dataset for job in jobs_of_model)
                self.observer.remark(f"tokenising {listed(datasets)}")
                for setting, choices in open_settings(jobs_of_model, model):
                    if not own_documents(setting):
                        self._remark_nothing(setting)
                        continue
                    self._remark_single_step(setting, choices)
                    for choice in choices:
                        setting.model = self.load(setting.spec)  # anew where a method spoiled it
                        yield setting, choice

    def _remark_single_step(self, setting: Setting, choices: Sequence[MethodChoice]) -> None:
        if setting.single_step and any(c.cls.adapt is not Method.adapt for c in choices):
            size = "--chunk" if setting.protocol.name == "stream" else "--window"
            self.observer.remark(
                f"one chunk covers every document of {setting.spec.dataset}: what a method learns "
                f"from a chunk comes too late to be used; lower {size}"
            )

    def _remark_nothing(self, setting: Setting) -> None:
        self.observer.note(
            f"{setting.spec.dataset} has {plural(len(shards(setting)), 'shard')}, fewer than "
            f"--shard {setting.spec.portion} asks for: nothing is left for this one"
        )

    def say_whole(self, path: Path, spec: SettingSpec) -> None:
        """Tells that a run is stored whole, and how it can be made again."""
        run = load_run(path)
        lacking = {
            "--deterministic": spec.deterministic and not run.manifest.get("deterministic"),
            "--isolate": spec.isolate and not run.summary.get("isolated"),
        }
        flags = " and ".join(flag for flag, lacks in lacking.items() if lacks)
        if flags:
            self.observer.note(
                f"{run.spec}: {path} was not run with {flags}; --rerun all does that"
            )
            return
        failed = sum(row.status in FAILED for row in run.rows)
        repeat = (
            f"{failed} failed: --rerun failed repeats them" if failed else "--rerun all repeats it"
        )
        self.observer.remark(
            f"{run.spec}: nothing to do, {path} has all {len(run.rows)} documents ({repeat})"
        )


class ThisProcess(Executor):
    """Does one job after another in this process: one model in memory, loaded once for consecutive
    jobs on it.
    """

    def read_model(self, spec: SettingSpec) -> LanguageModel:
        self.observer.remark(f"loading {spec.model}")
        return load_model(*spec.model_key)

    def close(self) -> None:
        self.forget_model()

    def run_all(
        self, work: Iterable[tuple[Setting, MethodChoice]], group_of: GroupOf, rerun: Rerun
    ) -> Generator[Path, None, None]:
        for setting, choice in work:
            yield from self.run(setting, choice, group_of, rerun)

    def run(
        self, setting: Setting, choice: MethodChoice, group_of: GroupOf, rerun: Rerun
    ) -> Iterator[Path]:
        """Runs one method in an opened setting, as far as it is not stored; yields its folder."""
        wanted = run_manifest(setting, choice, described=False)
        group = group_of(wanted)
        path = run_folder(group, wanted)
        if is_whole(path, wanted, rerun):
            yield path
            self.say_whole(path, setting.spec)
            return
        with RunWriter.resume(group, run_manifest(setting, choice), rerun) as writer:
            yield writer.path
            if not run_method(setting, choice, writer, self.observer, self.debug):
                self.forget_model()
        gc.collect()
