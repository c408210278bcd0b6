"""One method measured on one cell, with fewer lanes where memory does not suffice for more."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import ceil
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from tta_bench.contract.method import Method
from tta_bench.cost.memory import PeakMemory
from tta_bench.documents import TokenizedDocument
from tta_bench.engine.compiling import compiles
from tta_bench.engine.flop_check import FlopReport, check_flops, take_step
from tta_bench.engine.lanes import CudaMeter, give_back, measured_lanes
from tta_bench.engine.loop import DocumentResult, Engine, failure
from tta_bench.engine.streams import full_step
from tta_bench.model.step_shape import StepShape
from tta_bench.model.synthetic import SyntheticStream
from tta_bench.store import FAILED, Row, RunWriter

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.evaluation.progress import Progress
    from tta_bench.evaluation.setting import Cell

CHECKED_STEPS = 1


@dataclasses.dataclass
class _Reading:
    """What one attempt has shown to the user, and what of it has ended in a row."""

    shown_tokens: int = 0
    shown_nll: float = 0.0
    tokens: int = 0
    nll: float = 0.0
    seconds: float = 0.0


class Measurement:
    """One run of a method over the documents that are not done yet.

    Where memory runs out, the documents that have ended stay, those in flight start again, and
    half the lanes go on. Of an attempt that was given up, the documents that ended in it count
    with their tokens and their share of its steps' time; what was thrown away counts nowhere.
    Peaks, times of steps and lanes are those of the last attempt.

    Attributes:
        lanes: in the present attempt.
    """

    def __init__(
        self, cell: Cell, choice: MethodChoice, writer: RunWriter, progress: Progress, debug: bool
    ):
        self.cell = cell
        self.choice = choice
        self.writer = writer
        self.progress = progress
        self.debug = debug
        self.lanes = 1
        self._full_step = full_step(cell.protocol, cell.documents.max_tokens_per_document)
        self._over: set[int] = set(writer.kept)
        self._shapes: Counter[StepShape] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._reason: str | None = None
        self._warnings: set[str] = set()
        self._ended = 0
        self._now = _Reading()
        self._given_up: list[_Reading] = []
        for row in writer.kept.values():
            self._count(row.status, row.reason, cell.documents[row.index])

    def run(self) -> dict[str, Any]:
        """Stores a row for each document; returns the summary."""
        self.lanes = self.cell.lanes or self._measured_lanes()
        while True:
            self._now = _Reading()
            try:
                summary = self._attempt()
            except Exception as error:
                if self.lanes == 1 or failure(error)[0] != "oom":
                    raise
                summary = None
            if summary is not None:
                return summary
            self._give_up()

    def broken(self, error: BaseException) -> dict[str, Any]:
        """A method that failed before its first step: rows for the documents it would have read."""
        status, reason = failure(error)
        for index in self._pending()[: self.lanes]:
            self._store(DocumentResult(index, self.cell.documents[index], status, reason))
        return {"status": status, "reason": reason}

    def _measured_lanes(self) -> int:
        self.cell.model.compiled = False  # the former method may have left it so
        documents = self.cell.documents
        steps = ceil(documents.max_tokens_per_document / self._full_step.scored)

        def build(lanes: int) -> Callable[[], None]:
            method = self._build(lanes)
            stream = SyntheticStream(method.model, self._full_step, lanes)
            return partial(take_step, method, stream)

        meter = CudaMeter(self.cell.model.device)
        return measured_lanes(meter, build, len(documents) - len(self._over), steps)

    def _build(self, lanes: int) -> Method:
        torch.manual_seed(self.cell.suite.seed)
        return self.choice.cls(self.cell.model, self.choice.params, lanes)

    def _attempt(self) -> dict[str, Any] | None:
        """Reads what is not done; None if memory ran out and fewer lanes may do."""
        cell = self.cell
        cell.model.compiled = False  # until FLOPs are counted: the counter does not see into graphs
        started = perf_counter()
        method = self._build(self.lanes)
        set_up_seconds = perf_counter() - started
        longest = cell.documents.max_tokens_per_document
        steps = sum(ceil(n / self._full_step.scored) for n in cell.documents.lengths) / self.lanes
        engine = Engine(
            method,
            cell.protocol,
            cell.prefix_id,
            self.debug,
            compile=compiles(cell.suite.compile, cell.model.device, steps),
            longest=longest,
        )
        report = check_flops(method, self._full_step, self.choice.name, CHECKED_STEPS)
        memory = PeakMemory(cell.model.device)
        if cell.model.device.type == "cuda":
            memory.start()  # what a captured step needs, it takes while it is captured
        started = perf_counter()
        engine.warm_up(self._full_step)
        warm_up_seconds = perf_counter() - started
        notes = [f"{self.choice.spec}: {note}" for note in method.notes]
        for warning in [*report.warnings, *notes]:
            if warning not in self._warnings:
                self.progress.note(warning)
                self._warnings.add(warning)
        if cell.model.device.type != "cuda":
            memory.start()  # weights are mapped in at the first step
        if not self._read(engine):
            return None
        peak = memory.stop()
        return {
            **self._status(),
            "lanes": self.lanes,
            "compiled": engine.compile,
            "captured": engine.graph is not None,
            "warm_up_seconds": warm_up_seconds,
            **self._times(engine),
            "peak_allocated_bytes": peak.allocated_bytes,
            "peak_reserved_bytes": peak.reserved_bytes,
            "peak_process_bytes": peak.process_bytes,
            "state_bytes_per_lane": method.state_bytes(),
            "offline_flops": method.offline_flops,
            "offline_seconds": _offline_seconds(method, set_up_seconds),
            **_flops(method, report, self._shapes),
        }

    def _read(self, engine: Engine) -> bool:
        """Whether all lanes could read to the end."""
        pending = self._pending()
        in_memory = True
        documents = (self.cell.documents[index] for index in pending)
        for result in engine.run(documents, self._show):
            if result.status == "oom" and self.lanes > 1:
                in_memory = False
                continue
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
        return in_memory

    def _show(self, tokens: int, nll: float) -> None:
        self._now.shown_tokens += tokens
        self._now.shown_nll += nll
        self.progress.update(tokens, nll, self._ended)

    def _give_up(self) -> None:
        """Frees the attempt's memory, takes back what will be read again, and halves the lanes."""
        give_back(self.cell.model.device)
        now, fewer = self._now, self.lanes // 2
        self._given_up.append(now)
        lost = now.shown_tokens - now.tokens, now.shown_nll - now.nll
        self.progress.update(-lost[0], -lost[1], self._ended)
        self.progress.note(
            f"{self.choice.spec}: memory ran out with {self.lanes} lanes; it goes on with {fewer}."
        )
        self.lanes = fewer

    def _pending(self) -> list[int]:
        """Documents to be read; the longest first where several lanes should end together."""
        documents = self.cell.documents
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
            self._shapes.update(self._steps_of(document))
        elif status in FAILED:
            self._reason = reason

    def _steps_of(self, document: TokenizedDocument) -> list[StepShape]:
        protocol = self.cell.protocol
        prefixed = protocol.uses_prefix and self.cell.prefix_id is not None
        length = len(document.token_ids) + prefixed
        cached = protocol.context if protocol.context_mode == "cache" else 0
        return [
            StepShape(
                span.stop - span.start,
                span.scored,
                min(cached, span.start),
                span.stop - span.scored,
            )
            for span in protocol.plan(length)
        ]

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


def _offline_seconds(method: Method, set_up_seconds: float) -> float | None:
    if not method.offline_flops:
        return None
    return set_up_seconds if method.offline_seconds is None else method.offline_seconds


def _flops(method: Method, report: FlopReport, shapes: Counter[StepShape]) -> dict[str, Any]:
    """FLOPs per scored token over the steps that were taken, and the check at the widest step."""
    tokens = sum(shape.scored * times for shape, times in shapes.items())
    per_token: float | None = None
    if tokens and report.flops is not None:
        own: Callable[[StepShape], float | None] = method.flops
        extra = 0.0
        if report.analytic is None:
            # No formula: the model's own, and what was counted beyond it at the widest step.
            own = method.cost.forward
            extra = (report.flops - own(report.shape)) / report.shape.scored
        per_token = extra + sum((own(s) or 0.0) * times for s, times in shapes.items()) / tokens
    seen = report.seen
    return {
        "flops_per_token": per_token,
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
