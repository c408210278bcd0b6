"""The options that say what is evaluated: a suite, and flags on top of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tta_bench.cli.model_options import Adapter, DeviceMap, LoadIn, Revision, Tokenizer
from tta_bench.cli.options import (
    DEVICE_HELP,
    DTYPE_HELP,
    MACHINE,
    METHOD_HELP,
    MODEL_HELP,
    PLUGIN_HELP,
    OnOff,
    complete_methods,
    complete_models,
    shown,
    whole,
)
from tta_bench.documents.limits import LIMITS
from tta_bench.engine.protocol import CONTEXT_MODES, PROBE_TOKENS, PROTOCOLS, RESETS, Protocol
from tta_bench.errors import UsageError
from tta_bench.evaluation.suite import DEFAULT_SUITE, Suite, load_suite

METHODS, DOCUMENTS, PROTOCOL = "What is compared", "Documents", "Protocol (moves the number)"
_SUITE, _PROTOCOL = Suite(), Protocol()
"""Where the defaults that `--help` shows come from."""

_PLAIN = (
    *LIMITS,
    *("text_column", "dtype", "device", "lanes", "compile", "audit", "isolate", "seed"),
    *("deterministic", "tokenizer", "adapter", "load_in", "device_map", "probe", "fresh"),
)
_OF_PROTOCOL = ("chunk", "context", "context_mode", "window", "stride", "prefix", "reset")


def _suites(incomplete: str) -> list[str]:
    from tta_bench.evaluation.suite import installed_suites

    return [name for name in installed_suites() if name.startswith(incomplete)]


@dataclass
class SuiteOptions:
    """Flags as they were given; None for those that were not."""

    model: Annotated[
        str | None,
        typer.Option(
            help=shown(MODEL_HELP, _SUITE.models[0]),
            autocompletion=complete_models,
            rich_help_panel=METHODS,
        ),
    ] = None
    revision: Revision = None
    tokenizer: Tokenizer = None
    adapter: Adapter = None
    load_in: LoadIn = None
    device_map: DeviceMap = None
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=shown(METHOD_HELP, f"{_SUITE.methods[0]}, the frozen model"),
            autocompletion=complete_methods,
            rich_help_panel=METHODS,
        ),
    ] = None
    plugin: Annotated[
        list[Path] | None, typer.Option(help=PLUGIN_HELP, rich_help_panel=METHODS)
    ] = None
    suite: Annotated[
        str | None,
        typer.Option(
            help=shown(
                "Suite, by name or YAML file; flags override it.",
                f"{DEFAULT_SUITE}, or none with --dataset",
            ),
            autocompletion=_suites,
            rich_help_panel=METHODS,
        ),
    ] = None
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help=shown(
                "Documents: see tta-bench list datasets; repeat it for several.", "the suite's"
            ),
            rich_help_panel=DOCUMENTS,
        ),
    ] = None
    text_column: Annotated[
        str | None,
        typer.Option(
            help=shown(
                "Column that holds the text of a row.", "text, or the only column of strings"
            ),
            rich_help_panel=DOCUMENTS,
        ),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(
            help=shown("Documents to read.", _SUITE.limit or "all"),
            **whole(1),
            rich_help_panel=DOCUMENTS,
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help=shown("Tokens to read of each document.", _SUITE.max_tokens or "all"),
            **whole(2),
            rich_help_panel=DOCUMENTS,
        ),
    ] = None
    min_tokens: Annotated[
        int | None,
        typer.Option(
            help=shown("Leave out documents with fewer tokens.", _SUITE.min_tokens),
            **whole(0),
            rich_help_panel=DOCUMENTS,
        ),
    ] = None
    protocol: Annotated[
        str | None,
        typer.Option(
            help=shown(f"Protocol: {', '.join(PROTOCOLS)}.", _PROTOCOL.name),
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    chunk: Annotated[
        int | None,
        typer.Option(
            help=shown("Tokens scored in one step.", _PROTOCOL.chunk),
            **whole(1),
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    context: Annotated[
        int | None,
        typer.Option(
            help=shown("Tokens left of the chunk that the model still sees.", _PROTOCOL.context),
            **whole(0),
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    context_mode: Annotated[
        str | None,
        typer.Option(
            help=shown(
                f"How they are seen: {', '.join(CONTEXT_MODES)}.",
                f"{_PROTOCOL.context_mode}, recompute with --context",
            ),
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    window: Annotated[
        int | None,
        typer.Option(
            help=shown("Tokens in a window of another tool's protocol.", "must be given there"),
            **whole(2),
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    stride: Annotated[
        int | None,
        typer.Option(
            help=shown("Stride of hf-guide.", "the window"), **whole(1), rich_help_panel=PROTOCOL
        ),
    ] = None
    prefix: Annotated[
        str | None,
        typer.Option(
            help=shown(
                "Token before each document: bos, eos, none or an id; auto: bos, else eos.",
                _PROTOCOL.prefix,
            ),
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    reset: Annotated[
        str | None,
        typer.Option(
            help=shown(f"When the method forgets: {', '.join(RESETS)}.", _PROTOCOL.reset),
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    probe: Annotated[
        str | None,
        typer.Option(
            help=shown(
                f"With --reset never: a dataset whose first {PROBE_TOKENS:,} tokens are read after "
                "each document, without being learned.",
                "no probe",
            ),
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    fresh: Annotated[
        bool | None,
        typer.Option(
            "--fresh",
            help="With --reset never: read each document with a fresh method as well, to compare.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(help=shown(DTYPE_HELP, _SUITE.dtype), rich_help_panel=PROTOCOL),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            help=shown("Seed for PyTorch.", _SUITE.seed), **whole(0), rich_help_panel=PROTOCOL
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(help=shown(DEVICE_HELP, _SUITE.device), rich_help_panel=MACHINE),
    ] = None
    lanes: Annotated[
        str | None,
        typer.Option(
            help=shown(
                "Documents read side by side; auto: on a GPU as many as fit, on a CPU one.",
                _SUITE.lanes,
            ),
            rich_help_panel=MACHINE,
        ),
    ] = None
    compile: Annotated[
        OnOff | None,
        typer.Option(
            help=shown(
                "Compile model and methods; auto: on a GPU, where the run is long enough.",
                _SUITE.compile,
            ),
            rich_help_panel=MACHINE,
        ),
    ] = None
    audit: Annotated[
        Literal["auto", "full", "off"] | None,
        typer.Option(
            help=shown(
                "Check each run on the real model and documents; auto takes a tenth of its time.",
                _SUITE.audit,
            ),
            rich_help_panel=MACHINE,
        ),
    ] = None
    isolate: Annotated[
        bool | None,
        typer.Option(
            "--isolate",
            help="Run each method in a process of its own, out of reach of the targets; slower.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic",
            help="Use only algorithms of PyTorch that give the same bits every time.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run code that a hub repository brings.",
            rich_help_panel=MACHINE,
        ),
    ] = False

    def resolve(self) -> tuple[Suite, str | None]:
        """A suite's file, or nothing, with the flags that were given on top.

        Naming documents without a suite starts from an empty one; anything else from quickstart.

        Returns:
            The suite, and what the name of its group starts with if it comes from a file.

        Raises:
            UsageError: the suite is not there or not valid, its protocol is impossible, or the
                revision is of no model of the hub.
        """
        from tta_bench.model.locate import at_revision
        from tta_bench.store.groups import slug

        named = {"models": self.model and [self.model], "datasets": self.dataset}
        named |= {"methods": self.method, **{name: getattr(self, name) for name in _PLAIN}}
        given = {key: value for key, value in named.items() if value not in (None, [])}
        by_flags = self.suite is None and "datasets" in given
        suite = Suite() if by_flags else load_suite(self.suite or DEFAULT_SUITE)
        for key, value in given.items():
            setattr(suite, key, value)
        if self.revision is not None:
            suite.models = [at_revision(self._only_model(suite), self.revision)]
        suite.protocol = self._on_top_of(suite.protocol)
        suite.resolved_protocol()
        return suite, None if by_flags else slug(Path(self.suite or DEFAULT_SUITE).stem)

    def _only_model(self, suite: Suite) -> str:
        """The model that `--revision` is for.

        Raises:
            UsageError: there are several.
        """
        if len(suite.models) > 1:
            raise UsageError(
                "--revision is of one model, and the suite has several; write NAME@REVISION there."
            )
        return suite.models[0]

    def _on_top_of(self, protocol: dict[str, Any]) -> dict[str, Any]:
        flags = {"name": self.protocol, **{name: getattr(self, name) for name in _OF_PROTOCOL}}
        changed = {key: value for key, value in flags.items() if value is not None}
        named = protocol.get("name", _PROTOCOL.name)
        if changed.get("name", named) != named:
            return changed  # a suite's chunk and context mean nothing to another protocol
        if changed.get("context") == 0:
            protocol = {key: value for key, value in protocol.items() if key != "context_mode"}
        return protocol | changed
