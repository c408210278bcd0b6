"""Runs a suite: every model on every dataset with every method, into one group of stored runs."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from tta_bench.cost.check import FlopReport, check_flops
from tta_bench.cost.memory import PeakMemory
from tta_bench.documents import TokenizedDataset, TokenizedDocument, tokenized
from tta_bench.engine import MIN_TOKENS, DocumentResult, Engine, failure
from tta_bench.errors import UsageError
from tta_bench.manifest import build_manifest, setting
from tta_bench.method import Method, StepShape
from tta_bench.model import LanguageModel
from tta_bench.model.load import load_model, prefix_id
from tta_bench.params import build, split_spec, to_spec
from tta_bench.protocol import Protocol
from tta_bench.registry import available, load, source_hash
from tta_bench.store import (
    FAILED,
    Rerun,
    Row,
    RunWriter,
    create_group,
    is_whole,
    load_run,
    run_folder,
    short_name,
)

if TYPE_CHECKING:
    from tta_bench.progress import Progress
    from tta_bench.suite import Suite

CUDA_LANES = 8
SINKS_NOTE = (
    "documents are longer than chunk and context: the cache drops the first tokens' keys, and many "
    "models predict badly without them (attention sinks); compare with --context-mode recompute."
)
CHECKED_STEPS = 1


class MethodChoice(NamedTuple):
    """A method as the user named it, checked."""

    name: str
    cls: type[Method]
    params: Any

    @property
    def spec(self) -> str:
        """The shortest spec that names it."""
        return to_spec(self.name, self.params)


def choose_methods(specs: list[str]) -> list[MethodChoice]:
    """Parses and checks method specs, so that a typing mistake costs no model load.

    Raises:
        UsageError: an unknown method or parameter, or the same spec twice.
    """
    choices = []
    for spec in specs:
        name, values = split_spec(spec)
        cls = load(name)
        choices.append(MethodChoice(name, cls, build(cls.Params, values, name)))
    for spec, times in Counter(choice.spec for choice in choices).items():
        if times > 1:
            raise UsageError(f"the method '{spec}' is asked for {times} times; once is enough.")
    return choices


def run_suite(
    suite: Suite,
    progress: Progress,
    *,
    name: str | None = None,
    base: str | None = None,
    results: Path = Path("results"),
    rerun: Rerun = "missing",
    trust_remote_code: bool = False,
    debug: bool = False,
) -> Iterator[Path]:
    """Does what the suite asks for and is not there; yields the folder of each run as it begins.

    Args:
        name: of the group of runs; without one it is named by `base` and what its runs share.
        base: by default the names of the first model and dataset.
        rerun: of a run that is there, the documents that are `missing`, those that `failed`, too,
            or `all`.

    Raises:
        BenchError: nothing can run: unknown names, no documents, too long a window.
    """
    if not suite.datasets:
        raise UsageError("no documents are named; give --dataset, such as builtin:pydoc.")
    protocol = suite.resolved_protocol()
    choices = choose_methods(suite.methods)
    group: Path | None = None
    for model_spec in suite.models:
        model = load_model(model_spec, suite.dtype, suite.device, trust_remote_code)
        for dataset_spec in suite.datasets:
            documents = tokenized(
                dataset_spec,
                model.tokenizer,
                text_column=suite.text_column,
                limit=suite.limit,
                max_tokens=suite.max_tokens,
                min_tokens=suite.min_tokens,
                join=protocol.join,
                drop_final_newline=protocol.name == "llama.cpp",
            )
            cell = Cell(suite, protocol, model, dataset_spec, documents)
            cell.check()
            if cell.evicts_sinks:
                progress.note(SINKS_NOTE)
            for choice in choices:
                manifest = cell.manifest(choice)
                if group is None:
                    shared = [setting(manifest), suite.models[1:], suite.datasets[1:]]
                    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode())
                    names = short_name(suite.models[0]), short_name(suite.datasets[0])
                    group = create_group(
                        name,
                        base=base or "-".join(names),
                        digest=digest.hexdigest(),
                        results=results,
                    )
                path = run_folder(group, manifest)
                if is_whole(path, manifest, rerun):
                    yield path
                    _say_whole(path, progress)
                    continue
                with RunWriter.resume(group, manifest, rerun) as writer:
                    yield writer.path
                    cell.run(choice, writer, progress, debug)
                gc.collect()


def _say_whole(path: Path, progress: Progress) -> None:
    run = load_run(path)
    failed = sum(row.status in FAILED for row in run.rows)
    repeat = f"{failed} failed: --rerun failed repeats them" if failed else "--rerun all repeats it"
    if not progress.quiet:
        progress.note(
            f"{run.spec}: nothing to do, {path} has all {len(run.rows)} documents ({repeat})"
        )


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
                "choose other documents, or lower --min-tokens."
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
        try:
            summary = self._measure(choice, writer, progress, debug)
        except Exception as error:  # a method is foreign code; its row says what it raised
            if debug or _concerns_storage(error):
                raise
            status, reason = failure(error)
            summary = {"status": status, "reason": reason}
            progress.note(f"{choice.spec}: {reason}")
        writer.finish(summary | self._partial())
        progress.end_method(summary["status"])

    def _measure(
        self, choice: MethodChoice, writer: RunWriter, progress: Progress, debug: bool
    ) -> dict[str, Any]:
        torch.manual_seed(self.suite.seed)
        method = choice.cls(self.model, choice.params, self.lanes)
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
            "step_tokens_median": self.protocol.scored_per_window * self.lanes,
            "peak_allocated_bytes": peak.allocated_bytes,
            "peak_reserved_bytes": peak.reserved_bytes,
            "peak_process_bytes": peak.process_bytes,
            "state_bytes_per_lane": method.state_bytes(),
            "offline_flops": method.offline_flops,
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
            StepShape(span.stop - span.start, span.scored, min(cached, span.start))
            for span in self.protocol.plan(length)
        ]

    def _choose_lanes(self) -> int:
        wanted = self.suite.lanes
        if wanted != "auto" and (not wanted.isdecimal() or int(wanted) < 1):
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
            },
            protocol=self.protocol.to_dict(),
            prefix_id=self.prefix_id,
            dtype=str(model.dtype),
            device=str(model.device),
            lanes=self.lanes,
            seeds={"torch": self.suite.seed},
            config=dataclasses.asdict(self.suite),
            torch=torch,
        )


def _flops(method: Method, report: FlopReport, shapes: Counter[StepShape]) -> dict[str, Any]:
    """FLOPs per scored token over the steps that were taken, and the check at the widest step."""
    tokens = sum(shape.scored * times for shape, times in shapes.items())
    per_token: float | None = None
    if report.analytic is None:
        per_token = None if report.flops is None else report.flops / report.shape.scored
    elif tokens:
        per_token = sum((method.flops(s) or 0.0) * times for s, times in shapes.items()) / tokens
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


def _concerns_storage(error: Exception) -> bool:
    """A disk that cannot be written ends everything, not one method."""
    return isinstance(error, OSError) or isinstance(error.__cause__, OSError)
