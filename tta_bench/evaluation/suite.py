"""Suites: YAML files that say which models, datasets and methods run under which protocol."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tta_bench.contract.mapping import spec_of
from tta_bench.convert import Converter
from tta_bench.documents.limits import Limits
from tta_bench.documents.words import PublishedWords
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError
from tta_bench.yaml_file import read_yaml

DEFAULT_SUITE = "quickstart"


@dataclass
class Tune:
    """On what documents the best values of methods' sets are chosen; never on those reported.

    Attributes:
        datasets: tuning documents, as `--dataset` takes them.
        share: in place of datasets: this share of each of the suite's, by a hash of each text; the
            others alone are reported.
        limit: documents read of each; None for as many as the suite says.
        max_tokens: tokens read of each document; None for as many as the suite says.
        min_tokens: documents with fewer tokens are left out; None for what the suite says.
    """

    datasets: list[str] = field(default_factory=list)
    share: float | None = None
    limit: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None

    def __post_init__(self) -> None:
        if bool(self.datasets) == (self.share is not None):
            raise ValueError("'tune' names either datasets or a share of the suite's: one of both.")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"'share' must be between 0 and 1, not {self.share:g}.")
        Limits(self.limit, self.max_tokens, self.min_tokens or 0)


@dataclass
class Suite:
    """Everything `tta-bench eval` needs; flags override what a file says.

    Attributes:
        models: models, as `--model` takes them.
        datasets: documents, as `--dataset` takes them.
        methods: method specs such as `dynamic-eval:lr=1e-4`; a value may be a set, `1e-5|1e-4`.
        protocol: fields of `Protocol` that differ from its defaults.
        description: one sentence for `tta-bench list suites`.
        elsewhere: what to give as `--dataset` where the hub cannot be reached, for an error.
        words: published counts of words, for word perplexity; each counts for documents that are
            as many as it says and are read whole.
        limit: documents read of each dataset; None for all.
        max_tokens: tokens read of each document; None for all.
        min_tokens: documents with fewer tokens are left out.
        probe: with `reset: never`, a dataset as `--dataset` takes it: what its first document
            begins with is read before the first document and after each, without being learned.
        fresh: with `reset: never`, whether a fresh method reads each document as well: the same
            runs with `reset: document`, which forward transfer and return are measured against.
        text_column: column that holds the text, for tables.
        tokenizer: the model whose tokenizer is used, as `--model` takes it; None for its own.
        adapter: `merged` or `beside` its base, or `auto`: merged where the base is not rounded.
        load_in: `4bit` or `8bit`; None for the dtype.
        device_map: `auto` to spread each model over all GPUs; None for one device.
        dtype: dtype of the weights, or `auto`: bfloat16 on cuda, else float32.
        device: `cuda`, `mps` or `cpu`, or `auto`: the first of these that is there.
        lanes: documents read side by side, or `auto`: on a GPU as many as fit, on a CPU one.
        compile: `on`, `off`, or `auto`: on a GPU where the run is long enough to earn it.
        audit: `auto`, `full` or `off`: how thoroughly each run is checked when it is over.
        isolate: whether each method runs in a process of its own, which holds no targets of the
            chunk that it scores.
        seed: seed for PyTorch.
        deterministic: whether PyTorch is held to deterministic algorithms.
        tune: where the best values of sets are chosen; None to run every combination.
    """

    models: list[str] = field(default_factory=lambda: ["builtin:tiny"])
    datasets: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["none"])
    protocol: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    elsewhere: str = ""
    words: list[PublishedWords] = field(default_factory=list)
    limit: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    probe: str | None = None
    fresh: bool = False
    text_column: str | None = None
    tokenizer: str | None = None
    adapter: str = "auto"
    load_in: str | None = None
    device_map: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    lanes: str = "auto"
    compile: str = "auto"
    audit: str = "auto"
    isolate: bool = False
    seed: int = 0
    deterministic: bool = False
    tune: Tune | None = None

    def resolved_protocol(self) -> Protocol:
        """The protocol, checked.

        Raises:
            UsageError: an unknown field or an impossible combination.
        """
        values = dict(self.protocol)
        if values.get("context", 0) and "context_mode" not in values:
            values["context_mode"] = "recompute"
        return Converter("the protocol").make(Protocol, values)


def load_suite(name: str) -> Suite:
    """Reads a suite that is installed, by its name, or a YAML file, by its path.

    Raises:
        UsageError: there is no such suite, it is not YAML, or it has an unknown key or a value of
            the wrong type, whose line the sentence names.
    """
    path = Path(name)
    if not os.path.isfile(path):  # unlike Path.is_file it takes any text for a name
        installed = installed_suites()
        if name not in installed:
            near = difflib.get_close_matches(name, installed, n=1, cutoff=0.5)
            hint = (
                f"did you mean '{near[0]}'?"
                if near
                else f"give a YAML file or one of {', '.join(installed)}."
            )
            raise UsageError(f"there is no suite '{name}'; {hint}")
        path = installed[name]
    what = f"the suite {path}"
    raw, lines = read_yaml(path, what)
    suite = _suite(raw, Converter(what, line=lines))
    # Now, while the lines are at hand; flags may still replace what is said here.
    convert = Converter(f"the protocol of {what}", line=lines)
    convert.fields(Protocol, suite.protocol, ("protocol",))
    return suite


def checked_suite(raw: dict[str, Any], what: str) -> Suite:
    """A suite made of values whose names and types have yet to be checked.

    Args:
        raw: the values, by the names of `Suite`'s fields.
        what: what an error calls them, such as `the suite mine.yaml`.

    Raises:
        UsageError: an unknown key, or a value of the wrong type.
    """
    return _suite(raw, Converter(what))


def _suite(raw: dict[str, Any], convert: Converter) -> Suite:
    for key in ("models", "datasets", "methods"):
        if raw.get(key) == []:
            raise convert.error((key,), f"'{key}' is empty; name one or leave it out.")
    if "methods" in raw:
        raw = raw | {"methods": _methods(raw["methods"], convert)}
    return convert.make(Suite, raw)


def _methods(methods: Any, convert: Converter) -> Any:
    """The methods with the spec of each that is written as a mapping."""
    if isinstance(methods, dict):
        methods = [methods]
    if not isinstance(methods, list):
        return methods
    specs = []
    for place, method in enumerate(methods):
        try:
            specs.append(spec_of(method) if isinstance(method, dict) else method)
        except UsageError as error:
            raise convert.error(("methods", place), str(error)) from error
    return specs


def installed_suites() -> dict[str, Path]:
    """The suites that come with the bench, by name."""
    try:
        folder = Path(str(resources.files("tta_bench_suites")))
    except ModuleNotFoundError:
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
