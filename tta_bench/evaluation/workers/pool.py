"""The executor of workers: they read and judge, and this process plans and writes."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench import errors
from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import plugin_files
from tta_bench.errors import BenchError, ChangedError, MethodError, ModelError, WeightlessError
from tta_bench.evaluation.executor import Executor
from tta_bench.evaluation.job import Job
from tta_bench.evaluation.manifest import run_manifest
from tta_bench.evaluation.record import Record
from tta_bench.evaluation.run import artifacts_of
from tta_bench.evaluation.shards import planned_lanes
from tta_bench.evaluation.workers.feed import Feed
from tta_bench.evaluation.workers.messages import (
    Began,
    Done,
    Ended,
    Failed,
    Hello,
    Load,
    Loaded,
    Said,
    Scored,
    Where,
)
from tta_bench.evaluation.workers.open_run import OpenRun, close_all
from tta_bench.model.identity import model_identity
from tta_bench.model.shape import load_shape
from tta_bench.store import Rerun, RunWriter, is_whole, run_folder
from tta_bench.store.jsonable import jsonable, without_private_paths
from tta_bench.store.key import run_key

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.group import GroupOf
    from tta_bench.evaluation.job import SettingSpec
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.setting import Setting
    from tta_bench.evaluation.workers.crew import Crew, Member
    from tta_bench.evaluation.workers.feed import Work
    from tta_bench.evaluation.workers.messages import Task
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.loading import ModelKey


class Pool(Executor):
    """Has workers do jobs, which share the documents of a run among them.

    A run's rows are written by this process alone. Settings are opened here without the weights of
    their model.

    Args:
        crew: the workers.
        observer: is told how far each method has come.
        debug: let exceptions of methods through.
    """

    def __init__(self, crew: Crew[Any], observer: Observer, debug: bool = False):
        super().__init__(observer, debug)
        self._crew = crew
        self._loaded: dict[ModelKey, Loaded] = {}
        self._load_deaths = 0
        self._runs: list[OpenRun] = []
        self._begun = 0

    def read_model(self, spec: SettingSpec) -> LanguageModel:
        try:
            return load_shape(*spec.model_key)
        except WeightlessError as error:
            raise ModelError(
                f"{spec.model} cannot be described without its weights, which workers need; leave "
                "out --workers and --ray."
            ) from error

    def run_all(
        self, work: Iterable[Work], group_of: GroupOf, rerun: Rerun
    ) -> Generator[Path, None, None]:
        try:
            yield from self._work_through(Feed(work), group_of, rerun)
        except BaseException as error:
            self.close()
            close_all(self._runs, error)
            raise
        finally:
            self._runs = []

    def close(self) -> None:
        """Ends all workers at once: what has come back from them is stored."""
        self._crew.close()

    def _work_through(
        self, feed: Feed, group_of: GroupOf, rerun: Rerun
    ) -> Generator[Path, None, None]:
        while True:
            yield from self._skip_whole(feed, group_of, rerun)
            if feed.first is None and not self._runs:
                break
            if not self._crew.is_open:
                assert feed.first is not None
                for note in self._crew.open(feed.first[0].spec):
                    self.observer.note(note)
            self._crew.fill()
            for worker in self._crew.members:
                yield from self._hand_out(worker, feed, group_of, rerun)
            self._listen()
        feed.raise_error()

    def _hand_out(
        self, worker: Member, feed: Feed, group_of: GroupOf, rerun: Rerun
    ) -> Generator[Path, None, None]:
        """Gives a task to a worker that has none; opens a run where there is none to share."""
        while worker.idle:
            task = self._task(worker)
            if task is None:
                yield from self._skip_whole(feed, group_of, rerun)
                if feed.first is None:
                    return
                setting, choice = feed.first
                if setting.spec.model_key in self._loaded:
                    try:
                        run = self._open(worker, setting, choice, group_of, rerun)
                    except BenchError as error:
                        feed.stop(error)
                        return
                    feed.take()
                    yield run.writer.path
                    continue
                task = Load(setting.spec, self.debug)
            worker.give(task)

    def _skip_whole(
        self, feed: Feed, group_of: GroupOf, rerun: Rerun
    ) -> Generator[Path, None, None]:
        """Goes on to what is not stored whole; yields the folder of each run that is."""
        while feed.first is not None and not feed.looked_at:
            setting, choice = feed.first
            manifest = run_manifest(setting, choice, described=False)
            path = run_folder(group_of(manifest), manifest)
            feed.looked_at = not is_whole(path, manifest, rerun)
            if not feed.looked_at:
                yield path
                self.say_whole(path, setting.spec)
                feed.take()

    def _task(self, worker: Member) -> Task | None:
        """The next task in the run that the worker is in, else in one of its model, else any."""
        assert worker.hello is not None
        for run in self._runs:
            if run.has(worker.number):
                return run.task(worker.number, worker.hello)
        for run in self._runs:
            if run.waits:
                return run.task(worker.number, worker.hello)
        return None

    def _open(
        self,
        worker: Member,
        setting: Setting,
        choice: MethodChoice,
        group_of: GroupOf,
        rerun: Rerun,
    ) -> OpenRun:
        """Begins a run."""
        assert worker.hello is not None
        loaded = self._loaded[setting.spec.model_key]
        setting.model.acceptance = loaded.acceptance
        setting.check()
        manifest = self._manifest(setting, choice, worker.hello, loaded)
        writer = RunWriter.resume(group_of(manifest), manifest, rerun)
        try:
            self._begun += 1
            where = Where(
                self._begun,
                Job(setting.spec, MethodSpec.of(choice, plugin_files())),
                model_identity(loaded.description),
                setting.documents.fingerprint,
                writer.path,
                artifacts_of(writer),
                planned_lanes(setting),
                self.debug,
            )
            run = OpenRun(where, writer, Record(setting, choice, writer, self.observer.beside()))
        except BaseException as error:
            writer.__exit__(type(error), error, error.__traceback__)
            raise
        self._runs.append(run)
        return run

    def _manifest(
        self, setting: Setting, choice: MethodChoice, hello: Hello, loaded: Loaded
    ) -> dict[str, Any]:
        """The run's manifest: where it is made is where its workers are."""
        manifest = run_manifest(setting, choice)
        manifest["model"] = without_private_paths(jsonable(loaded.description))
        if run_key(manifest) != manifest["key"]:
            raise ChangedError(
                f"{setting.model.name} was changed while it was in use: run the command again."
            )
        manifest |= {"lanes": planned_lanes(setting), "device": hello.device}
        manifest |= {"platform": hello.platform, "software": hello.software}
        return manifest | {"workers": self._crew.facts()}

    def _listen(self) -> None:
        """Takes what workers have sent, and notices those that have ended."""
        for worker, message in self._crew.listen():
            if message is None:
                self._replace(worker)
            else:
                self._take(worker, message)
        self._runs = [run for run in self._runs if not run.over]

    def _take(self, worker: Member, message: object) -> None:
        if isinstance(message, Hello):
            worker.hello = message
        elif isinstance(message, Loaded):
            assert isinstance(worker.task, Load)
            self._loaded.setdefault(worker.task.setting.model_key, message)
            worker.task = None
        elif isinstance(message, Failed):
            raise _error(message, worker)
        elif isinstance(message, Began):
            worker.began = True
        elif isinstance(message, Said):
            run = self._run_of(worker)
            if message.remark or run is None:
                self.observer.remark(f"worker {worker.number}: {message.sentence}")
            else:
                run.record.note(message.sentence)
        else:
            run = self._run_of(worker)
            assert run is not None
            if isinstance(message, Ended):
                run.store(worker.number, message)
            elif isinstance(message, Scored):
                run.show(worker.number, message.tokens, message.nll)
            elif isinstance(message, Done):
                worker.task = None
                if message.end is not None:
                    run.left(worker.number, message.end)
                elif message.broken is not None:
                    run.broke(message.broken)

    def _run_of(self, worker: Member) -> OpenRun | None:
        return next((run for run in self._runs if run.has(worker.number)), None)

    def _replace(self, worker: Member) -> None:
        """Frees the place of a worker that has ended for another; its task is done once more."""
        status, reason = worker.ended()
        if worker.hello is None:
            raise BenchError(f"worker {worker.number} could not start: {reason}.")
        run, task = self._run_of(worker), worker.task
        if isinstance(task, Load):
            self._load_deaths += 1
            if self._load_deaths > 1:
                raise ModelError(f"{task.setting.model} cannot be loaded: {reason}.")
        if run is not None:
            self.observer.note(f"worker {worker.number}: {reason}; another one goes on.")
            run.died(worker.number, task, worker.began, (status, reason))
        self._crew.dismiss(worker)


def _error(failed: Failed, worker: Member) -> BenchError:
    """What a worker raised, as an error of this process."""
    if worker.hello is None:
        return BenchError(f"worker {worker.number} could not start: {failed.sentence}")
    kind = getattr(errors, failed.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, BenchError)):
        return MethodError(f"worker {worker.number}: {failed.kind}: {failed.sentence}")
    return BenchError(failed.sentence) if kind is errors.UnreachableError else kind(failed.sentence)
