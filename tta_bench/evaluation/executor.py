"""The executor of today: this process does one job after another."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.evaluation.manifest import run_manifest
from tta_bench.evaluation.plan import by_model
from tta_bench.evaluation.run import run_method
from tta_bench.evaluation.setting import Setting, open_settings
from tta_bench.model.load import load_model
from tta_bench.store import FAILED, Rerun, RunWriter, is_whole, load_run, run_folder

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.job import Job, SettingSpec
    from tta_bench.evaluation.observer import Observer
    from tta_bench.model.language_model import LanguageModel

GroupOf = Callable[[dict[str, Any]], Path]
"""The folder of the group that a run belongs to, by its manifest."""


class ThisProcess:
    """Does jobs in this process: one model in memory, loaded once for consecutive jobs on it.

    Args:
        observer: is told how far each method has come.
        debug: let exceptions of methods through.
    """

    def __init__(self, observer: Observer, debug: bool = False):
        self.observer = observer
        self.debug = debug
        self._model: tuple[tuple[str, str, str, bool], LanguageModel] | None = None

    def execute(self, jobs: Sequence[Job], group_of: GroupOf, rerun: Rerun) -> Iterator[Path]:
        """Does what is not stored yet; yields the folder of each run as it begins.

        Raises:
            BenchError: a setting cannot be opened; told before the first method on its model runs.
        """
        for jobs_of_model in by_model(jobs):
            deterministic = jobs_of_model[0].setting.deterministic
            with deterministic_algorithms(deterministic):
                model = self.load(jobs_of_model[0].setting)
                for setting, choices in open_settings(jobs_of_model, model):
                    for choice in choices:
                        setting.model = self.load(setting.spec)  # anew where a method spoiled it
                        yield from self.run(setting, choice, group_of, rerun)

    def load(self, spec: SettingSpec) -> LanguageModel:
        """The setting's model: the one in memory where it is that, else loaded in its place."""
        if self._model is None or self._model[0] != spec.model_key:
            self._model = None  # never two models in memory
            self._model = spec.model_key, load_model(*spec.model_key)
        return self._model[1]

    def forget_model(self) -> None:
        """Loads the model anew when it is needed next: a method has changed it."""
        self._model = None

    def run(
        self, setting: Setting, choice: MethodChoice, group_of: GroupOf, rerun: Rerun
    ) -> Iterator[Path]:
        """Runs one method in an opened setting, as far as it is not stored; yields its folder."""
        manifest = run_manifest(setting, choice)
        group = group_of(manifest)
        path = run_folder(group, manifest)
        if is_whole(path, manifest, rerun):
            yield path
            self._say_whole(path, setting.spec)
            return
        with RunWriter.resume(group, manifest, rerun) as writer:
            yield writer.path
            if not run_method(setting, choice, writer, self.observer, self.debug):
                self.forget_model()
        gc.collect()

    def _say_whole(self, path: Path, spec: SettingSpec) -> None:
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
