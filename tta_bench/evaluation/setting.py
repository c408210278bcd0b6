"""A cell of a suite: one model on one dataset under one protocol; each method in it is a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.method import Method
from tta_bench.contract.registry import available, source_hash
from tta_bench.documents import TokenizedDataset
from tta_bench.engine.compiling import compiles
from tta_bench.engine.lanes import asked_lanes
from tta_bench.engine.loop import MIN_TOKENS
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import MethodError, UsageError
from tta_bench.evaluation.measure import Measurement
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.prefix import prefix_id
from tta_bench.store import RunWriter
from tta_bench.store.manifest import build_manifest
from tta_bench.validity.check import quick_checks

if TYPE_CHECKING:
    from tta_bench.evaluation.progress import Progress
    from tta_bench.evaluation.suite import Suite

SINKS_NOTE = (
    "documents are longer than chunk and context: the cache drops the first tokens' keys, and many "
    "models predict badly without them (attention sinks); compare with --context-mode recompute."
)
CACHE_NOTE = "a carried cache grows with the stream, so the model itself runs uncompiled."
WEIGHTS_CHANGED = "it changed the model's shared weights"
WEIGHTS_HINT = "keep weights of your own and pass them to model.logits(window, weights)."


@dataclasses.dataclass
class Cell:
    """One model on one dataset under one protocol; `run` adds a method.

    Attributes:
        prefix_id: the token that stands before each document, or None.
        lanes: what was asked for; None where each method gets as many as fit into memory.
    """

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
        compiles(self.suite.compile, self.model.device, 0)  # a wrong word is told before the work
        self.lanes = asked_lanes(
            self.suite.lanes, self.protocol, self.model.device, len(self.documents)
        )

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
        tokens -= int(self.documents.lengths[list(kept)].sum())
        progress.start_method(choice.spec, len(self.documents) - len(kept), tokens)
        notes = [SINKS_NOTE] if self.evicts_sinks else []
        if self.suite.compile == "on" and self.protocol.context_mode == "cache":
            notes.append(CACHE_NOTE)
        valid, broken_rules = _validity(choice)
        if broken_rules:
            notes.append(f"NOT VALID: `tta-bench check` fails at {', '.join(broken_rules)}.")
        for note in notes:
            progress.note(f"{choice.spec}: {note}")
        weights = _weight_sums(self.model)
        measurement = Measurement(self, choice, writer, progress, debug)
        try:
            summary = measurement.run()
        except (Exception, SystemExit) as error:  # a method is foreign code: it may raise anything
            if debug or _concerns_storage(error):
                raise
            summary = measurement.broken(error)
            progress.note(f"{choice.spec}: {summary['reason']}")
        if not torch.equal(weights, _weight_sums(self.model)):
            summary |= {"status": "error", "reason": WEIGHTS_CHANGED}
        facts = {"valid": valid, "rules_broken": broken_rules, "notes": notes}
        writer.finish(summary | facts | self._partial())
        progress.end_method(summary["status"])
        if summary["reason"] == WEIGHTS_CHANGED:
            raise MethodError(f"{choice.spec} changed the model's shared weights; {WEIGHTS_HINT}")

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


def _concerns_storage(error: BaseException) -> bool:
    """A disk that cannot be written ends everything, not one method."""
    return isinstance(error, OSError) or isinstance(error.__cause__, OSError)


_VERDICTS: dict[tuple[type[Method], str], tuple[bool | None, list[str]]] = {}


def _validity(choice: MethodChoice) -> tuple[bool | None, list[str]]:
    """The verdict of the quick probes on tiny random models, and the rules that were broken.

    Once for all cells: the probes know neither the model nor the documents.
    """
    key = choice.cls, choice.spec
    if key not in _VERDICTS:
        try:
            report = quick_checks(choice.cls, choice.cls.probe_params(choice.params), choice.name)
            _VERDICTS[key] = report.valid, list(report.failed)
        except SystemExit:  # it will raise again in its run, and its row will say so
            _VERDICTS[key] = None, []
    return _VERDICTS[key]


def _weight_sums(model: LanguageModel) -> Tensor:
    """One number a parameter, to see whether a method changed the weights that all share."""
    return torch.stack([value.sum(dtype=torch.float64) for value in model.net.parameters()])
