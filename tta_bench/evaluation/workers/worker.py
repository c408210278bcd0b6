"""The worker's side: it loads a model once and does tasks until there are none."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from tta_bench.evaluation.workers.messages import (
    Began,
    Done,
    End,
    Ended,
    Failed,
    Hello,
    Load,
    Loaded,
    Read,
    Said,
    Scored,
)

if TYPE_CHECKING:
    import torch

    from tta_bench.engine.loop import DocumentResult
    from tta_bench.evaluation.job import SettingSpec
    from tta_bench.evaluation.part import Part
    from tta_bench.evaluation.setting import Setting
    from tta_bench.evaluation.workers.messages import Task, Where
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.loading import ModelKey

_INTERVAL = 0.2
"""Seconds between two words on how far it has come, at least."""


class Channel(Protocol):
    """The way to the driver: a pipe, or whatever else carries messages."""

    def send(self, message: Any, /) -> None:
        """Sends a message; raises BrokenPipeError once the driver listens no more."""

    def recv(self) -> Any:
        """The next task, waited for; raises EOFError once none will come."""


class Sender:
    """What a measurement finds, on its way to the driver."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._tokens, self._nll = 0, 0.0
        self._last = time.monotonic()

    def send(self, message: object) -> None:
        self._channel.send(message)

    def store(self, result: DocumentResult) -> None:
        self._flush()
        what = result.index, result.status, result.reason, result.nll, result.top1
        self.send(Ended(*what, result.seconds, result.figures, result.probe_nll))

    def show(self, tokens: int, nll: float) -> None:
        self._tokens += tokens
        self._nll += nll
        if time.monotonic() - self._last >= _INTERVAL:
            self._flush()

    def note(self, sentence: str) -> None:
        self.send(Said(sentence))

    def _flush(self) -> None:
        if self._tokens:
            self.send(Scored(self._tokens, self._nll))
        self._tokens, self._nll = 0, 0.0
        self._last = time.monotonic()


class Worker:
    """A model, and the part of a run that is being done with it."""

    def __init__(self, channel: Channel):
        self.sender = Sender(channel)
        self._model: tuple[ModelKey, LanguageModel] | None = None
        self._settings: dict[SettingSpec, Setting] = {}
        self._part: tuple[int, Part] | None = None

    def do(self, task: Task) -> None:
        """Does a task and says so."""
        from tta_bench.engine.determinism import deterministic_algorithms

        spec = task.setting if isinstance(task, Load) else task.where.job.setting
        with deterministic_algorithms(spec.deterministic):
            if isinstance(task, Load):
                self._load(spec)
                return
            part = self._entered(task.where)
            if isinstance(task, Read):
                self._read(part, task)
                self.sender.send(Done(part.broken))
                return
            end = (
                part.end(task.where.folder, task.shapes, task.spoiled, task.broken)
                if isinstance(task, End)
                else part.leave()
            )
            self._part = None
            if end.spoiled is not None:
                self._forget()
            self.sender.send(Done(end.broken, end))

    def _read(self, part: Part, task: Read) -> None:
        """Reads a shard."""
        lanes = task.where.lanes
        part.set_up(lanes, len(task.indices))
        self.sender.send(Began())
        part.read(task.indices, lanes)

    def _entered(self, where: Where) -> Part:
        """The part of that run, taken up where it is, or begun."""
        from tta_bench.errors import StorageError
        from tta_bench.evaluation.part import Part

        if self._part is None or self._part[0] != where.number:
            self._part = None
            if not where.folder.is_dir():
                raise StorageError(
                    f"{where.folder} is not there where a worker is; name a folder with --results "
                    "that all machines share."
                )
            setting = self._setting(where)
            choice = where.job.method.choice()
            if setting.model.spread_over:  # which the driver, without weights, could not know
                setting.check_method(choice)
            part = Part(setting, choice, where.artifacts, self.sender, where.debug)
            self._part = where.number, part
        return self._part[1]

    def _setting(self, where: Where) -> Setting:
        from tta_bench.errors import ChangedError
        from tta_bench.evaluation.setting import open_setting
        from tta_bench.model.identity import describe_model, model_identity

        spec = where.job.setting
        model = self._loaded(spec)
        if model_identity(describe_model(model)) != where.identity:
            raise ChangedError(
                f"{model.name} was changed while it was in use: run the command again."
            )
        if spec not in self._settings:
            self._settings[spec] = open_setting(spec, model)
        found = self._settings[spec]
        if found.documents.fingerprint != where.fingerprint:
            raise ChangedError(
                f"{spec.dataset} was changed while it was in use: run the command again."
            )
        return replace(found, lanes=where.lanes)

    def _load(self, spec: SettingSpec) -> None:
        from tta_bench.model.identity import describe_model

        model = self._loaded(spec)
        self.sender.send(Loaded(describe_model(model), model.acceptance))

    def _loaded(self, spec: SettingSpec) -> LanguageModel:
        from tta_bench.model.load import load_model

        if self._model is None or self._model[0] != spec.model_key:
            self._forget()
            self.sender.send(Said(f"loading {spec.model}", remark=True))
            self._model = spec.model_key, load_model(*spec.model_key)
        return self._model[1]

    def _forget(self) -> None:
        self._model = None
        self._settings.clear()


def serve(channel: Channel, device: str, threads: int) -> None:
    """Does tasks until there are none; the first message says that it is ready."""
    debug = False
    try:
        channel.send(_hello(device, threads))
        worker = Worker(channel)
        while True:
            try:
                task = channel.recv()
            except EOFError:
                return
            debug = task.debug if isinstance(task, Load) else task.where.debug
            worker.do(task)
    except BrokenPipeError:  # the driver is gone
        return
    except BaseException as error:
        sentence = traceback.format_exc() if debug else str(error).split("\n")[0]
        channel.send(Failed(type(error).__name__, sentence))


def _hello(device: str, threads: int) -> Hello:
    import torch

    from tta_bench.model.device import pick_device
    from tta_bench.store.environment import describe_device, describe_platform, describe_software

    torch.set_num_threads(threads)
    chosen = pick_device(device)
    found: dict[str, Any] = describe_device(str(chosen), torch)
    return Hello(found, describe_platform(torch), describe_software(), card_of(chosen))


def card_of(device: torch.device) -> str | None:
    """The UUID of a GPU, by which one is told from another of its name; None of what is none."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
