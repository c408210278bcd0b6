"""The keyword arguments that say how documents are read, and the suite that they ask for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypedDict

from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError
from tta_bench.evaluation.suite import Suite, checked_suite


class Options(TypedDict, total=False):
    """Fields of `Suite` and of `Protocol`, which say what they are; each has their default.

    As with the flags of `tta-bench eval`, `protocol` is the protocol's name, and a `context` is
    read again in every window unless `context_mode` says otherwise.
    """

    limit: int | None
    max_tokens: int | None
    min_tokens: int
    probe: str | None
    fresh: bool
    text_column: str | None
    adapter: Literal["auto", "merged", "beside"]
    load_in: Literal["4bit", "8bit"] | None
    device_map: Literal["auto"] | None
    dtype: str
    device: str
    lanes: str | int
    compile: str
    audit: Literal["auto", "full", "off"]
    isolate: bool
    seed: int
    deterministic: bool
    protocol: str
    chunk: int
    context: int
    context_mode: str
    window: int | None
    stride: int | None
    prefix: str | int
    reset: str


class Schedule(TypedDict, total=False):
    """How slow weights are trained: the keys of a recipe under `train`, see docs/heads.md."""

    steps: int
    minutes: float
    lanes: int
    batch: int
    segment: int
    windows: Sequence[int]
    chunk: int
    reconstruction: bool
    learning_rate: float
    rate_factor: float
    warmup_steps: int
    weight_decay: float
    adam_beta2: float
    clip: float
    log_every: int
    checkpoint_every: int
    compile: bool
    workers: int
    seed: int


_OF_PROTOCOL = {"protocol": "name", **{f.name: f.name for f in fields(Protocol)[1:]}}
"""What fields of `Protocol` are called here."""


def suite_of(options: Mapping[str, Any], model: str, dataset: str, methods: Sequence[str]) -> Suite:
    """The suite of one model on one dataset, checked.

    Args:
        options: what `Options` holds.
        model: as `--model` takes it.
        dataset: as `--dataset` takes it.
        methods: method specs.

    Raises:
        UsageError: an unknown option (with the closest known one), a value of the wrong type, or an
            impossible protocol.
    """
    for name in options:
        if name not in Options.__annotations__:
            near = difflib.get_close_matches(name, Options.__annotations__, n=1, cutoff=0.5)
            known = ", ".join(Options.__annotations__)
            hint = f"did you mean '{near[0]}'?" if near else f"options: {known}."
            raise UsageError(f"there is no option '{name}'; {hint}")
    raw: dict[str, Any] = {name: v for name, v in options.items() if name not in _OF_PROTOCOL}
    protocol = {_OF_PROTOCOL[name]: v for name, v in options.items() if name in _OF_PROTOCOL}
    raw |= {"models": [model], "datasets": [dataset], "methods": list(methods)}
    suite = checked_suite({**raw, "protocol": protocol}, "the options")
    suite.resolved_protocol()
    return suite
