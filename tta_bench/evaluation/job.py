"""Jobs: everything an executor needs to make one run, as plain data that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tta_bench.contract.method_spec import MethodSpec
from tta_bench.documents.limits import Limits
from tta_bench.documents.tokens import Options
from tta_bench.documents.words import PublishedWords
from tta_bench.engine.protocol import Protocol
from tta_bench.model.loading import Loading, ModelKey
from tta_bench.store.portion import Portion


@dataclass(frozen=True)
class SettingSpec:
    """One model on one dataset under one protocol, and how it is read; runs share it by method.

    Attributes:
        model: as `--model` takes it.
        dataset: as `--dataset` takes it.
        protocol: what is read and scored.
        limits: how much of the dataset is read.
        text_column: column that holds the text, for tables.
        dtype: dtype of the weights, or `auto`.
        device: `auto`, `cuda`, `mps` or `cpu`.
        lanes: documents read side by side, or `auto`.
        compile: `on`, `off` or `auto`.
        audit: `auto`, `full` or `off`.
        isolate: whether each method runs in a process of its own.
        seed: seed for PyTorch.
        deterministic: whether PyTorch is held to deterministic algorithms.
        trust_remote_code: whether code that a hub repository brings may run.
        loading: what else is said of how the model is loaded.
        config: the resolved configuration of the command, for the manifest.
        elsewhere: what to give as `--dataset` where the hub cannot be reached, for an error.
        words: published counts of words, of which one may be of these documents.
        probe: a dataset whose first document is read as a probe; None for no probe.
        command: what was called, for the manifest; None for the command line.
        portion: the portion of the documents that is read; None for all.
    """

    model: str
    dataset: str
    protocol: Protocol
    limits: Limits
    text_column: str | None
    dtype: str
    device: str
    lanes: str
    compile: str
    audit: str
    isolate: bool
    seed: int
    deterministic: bool
    trust_remote_code: bool
    loading: Loading
    config: dict[str, Any] = field(hash=False, repr=False)
    elsewhere: str = ""
    words: tuple[PublishedWords, ...] = ()
    command: tuple[str, ...] | None = None
    probe: str | None = None
    portion: Portion | None = None

    @property
    def model_key(self) -> ModelKey:
        """What `load_model` takes: settings that share it share a loaded model."""
        return self.model, self.dtype, self.device, self.trust_remote_code, self.loading

    @property
    def document_options(self) -> Options:
        """What is kept of the dataset, and whether its documents are joined."""
        return Options(
            text_column=self.text_column,
            join=self.protocol.join,
            drop_final_newline=self.protocol.drop_final_newline,
            parse_controls=self.protocol.parses_controls,
            **vars(self.limits),
        )


@dataclass(frozen=True)
class Job:
    """One run to be made: a method in a setting."""

    setting: SettingSpec
    method: MethodSpec
