"""Makes a stored run again, from its manifest alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import available, is_held
from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.errors import BenchError, DocumentError, ModelError, UsageError
from tta_bench.evaluation.executor import ThisProcess
from tta_bench.evaluation.job import Job
from tta_bench.evaluation.plan import setting_specs
from tta_bench.evaluation.recorded import recorded_suite
from tta_bench.evaluation.setting import open_setting
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.store import Run, create_group, load_run
from tta_bench.store.groups import slug
from tta_bench.store.manifest import section

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.engine.protocol import Protocol
    from tta_bench.evaluation.job import SettingSpec
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.setting import Setting
    from tta_bench.evaluation.suite import Suite
    from tta_bench.model.language_model import LanguageModel


class Rerunner:
    """Repeats stored runs one after another; runs of one model load it once.

    Args:
        results: the folder that the new runs land in, each group in one called `reproduce-GROUP`.
        observer: is told how far each has come.
        limit: read the first so many documents only.
        debug: let exceptions of methods through.
    """

    def __init__(
        self, results: Path, observer: Observer, limit: int | None = None, debug: bool = False
    ):
        self.results = results
        self.limit = limit
        self._executor = ThisProcess(observer, debug)

    def run(self, stored: Run) -> tuple[Run, tuple[str, ...]]:
        """The same job done from the start, and what is to be said of how.

        Raises:
            UsageError: the manifest names a method that is not here, or what no run can be made of.
            ModelError: its weights cannot be had, or are others.
            DocumentError: its documents cannot be had.
            MethodError: the method cannot be imported.
        """
        _, note = _threads(stored.manifest)
        with self.opened(stored) as (setting, choice):
            group = create_group(
                f"reproduce-{slug(stored.path.resolve().parent.name)}",
                base="",
                digest="",
                results=self.results,
            )
            (path,) = self._executor.run(setting, choice, lambda manifest: group, "all")
        return load_run(path), (note,) if note else ()

    @contextmanager
    def opened(self, stored: Run) -> Iterator[tuple[Setting, MethodChoice]]:
        """The setting and the method of a stored run, with the threads that it had.

        Raises:
            BenchError: as `run`.
        """
        job = job_of(stored, self.limit)
        choice = job.method.choice()
        threads, _ = _threads(stored.manifest)
        with _thread_count(threads), deterministic_algorithms(job.setting.deterministic):
            setting = self._open(stored, job.setting)
            setting.check_method(choice)
            yield setting, choice

    def forget_model(self) -> None:
        """Loads the model anew for the next run: a method has changed it."""
        self._executor.forget_model()

    def _open(self, stored: Run, spec: SettingSpec) -> Setting:
        model = self._model(stored, spec)
        try:
            setting = open_setting(spec, model)
        except DocumentError as error:
            raise DocumentError(f"the documents of {stored.path} cannot be had: {error}") from error
        then = {row.index: row.sha256 for row in stored.rows}
        same = [d.sha256 == then.get(index) for index, d in enumerate(setting.documents)]
        if not any(same):  # before hours are spent on what nothing can be compared with
            raise DocumentError(
                f"the documents of {stored.path} cannot be had: {spec.dataset} holds other "
                "texts here (those of a Python or a package are of its version)."
            )
        return setting

    def _model(self, stored: Run, spec: SettingSpec) -> LanguageModel:
        try:
            model = self._executor.load(spec)
        except BenchError as error:
            raise ModelError(f"the weights of {stored.path} cannot be had: {error}") from error
        then = model_identity(stored.manifest["model"])
        if "name" not in then and then != model_identity(describe_model(model)):
            raise ModelError(
                f"the weights of {stored.path} cannot be had: {spec.model} has other hashes now; "
                "bring back the files that the manifest names."
            )
        return model


def job_of(stored: Run, limit: int | None = None) -> Job:
    """The job that a stored run was, with its documents cut to the first `limit`.

    The method has the parameters of the manifest: its spec rounds them, and defaults may move.

    Raises:
        UsageError: the manifest holds values that no job can, names a method that is not known
            here, or a limit would change what is read instead of leaving out what comes last.
    """
    (setting,) = setting_specs(suite_of(stored, limit))
    device = _device(str(section(stored.manifest, "device").get("type")))
    name, params = stored.method, section(stored.manifest["method"], "params")
    unknown = [p for p in name.split("+") if not is_held(p) and p not in available()]
    if unknown:
        raise UsageError(
            f"the method '{unknown[0]}' of {stored.path} is not known here; "
            "name the file that registers it with --plugin FILE."
        )
    return Job(replace(setting, device=device), MethodSpec(name, params))


def suite_of(stored: Run, limit: int | None = None) -> Suite:
    """The suite that asks for a stored run alone, its documents cut to the first `limit`.

    Raises:
        UsageError: as `job_of`.
    """
    suite = recorded_suite(stored.manifest, f"the manifest of {stored.path}")
    suite.lanes = str(stored.lanes or "auto")
    suite.limit = _documents(stored, suite.resolved_protocol(), suite.limit, limit)
    return suite


def _documents(stored: Run, protocol: Protocol, own: int | None, limit: int | None) -> int | None:
    """How many documents to read: as many as were read, or as asked for."""
    if not stored.rows:
        raise UsageError(f"{stored.path} has read no document yet; there is nothing to compare.")
    if protocol.join is not None:
        if limit is not None:
            raise UsageError(
                f"--limit cannot shorten a run under --protocol {protocol.name}, which joins its "
                "documents into one; leave it out."
            )
        return own
    read = stored.rows[-1].index + 1
    if own is None and limit is None and read == stored.manifest["dataset"].get("documents"):
        return None
    return min(number for number in (read, own, limit) if number is not None)


def _device(kind: str) -> str:
    """The kind of device the run had where there is one, else whatever there is."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return kind if there.get(kind) else "auto"


def _threads(manifest: dict[str, Any]) -> tuple[int | None, str | None]:
    """The threads that the run had, and a note where that is a guess.

    Another number splits sums otherwise, which moves the last bits. Never more than there are
    cores: threads that wait for one another would take for ever.
    """
    platform = section(manifest, "platform")
    here = os.cpu_count() or 1
    threads, cores = platform.get("threads"), platform.get("cores")
    if isinstance(threads, int) and threads > 0:
        return min(threads, here), None
    if isinstance(cores, int) and cores > 0:
        now = min(cores, here)
        return now, f"the run does not say how many threads it had; now {now}, for {cores} cores"
    return None, None


@contextmanager
def _thread_count(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
