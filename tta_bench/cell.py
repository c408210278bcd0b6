"""A cell of a suite: one model on one dataset under one protocol; each method in it is a run."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tta_bench.cost.check import FlopReport, check_flops
from tta_bench.cost.memory import PeakMemory
from tta_bench.documents import TokenizedDataset, TokenizedDocument
from tta_bench.engine import MIN_TOKENS, DocumentResult, Engine, failure
from tta_bench.errors import MethodError, UsageError
from tta_bench.manifest import build_manifest
from tta_bench.method import Method, StepShape
from tta_bench.model import LanguageModel
from tta_bench.model.load import prefix_id
from tta_bench.params import to_spec
from tta_bench.protocol import Protocol
from tta_bench.registry import available, source_hash
from tta_bench.store import FAILED, Row, RunWriter
from tta_bench.validity.check import quick_checks

if TYPE_CHECKING:
    from tta_bench.progress import Progress
    from tta_bench.suite import Suite

CUDA_LANES = 8
CHECKED_STEPS = 1
SINKS_NOTE = (
    "documents are longer than chunk and context: the cache drops the first tokens' keys, and many "
    "models predict badly without them (attention sinks); compare with --context-mode recompute."
)
WEIGHTS_CHANGED = "it changed the model's shared weights"
WEIGHTS_HINT = "keep weights of your own and pass them to model.logits(window, weights)."


class MethodChoice(NamedTuple):
    """A method as the user named it, checked."""

    name: str
    cls: type[Method]
    params: Any

    @property
    def spec(self) -> str:
        """The shortest spec that names it."""
        return to_spec(self.name, self.params)


@dataclasses.dataclass
class Cell:
    """One model on one dataset under one protocol; `run` adds a method."""

    suite: Suite
    protocol: Protocol
    model: LanguageModel
    dataset_spec: str
    documents: TokenizedDataset

    def __post_init__(self) -> None:
        self.prefix_id = (
            prefix_id(self.protocol.prefix, self.model.tokenizer, self.model.vocab_size)
            if self.protocol.uses_prefix
            else None
        )
        self.lanes = self._choose_lanes()

    def check(self) -> None:
        """Raises UsageError where this cell cannot run at all."""
        if not any(len(document.token_ids) >= MIN_TOKENS for document in self.documents):
            raise UsageError(
                f"{self.dataset_spec} has no document of at least {MIN_TOKENS} tokens to read; "
                "choose other documents."
            )
        most = self.model.max_positions
        needed = self.protocol.inputs_per_window
        if self.protocol.context_mode == "cache":
            needed += self.protocol.context
            if not self.model.rotary:
                needed = self.documents.max_tokens_per_document + 1
        longest = self.documents.max_tokens_per_document + 1
        if most is not None and min(needed, longest) > most:
            raise UsageError(
                f"chunk and context together read {needed} tokens at once, but {self.model.name} "
                f"has {most} positions; lower --chunk, --context or --window."
            )

    def check_method(self, choice: MethodChoice) -> None:
        """Raises UsageError where a method would learn from the very documents it is tested on."""
        if self.dataset_spec in choice.cls.offline_datasets(choice.params):
            raise UsageError(
                f"{choice.spec}: what is read offline must come from other text than "
                f"{self.dataset_spec}, which is evaluated."
            )

    @property
    def evicts_sinks(self) -> bool:
        """Whether a carried cache will lose the keys of a document's first tokens."""
        held = self.protocol.context + self.protocol.chunk
        return (
            self.protocol.context_mode == "cache" and self.documents.max_tokens_per_document > held
        )

    def run(self, choice: MethodChoice, writer: RunWriter, progress: Progress, debug: bool) -> None:
        """Runs one method and stores it; a method that fails leaves a run that says so."""
        for note in writer.notes:
            progress.note(f"{choice.spec}: {note}")
        kept = writer.kept
        if kept and not progress.quiet:
            progress.note(f"{choice.spec}: {len(kept)} of {len(self.documents)} documents are kept")
        tokens = self.documents.total_tokens
        tokens -= sum(len(self.documents[index].token_ids) for index in kept)
        progress.start_method(choice.spec, len(self.documents) - len(kept), tokens)
        notes = [SINKS_NOTE] if self.evicts_sinks else []
        valid, broken_rules = _validity(choice)
        if broken_rules:
            notes.append(f"NOT VALID: `tta-bench check` fails at {', '.join(broken_rules)}.")
        for note in notes:
            progress.note(f"{choice.spec}: {note}")
        weights = _weight_sums(self.model)
        try:
            summary = self._measure(choice, writer, progress, debug)
        except (Exception, SystemExit) as error:  # a method is foreign code: it may raise anything
            if debug or _concerns_storage(error):
                raise
            summary = self._broken(writer, error)
            progress.note(f"{choice.spec}: {summary['reason']}")
        if not torch.equal(weights, _weight_sums(self.model)):
            summary |= {"status": "error", "reason": WEIGHTS_CHANGED}
        facts = {"valid": valid, "rules_broken": broken_rules, "notes": notes}
        writer.finish(summary | facts | self._partial())
        progress.end_method(summary["status"])
        if summary["reason"] == WEIGHTS_CHANGED:
            raise MethodError(f"{choice.spec} changed the model's shared weights; {WEIGHTS_HINT}")

    def _broken(self, writer: RunWriter, error: BaseException) -> dict[str, Any]:
        """A method that failed before its first step: rows for the documents it would have read."""
        status, reason = failure(error)
        pending = [index for index in range(len(self.documents)) if index not in writer.kept]
        for index in pending[: self.lanes]:
            document = self.documents[index]
            writer.append(*self._row(DocumentResult(index, document, status, reason)))
        return {"status": status, "reason": reason}

    def _measure(
        self, choice: MethodChoice, writer: RunWriter, progress: Progress, debug: bool
    ) -> dict[str, Any]:
        torch.manual_seed(self.suite.seed)
        started = perf_counter()
        method = choice.cls(self.model, choice.params, self.lanes)
        set_up_seconds = perf_counter() - started
        engine = Engine(method, self.protocol, self.prefix_id, debug)
        report = check_flops(method, self._full_step(), choice.name, CHECKED_STEPS)
        for warning in report.warnings:
            progress.note(warning)
        engine.warm_up(self._full_step())
        memory = PeakMemory(self.model.device)
        memory.start()
        shapes: Counter[StepShape] = Counter()
        outcomes: Counter[str] = Counter()
        reason = None
        for row in writer.kept.values():
            outcomes[row.status] += 1
            if row.status == "done":
                shapes.update(self._shapes(self.documents[row.index]))
            elif row.status in FAILED:
                reason = row.reason
        pending = [index for index in range(len(self.documents)) if index not in writer.kept]
        ended = 0
        results = engine.run(
            (self.documents[index] for index in pending),
            lambda tokens, nll: progress.update(tokens, nll, ended),
        )
        for result in results:
            writer.append(*self._row(dataclasses.replace(result, index=pending[result.index])))
            outcomes[result.status] += 1
            ended += 1
            if result.status == "done":
                shapes.update(self._shapes(result.document))
            elif result.status != "skipped":
                reason = result.reason
                progress.note(f"{choice.spec}, {result.document.key}: {reason}")
            progress.update(0, 0.0, ended)
        status = next((word for word in ("oom", "error") if outcomes[word]), "complete")
        if status == "complete" and not outcomes["done"]:
            status = "diverged" if outcomes["diverged"] else "error"
            reason = reason or "no document could be read"
        peak = memory.stop()
        time = engine.timer.summary()
        return {
            "status": status,
            "reason": reason if status != "complete" else None,
            "lanes": self.lanes,
            "seconds": time.total_seconds,
            "timed_tokens": time.tokens,
            "tokens_per_second": time.tokens_per_second,
            "step_seconds_median": time.median_seconds,
            "step_seconds_p90": time.p90_seconds,
            "step_tokens_median": time.median_tokens,
            "peak_allocated_bytes": peak.allocated_bytes,
            "peak_reserved_bytes": peak.reserved_bytes,
            "peak_process_bytes": peak.process_bytes,
            "state_bytes_per_lane": method.state_bytes(),
            "offline_flops": method.offline_flops,
            "offline_seconds": _offline_seconds(method, set_up_seconds),
            **_flops(method, report, shapes),
        }

    def _row(self, result: DocumentResult) -> tuple[Row, Any]:
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
        return row, nll

    def _full_step(self) -> StepShape:
        """The widest step this cell takes, in steady state."""
        longest = self.documents.max_tokens_per_document
        past = self.protocol.context if self.protocol.context_mode == "cache" else 0
        return StepShape(
            inputs=min(self.protocol.inputs_per_window, longest),
            scored=min(self.protocol.scored_per_window, longest),
            past=min(past, max(longest - self.protocol.chunk, 0)),
        )

    def _shapes(self, document: TokenizedDocument) -> list[StepShape]:
        prefixed = self.protocol.uses_prefix and self.prefix_id is not None
        length = len(document.token_ids) + prefixed
        cached = self.protocol.context if self.protocol.context_mode == "cache" else 0
        return [
            StepShape(
                span.stop - span.start,
                span.scored,
                min(cached, span.start),
                span.stop - span.scored,
            )
            for span in self.protocol.plan(length)
        ]

    def _choose_lanes(self) -> int:
        wanted = self.suite.lanes
        if wanted != "auto" and not re.fullmatch("[1-9][0-9]{0,8}", wanted):
            raise UsageError(f"--lanes must be auto or a number from 1, not '{wanted}'.")
        if self.protocol.reset == "never":
            if wanted not in ("auto", "1"):
                raise UsageError("--reset never reads documents one after another: use --lanes 1.")
            return 1
        most = CUDA_LANES if self.model.device.type == "cuda" else 1
        return min(most if wanted == "auto" else int(wanted), len(self.documents))

    def _partial(self) -> dict[str, Any]:
        cuts = [
            f"--{flag.replace('_', '-')} {value}"
            for flag in ("limit", "max_tokens", "min_tokens")
            if (value := getattr(self.suite, flag))
        ]
        return {"partial": bool(cuts), "partial_reason": ", ".join(cuts) or None}

    def manifest(self, choice: MethodChoice) -> dict[str, Any]:
        """What a run of this method is made of."""
        model = self.model
        limits = ("limit", "max_tokens", "min_tokens")
        return build_manifest(
            model={
                "name": model.name,
                "random_weights": model.random_weights,
                "architecture": type(model.net).__name__,
                "parameters": sum(p.numel() for p in model.net.parameters()),
                **model.provenance,
            },
            dataset={
                "spec": self.dataset_spec,
                "fingerprint": self.documents.fingerprint,
                "documents": len(self.documents),
                "tokens": self.documents.total_tokens,
                **{name: getattr(self.suite, name) for name in limits},
            },
            method={
                "name": choice.name,
                "spec": choice.spec,
                "params": choice.params,
                "source_sha256": source_hash(choice.cls),
                "family": available()[choice.name].family,
                "artifacts": choice.cls.artifacts(choice.params, model),
            },
            protocol=self.protocol.to_dict(),
            prefix_id=self.prefix_id,
            dtype=str(model.dtype),
            device=str(model.device),
            lanes=self.lanes,
            seeds={"torch": self.suite.seed},
            deterministic=self.suite.deterministic,
            config=dataclasses.asdict(self.suite),
            torch=torch,
        )


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
            own = method.model.cost.forward
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


def _concerns_storage(error: BaseException) -> bool:
    """A disk that cannot be written ends everything, not one method."""
    return isinstance(error, OSError) or isinstance(error.__cause__, OSError)


def _validity(choice: MethodChoice) -> tuple[bool | None, list[str]]:
    """The verdict of the quick probes on tiny random models, and the rules that were broken."""
    try:
        report = quick_checks(choice.cls, choice.cls.probe_params(choice.params), choice.name)
    except SystemExit:  # it will raise again in its run, and its row will say so
        return None, []
    return report.valid, list(report.failed)


def _weight_sums(model: LanguageModel) -> Tensor:
    """One number a parameter, to see whether a method changed the weights that all share."""
    return torch.stack([value.sum(dtype=torch.float64) for value in model.net.parameters()])
