"""One method measured on documents in a setting; what it finds is handed on as it comes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Protocol

import torch

from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import plugin_files
from tta_bench.engine.compiling import compiles
from tta_bench.engine.flop_check import flops_per_token
from tta_bench.engine.isolation.child import Origin
from tta_bench.engine.isolation.host import Host
from tta_bench.engine.lanes import give_back
from tta_bench.engine.loop import DocumentResult
from tta_bench.engine.streams import full_step
from tta_bench.engine.trial import Trial, TrialSetup, halved_until_it_fits
from tta_bench.errors import ChangedError
from tta_bench.evaluation.part_costs import PartCosts, ProbeCosts, Reading
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.store.jsonable import jsonable, without_private_paths

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.engine.probe import Probe
    from tta_bench.evaluation.setting import Setting
    from tta_bench.model.step_shape import StepShape


class Sink(Protocol):
    """Takes what a measurement finds."""

    def store(self, result: DocumentResult) -> None:
        """A document has ended."""

    def show(self, tokens: int, nll: float) -> None:
        """Tokens were scored, with that sum of losses; below 0 where some will be read again."""

    def note(self, sentence: str) -> None:
        """A sentence that the user must see, once."""


@dataclasses.dataclass
class _Shown:
    """What one attempt has shown to the user, and the part of it that has ended in rows."""

    shown_tokens: int = 0
    shown_nll: float = 0.0
    tokens: int = 0
    nll: float = 0.0
    seconds: float = 0.0


def trial_setup(setting: Setting, choice: MethodChoice, debug: bool = False) -> TrialSetup:
    """What all trials of a method in a setting have in common."""
    longest = setting.documents.max_tokens_per_document
    return TrialSetup(
        setting.model,
        choice,
        setting.protocol,
        setting.prefix_id,
        full_step(setting.protocol, longest),
        setting.spec.seed,
        longest,
        debug,
        isolated_host(setting, choice) if setting.spec.isolate else None,
        setting.probe,
    )


class Measurement:
    """A method that reads documents of a setting, as many at a time as it is told.

    It is built and warmed up once, and goes on with the next documents where it is. If memory runs
    out, documents that have ended stay, those in flight start again, and half the lanes go on.
    Documents that ended in an attempt that was given up count with their tokens and their share of
    its time; what was thrown away counts nowhere. Peaks of memory, times of steps and lanes are
    those of the last attempt.

    Args:
        setting: model and documents.
        choice: the method.
        artifacts: the hashes of the files that the method loads, as the manifest has them.
        sink: takes what is found.
        debug: let exceptions of the method through.

    Attributes:
        setup: what each attempt is made of.
        lanes: the number of lanes of the present attempt.
    """

    def __init__(
        self,
        setting: Setting,
        choice: MethodChoice,
        artifacts: Mapping[str, Any],
        sink: Sink,
        debug: bool,
    ):
        self.setting = setting
        self.choice = choice
        self.sink = sink
        self.lanes = 1
        self.setup = trial_setup(setting, choice, debug)
        self._artifacts = artifacts
        self._trial: Trial | None = None
        self._raised = False  # in the present attempt, whose method may be in any state since
        self._now = _Shown()
        self._given_up: list[Reading] = []

    def set_up(self, lanes: int) -> None:
        """Builds the method on so many lanes, or on fewer where they do not fit."""
        if self._trial is None:
            halved_until_it_fits(lanes, self._build, self._give_up)

    def read(self, indices: Sequence[int], lanes: int) -> list[int]:
        """Reads documents by their indices, on so many lanes, or on fewer where they do not fit.

        Returns:
            The documents that were not read, because the method raised in those before them; a
            fresh instance will read what comes next.
        """
        if self._trial is not None:
            lanes = self.lanes  # as many as did fit
        left = list(indices)
        halved_until_it_fits(lanes, lambda lanes: self._attempt(lanes, left), self._give_up)
        return left

    def lanes_that_fit(self, documents: int) -> int:
        """As many lanes as fit into the GPU's memory, to read so many documents."""
        longest = self.setting.documents.max_tokens_per_document
        return self.setup.lanes_that_fit(documents, ceil(longest / self.setup.shape.scored))

    def costs(self) -> PartCosts:
        """What has been read so far, in figures."""
        trial = self._built()
        return PartCosts(
            lanes=self.lanes,
            compiled=trial.engine.compile,
            captured=trial.engine.cuda_graph is not None,
            warm_up_seconds=trial.warm_up_seconds,
            step_seconds=tuple(trial.engine.timer.seconds),
            step_tokens=tuple(trial.engine.timer.tokens),
            given_up=tuple(self._given_up),
            peaks=self._peaks(trial),
            state_bytes_per_lane=trial.method.state_bytes(),
            offline_flops=trial.method.offline_flops,
            offline_seconds=_offline_seconds(trial),
            flops=trial.flops,
            probe=_probe_costs(trial.engine.probe),
        )

    def flops_per_token(self, shapes: Mapping[StepShape, int]) -> float | None:
        """FLOPs per scored token over so many steps of each shape; None if they are not known."""
        trial = self._built()
        return flops_per_token(trial.method, trial.flops, shapes)

    def end(self) -> None:
        """Frees the method."""
        self._trial = None

    def _built(self) -> Trial:
        self.set_up(self.lanes)
        assert self._trial is not None
        return self._trial

    def _build(self, lanes: int) -> None:
        self.lanes = lanes
        self._now = _Shown()
        if self.setup.host is not None and not self.setup.host.lives:
            self.setup.host.start()  # not the method's time
        trial = Trial(self.setup, lanes, self._compiles(lanes))
        self._check_artifacts()
        notes = [f"{self.choice.spec}: {note}" for note in trial.method.notes]
        for sentence in [*trial.flops.warnings, *notes]:
            self.sink.note(sentence)
        self._trial = trial

    def _attempt(self, lanes: int, left: list[int]) -> None:
        """Reads what is left, on so many lanes.

        Raises:
            MemoryError: memory ran out while reading, and fewer lanes may do.
        """
        if self._raised:
            self._close_attempt()
        if self._trial is None:
            self._build(lanes)
        assert self._trial is not None
        pending = list(left)
        if self.lanes > 1:  # the longest first, so that several lanes end together
            lengths = self.setting.documents.lengths
            pending.sort(key=lambda index: -lengths[index])
        documents = (self.setting.documents[index] for index in pending)
        for result in self._trial.engine.run(documents, self._show):
            if result.status == "oom" and self.lanes > 1:
                raise MemoryError(result.reason)
            self._take(dataclasses.replace(result, index=pending[result.index]))
            left.remove(pending[result.index])
            self._raised = self._raised or result.status in ("oom", "error")

    def _take(self, result: DocumentResult) -> None:
        self._now.seconds += result.seconds
        if result.nll is not None:
            self._now.tokens += len(result.nll)
            self._now.nll += float(result.nll.sum(dtype="float64"))
        self.sink.store(result)

    def _show(self, tokens: int, nll: float) -> None:
        self._now.shown_tokens += tokens
        self._now.shown_nll += nll
        self.sink.show(tokens, nll)

    def _close_attempt(self) -> None:
        """Frees the attempt's memory and counts what it has read to the end."""
        self._trial = None
        self._raised = False
        give_back(self.setting.model.device)
        self._given_up.append(Reading(self._now.tokens, self._now.seconds))

    def _give_up(self, lanes: int, fewer: int) -> None:
        """Takes back what will be read again."""
        now = self._now
        self._close_attempt()
        self.sink.show(now.tokens - now.shown_tokens, now.nll - now.shown_nll)
        self.sink.note(
            f"{self.choice.spec}: memory ran out with {lanes} lanes; it goes on with {fewer}."
        )

    def _peaks(self, trial: Trial) -> dict[str, int | None]:
        """Peaks of memory; unknown where the method has a process of its own."""
        peak = trial.peak()
        peaks = {
            "peak_allocated_bytes": peak.allocated_bytes,
            "peak_reserved_bytes": peak.reserved_bytes,
            "peak_process_bytes": peak.process_bytes,
        }
        return peaks if self.setup.host is None else dict.fromkeys(peaks)

    def _compiles(self, lanes: int) -> bool:
        if self.setup.host is not None:
            return False
        scored, lengths = self.setup.shape.scored, self.setting.documents.lengths
        steps = sum(ceil(length / scored) for length in lengths) / lanes
        return compiles(self.setting.spec.compile, self.setting.model.device, steps)

    def _check_artifacts(self) -> None:
        """Raises ChangedError if the files that the method loads are not those of the key."""
        choice, model = self.choice, self.setting.model
        now = without_private_paths(jsonable(choice.cls.artifacts(choice.params, model)))
        if now != self._artifacts:
            raise ChangedError(
                f"A file that {choice.spec} loads was changed while it was in use: run the command "
                "again."
            )


def isolated_host(setting: Setting, choice: MethodChoice) -> Host:
    """The process that a method gets for itself; it is not started yet."""
    spec = setting.spec
    method = MethodSpec.of(choice, plugin_files())
    identity = model_identity(describe_model(setting.model))
    threads = torch.get_num_threads()
    return Host(Origin(spec.model_key, identity, method, spec.deterministic, threads))


def _probe_costs(probe: Probe | None) -> ProbeCosts | None:
    if probe is None:
        return None
    return ProbeCosts(probe.fresh, probe.tokens, probe.readings, probe.seconds)


def _offline_seconds(trial: Trial) -> float | None:
    if not trial.method.offline_flops:
        return None
    said = trial.method.offline_seconds
    return trial.set_up_seconds if said is None else said
