"""One method measured on the documents in a setting, and stored as it goes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from math import ceil
from typing import TYPE_CHECKING, Any

import torch

from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import plugin_files
from tta_bench.cost.flop_report import FlopReport
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.compiling import compiles
from tta_bench.engine.flop_check import flops_per_token
from tta_bench.engine.isolation.child import Origin
from tta_bench.engine.isolation.host import Host
from tta_bench.engine.lanes import give_back
from tta_bench.engine.loop import DocumentResult, Engine
from tta_bench.engine.outcome import outcome_of
from tta_bench.engine.streams import full_step
from tta_bench.engine.trial import Trial, TrialSetup, halved_until_it_fits
from tta_bench.evaluation.steps import step_shapes
from tta_bench.model.step_shape import StepShape
from tta_bench.store import FAILED, Row, RunWriter

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.observer import Observer
    from tta_bench.evaluation.setting import Setting


@dataclasses.dataclass
class _Reading:
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
    )


class Measurement:
    """One run of a method over the documents that are not done yet.

    If memory runs out, documents that have ended stay, those in flight start again, and half the
    lanes go on. Documents that ended in an attempt that was given up count with their tokens and
    their share of its time; what was thrown away counts nowhere. Peaks of memory, times of steps
    and lanes are those of the last attempt.

    Attributes:
        setup: what each attempt is made of.
        lanes: the number of lanes of the present attempt.
    """

    def __init__(
        self,
        setting: Setting,
        choice: MethodChoice,
        writer: RunWriter,
        progress: Observer,
        debug: bool,
    ):
        self.setting = setting
        self.choice = choice
        self.writer = writer
        self.progress = progress
        self.lanes = 1
        self.setup = trial_setup(setting, choice, debug)
        self._over: set[int] = set(writer.kept)
        self._shapes: Counter[StepShape] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._reason: str | None = None
        self._said: set[str] = set()
        self._ended = 0
        self._now = _Reading()
        self._given_up: list[_Reading] = []
        for row in writer.kept.values():
            self._count(row.status, row.reason, setting.documents[row.index])

    def run(self) -> dict[str, Any]:
        """Stores a row for each document; returns the summary."""
        self.lanes = self.setting.lanes or self._lanes_that_fit()
        return halved_until_it_fits(self.lanes, self._attempt, self._give_up)

    def broken(self, error: BaseException) -> dict[str, Any]:
        """Stores rows for the documents that a method would have read, had it not failed before."""
        status, reason = outcome_of(error)
        for index in self._pending()[: self.lanes]:
            self._store(DocumentResult(index, self.setting.documents[index], status, reason))
        return {"status": status, "reason": reason}

    def _lanes_that_fit(self) -> int:
        documents = self.setting.documents
        steps = ceil(documents.max_tokens_per_document / self.setup.shape.scored)
        return self.setup.lanes_that_fit(len(documents) - len(self._over), steps)

    def _attempt(self, lanes: int) -> dict[str, Any]:
        """Reads what is not done, on so many lanes.

        Raises:
            MemoryError: memory ran out while reading, and fewer lanes may do.
        """
        self.lanes = lanes
        self._now = _Reading()
        if self.setup.host is not None and not self.setup.host.lives:
            self.setup.host.start()  # not the method's time
        trial = Trial(self.setup, lanes, self._compiles(lanes))
        self._say_once(trial)
        self._read(trial.engine)
        return {
            **self._status(),
            "lanes": lanes,
            "compiled": trial.engine.compile,
            "captured": trial.engine.cuda_graph is not None,
            "warm_up_seconds": trial.warm_up_seconds,
            **self._times(trial.engine),
            **self._peaks(trial),
            "state_bytes_per_lane": trial.method.state_bytes(),
            "offline_flops": trial.method.offline_flops,
            "offline_seconds": _offline_seconds(trial),
            "flops_per_token": flops_per_token(trial.method, trial.flops, self._shapes),
            **_flop_check(trial.flops),
        }

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

    def _say_once(self, trial: Trial) -> None:
        """Tells the user what the trial's FLOPs and the method's notes say, if it is new."""
        notes = [f"{self.choice.spec}: {note}" for note in trial.method.notes]
        for sentence in [*trial.flops.warnings, *notes]:
            if sentence not in self._said:
                self.progress.note(sentence)
                self._said.add(sentence)

    def _read(self, engine: Engine) -> None:
        pending = self._pending()
        documents = (self.setting.documents[index] for index in pending)
        for result in engine.run(documents, self._show):
            if result.status == "oom" and self.lanes > 1:
                raise MemoryError(result.reason)
            result = dataclasses.replace(result, index=pending[result.index])
            self._store(result)
            self._ended += 1
            self._now.seconds += result.seconds
            if result.nll is not None:
                self._now.tokens += len(result.nll)
                self._now.nll += float(result.nll.sum(dtype="float64"))
            if result.status not in ("done", "skipped"):
                self.progress.note(f"{self.choice.spec}, {result.document.key}: {result.reason}")
            self.progress.update(0, 0.0, self._ended)

    def _show(self, tokens: int, nll: float) -> None:
        self._now.shown_tokens += tokens
        self._now.shown_nll += nll
        self.progress.update(tokens, nll, self._ended)

    def _give_up(self, lanes: int, fewer: int) -> None:
        """Frees the attempt's memory and takes back what will be read again."""
        give_back(self.setting.model.device)
        now = self._now
        self._given_up.append(now)
        lost = now.shown_tokens - now.tokens, now.shown_nll - now.nll
        self.progress.update(-lost[0], -lost[1], self._ended)
        self.progress.note(
            f"{self.choice.spec}: memory ran out with {lanes} lanes; it goes on with {fewer}."
        )

    def _pending(self) -> list[int]:
        """Documents to be read; the longest first where several lanes should end together."""
        documents = self.setting.documents
        pending = [index for index in range(len(documents)) if index not in self._over]
        if self.lanes > 1:
            lengths = documents.lengths
            pending.sort(key=lambda index: -lengths[index])
        return pending

    def _store(self, result: DocumentResult) -> None:
        document, nll = result.document, result.nll
        tokens = 0 if nll is None else len(nll)
        # Where a protocol leaves tokens out, no one can say which bytes the others cover.
        whole = tokens == len(document.token_ids)
        row = Row(
            key=document.key,
            index=result.index,
            status=result.status,
            tokens=tokens,
            bytes=document.n_bytes if whole else 0,
            words=document.n_words if whole else 0,
            seconds=result.seconds,
            sha256=document.sha256,
            reason=result.reason,
        )
        self.writer.append(row, nll)
        self._over.add(result.index)
        self._count(result.status, result.reason, document)

    def _count(self, status: str, reason: str | None, document: TokenizedDocument) -> None:
        self._outcomes[status] += 1
        if status == "done":
            self._shapes.update(step_shapes(self.setting, len(document.token_ids)))
        elif status in FAILED:
            self._reason = reason

    def _status(self) -> dict[str, Any]:
        outcomes, reason = self._outcomes, self._reason
        status = next((word for word in ("oom", "error") if outcomes[word]), "complete")
        if status == "complete" and not outcomes["done"]:
            status = "diverged" if outcomes["diverged"] else "error"
            reason = reason or "no document could be read"
        return {"status": status, "reason": reason if status != "complete" else None}

    def _times(self, engine: Engine) -> dict[str, Any]:
        time = engine.timer.summary()
        seconds, tokens = time.total_seconds, time.tokens
        if self._given_up:
            seconds = (seconds or 0.0) + sum(reading.seconds for reading in self._given_up)
            tokens += sum(reading.tokens for reading in self._given_up)
        return {
            "seconds": seconds,
            "timed_tokens": tokens,
            "tokens_per_second": tokens / seconds if seconds else None,
            "step_seconds_median": time.median_seconds,
            "step_seconds_p90": time.p90_seconds,
            "step_tokens_median": time.median_tokens,
        }


def isolated_host(setting: Setting, choice: MethodChoice) -> Host:
    """The process that a method gets for itself; it is not started yet."""
    spec = setting.spec
    method = MethodSpec.of(choice, plugin_files())
    return Host(Origin(spec.model_key, method, spec.deterministic, torch.get_num_threads()))


def _offline_seconds(trial: Trial) -> float | None:
    if not trial.method.offline_flops:
        return None
    said = trial.method.offline_seconds
    return trial.set_up_seconds if said is None else said


def _flop_check(report: FlopReport) -> dict[str, Any]:
    """The check of FLOPs at the widest step, for the summary."""
    seen = report.seen
    return {
        "flops_per_token_counted": None if seen is None else seen / report.shape.scored,
        "flops_check": {
            "inputs": report.shape.inputs,
            "scored": report.shape.scored,
            "past": report.shape.past,
            "analytic": report.analytic,
            "counted": report.counted,
            "invisible": report.invisible,
            "blind_ops": list(report.blind_ops),
        },
        "flops_agree": report.agrees,
        "flops_note": " ".join(report.warnings) or None,
    }
