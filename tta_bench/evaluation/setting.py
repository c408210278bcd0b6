"""A setting, opened: the model, the documents as token ids, and the checks before any run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from tta_bench.auditing.audit import audit_mode
from tta_bench.documents import tokenized
from tta_bench.documents.sequence import datasets_in
from tta_bench.documents.split import undivided
from tta_bench.engine.compiling import compiles
from tta_bench.engine.lanes import asked_lanes
from tta_bench.engine.loop import MIN_TOKENS
from tta_bench.engine.preflight import check_needs
from tta_bench.engine.protocol import PROBE_TOKENS
from tta_bench.engine.streams import full_step
from tta_bench.errors import ModelError, UnreachableError, UsageError
from tta_bench.evaluation.plan import by_setting
from tta_bench.model.findings import CACHE
from tta_bench.model.positions import check_positions
from tta_bench.model.prefix import prefix_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tta_bench.contract.choice import MethodChoice
    from tta_bench.documents import TokenizedDataset, TokenizedDocument
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
        probe: the text that is read as a probe; None for no probe.
    """

    spec: SettingSpec
    model: LanguageModel
    documents: TokenizedDataset
    prefix_id: int | None
    lanes: int | None
    probe: TokenizedDocument | None = None

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

    @property
    def longest(self) -> int:
        """Inputs of the longest document: its prefix token, and all tokens but the last."""
        return self.documents.max_tokens_per_document + (self.prefix_id is not None) - 1

    @property
    def single_step(self) -> bool:
        """Whether every document ends with its first step, so that nothing learned is used."""
        second = next(islice(self.protocol.plan(self.longest + 1), 1, None), None)
        return second is None and self.protocol.reset == "document"

    def check(self) -> None:
        """Raises BenchError where no method can run in this setting."""
        if not any(length >= MIN_TOKENS for length in self.documents.lengths):
            raise UsageError(
                f"{self.spec.dataset} has no document of at least {MIN_TOKENS} tokens to read; "
                "choose other documents."
            )
        if next(self.protocol.plan(self.longest + 1), None) is None:
            raise UsageError(
                f"no document of {self.spec.dataset} fills a window of {self.protocol.window} "
                "tokens; lower --window or choose longer documents."
            )
        self._check_ids()
        if self.protocol.context_mode == "cache":
            self.model.acceptance.require(CACHE, self.model.name)
        self._check_positions()
        self._check_probe()

    def _check_probe(self) -> None:
        if self.probe is None:
            return
        if next(self.protocol.plan(len(self.probe.token_ids)), None) is None:
            raise UsageError(
                f"the first document of --probe {self.spec.probe} is too short to be read; name "
                "a longer text."
            )
        if any(document.sha256 == self.probe.sha256 for document in self.documents):
            raise UsageError(
                f"the first document of --probe {self.spec.probe} is also one of "
                f"{self.spec.dataset}, so that what is kept of it would be no retention; name "
                "another text."
            )

    def _check_positions(self) -> None:
        needed = self.protocol.inputs_per_window
        if self.protocol.context_mode == "cache":
            needed += self.protocol.context
            if not self.model.rotary:  # positions are counted from the start of the document
                needed = self.longest
        remedy = "lower --chunk, --context or --window"
        tokens = min(needed, self.longest)
        check_positions(self.model, tokens, "chunk and context together read", remedy)

    def _check_ids(self) -> None:
        """Raises ModelError where a document has tokens that the model does not know."""
        known = self.model.readable_ids
        if len(self.model.tokenizer) <= known:  # type: ignore[arg-type]  # read by its name
            return
        largest = self.documents.largest_id
        if largest >= known:
            raise ModelError(
                f"{self.spec.dataset} has the token id {largest}, and {self.model.name} knows "
                f"those below {known}: give it the tokenizer that belongs to it."
            )

    def check_method(self, choice: MethodChoice) -> None:
        """Raises BenchError where a method cannot run: it would learn from the very documents it is
        tested on, the model lacks what it needs, or its files do not fit.
        """
        every = [self.spec.dataset, *datasets_in(self.spec.dataset)]
        every += [] if self.spec.probe is None else [self.spec.probe]
        read = {*every, *map(undivided, every)}
        if read & set(choice.cls.offline_datasets(choice.params)):
            raise UsageError(
                f"{choice.spec}: what is read offline must come from other text than "
                f"{self.spec.dataset}, which is evaluated."
            )
        step = full_step(self.protocol, self.documents.max_tokens_per_document)
        check_needs(choice, self.model, step, self.longest)
        choice.cls.artifacts(choice.params, self.model)


def open_setting(spec: SettingSpec, model: LanguageModel) -> Setting:
    """Tokenises the documents and checks that they can be read.

    Raises:
        DocumentError: the documents cannot be had.
        UsageError: they cannot be read under the protocol.
        ModelError: the model cannot read them, or not in this way.
    """
    protocol = spec.protocol
    try:
        documents = tokenized(spec.dataset, model.tokenizer, **vars(spec.document_options))
    except UnreachableError as error:
        if not spec.elsewhere:
            raise
        raise UnreachableError(error.what, spec.elsewhere) from error
    prefix = (
        prefix_id(protocol.prefix, model.tokenizer, model.readable_ids)
        if protocol.uses_prefix
        else None
    )
    compiles(spec.compile, model.device, 0)  # a wrong word is told before the work
    if spec.compile == "on" and model.fixed:
        raise UsageError(
            f"{model.name} {model.fixed}, and such a model runs uncompiled; leave out --compile on."
        )
    audit_mode(spec.audit)
    lanes = asked_lanes(spec.lanes, protocol, model.device, len(documents))
    if lanes is None and (spec.isolate or model.spread_over):
        lanes = 1  # the memory of another process, and of several devices, is not measured
    setting = Setting(spec, model, documents, prefix, lanes, _probe(spec, model))
    setting.check()
    return setting


def _probe(spec: SettingSpec, model: LanguageModel) -> TokenizedDocument | None:
    if spec.probe is None:
        return None
    options = replace(spec.document_options, limit=1, max_tokens=PROBE_TOKENS, min_tokens=0)
    return tokenized(spec.probe, model.tokenizer, **vars(options))[0]


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
