"""A setting, opened: the model, the documents as token ids, and the checks before any run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.audit.audit import audit_mode
from tta_bench.documents import tokenized
from tta_bench.engine.compiling import compiles
from tta_bench.engine.lanes import asked_lanes
from tta_bench.engine.loop import MIN_TOKENS
from tta_bench.errors import UsageError
from tta_bench.evaluation.plan import by_setting
from tta_bench.model.prefix import prefix_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tta_bench.contract.choice import MethodChoice
    from tta_bench.documents import TokenizedDataset
    from tta_bench.engine.protocol import Protocol
    from tta_bench.evaluation.job import Job, SettingSpec
    from tta_bench.model.language_model import LanguageModel


@dataclass
class Setting:
    """One model on one dataset under one protocol.

    Attributes:
        spec: what was asked for.
        model: the model, or its shape (`load_shape`).
        documents: the dataset, tokenised.
        prefix_id: the token that stands before each document, or None.
        lanes: lanes that were asked for; None where each method gets as many as fit into memory.
    """

    spec: SettingSpec
    model: LanguageModel
    documents: TokenizedDataset
    prefix_id: int | None
    lanes: int | None

    @property
    def protocol(self) -> Protocol:
        return self.spec.protocol

    @property
    def evicts_sinks(self) -> bool:
        """Whether a carried cache will lose the keys of a document's first tokens."""
        held = self.protocol.context + self.protocol.chunk
        return (
            self.protocol.context_mode == "cache" and self.documents.max_tokens_per_document > held
        )

    def check(self) -> None:
        """Raises UsageError where no method can run in this setting."""
        if not any(length >= MIN_TOKENS for length in self.documents.lengths):
            raise UsageError(
                f"{self.spec.dataset} has no document of at least {MIN_TOKENS} tokens to read; "
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
        """Raises UsageError where a method would learn from the very documents it is tested on, or
        where the files it needs do not fit.
        """
        if self.spec.dataset in choice.cls.offline_datasets(choice.params):
            raise UsageError(
                f"{choice.spec}: what is read offline must come from other text than "
                f"{self.spec.dataset}, which is evaluated."
            )
        choice.cls.artifacts(choice.params, self.model)


def open_setting(spec: SettingSpec, model: LanguageModel) -> Setting:
    """Tokenises the documents and checks that they can be read.

    Raises:
        DocumentError: the documents cannot be had.
        UsageError: they cannot be read under the protocol.
    """
    protocol = spec.protocol
    documents = tokenized(spec.dataset, model.tokenizer, **vars(spec.document_options))
    prefix = (
        prefix_id(protocol.prefix, model.tokenizer, model.vocab_size)
        if protocol.uses_prefix
        else None
    )
    compiles(spec.compile, model.device, 0)  # a wrong word is told before the work
    audit_mode(spec.audit)
    lanes = asked_lanes(spec.lanes, protocol, model.device, len(documents))
    if spec.isolate and lanes is None:
        lanes = 1  # the memory of another process is not measured
    setting = Setting(spec, model, documents, prefix, lanes)
    setting.check()
    return setting


def open_settings(
    jobs: Iterable[Job], model: LanguageModel
) -> list[tuple[Setting, list[MethodChoice]]]:
    """The settings of one model's jobs with the methods in each, all opened and checked.

    All of them before any is run: a wrong name should not cost an hour.

    Raises:
        BenchError: one of them cannot be run.
    """
    opened = []
    for spec, group in by_setting(jobs):
        setting = open_setting(spec, model)
        choices = [job.method.choice() for job in group]
        for choice in choices:
            setting.check_method(choice)
        opened.append((setting, choices))
    return opened
