"""Suites: YAML files that say which models, datasets and methods run under which protocol."""

from __future__ import annotations

import difflib
import os
import reprlib
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tta_bench.engine.protocol import Protocol
from tta_bench.errors import UsageError

DEFAULT_SUITE = "quickstart"


@dataclass
class Suite:
    """Everything `tta-bench eval` needs; flags override what a file says.

    Attributes:
        models: models, as `--model` takes them.
        datasets: documents, as `--dataset` takes them.
        methods: method specs such as `dynamic-eval:lr=1e-4`.
        protocol: fields of `Protocol` that differ from its defaults.
        description: one sentence for `tta-bench list suites`.
        limit: documents read of each dataset; None for all.
        max_tokens: tokens read of each document; None for all.
        min_tokens: documents with fewer tokens are left out.
        text_column: column that holds the text, for tables.
        dtype: dtype of the weights, or `auto`: bfloat16 on cuda, else float32.
        device: `cuda`, `mps` or `cpu`, or `auto`: the first of these that is there.
        lanes: documents read side by side, or `auto`: on a GPU as many as fit, on a CPU one.
        compile: `on`, `off`, or `auto`: on a GPU where the run is long enough to earn it.
        seed: seed for PyTorch.
        deterministic: whether PyTorch is held to deterministic algorithms.
    """

    models: list[str] = field(default_factory=lambda: ["builtin:tiny"])
    datasets: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["none"])
    protocol: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    limit: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    text_column: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    lanes: str = "auto"
    compile: str = "auto"
    seed: int = 0
    deterministic: bool = False

    def resolved_protocol(self) -> Protocol:
        """The protocol, checked.

        Raises:
            UsageError: an unknown field or an impossible combination.
        """
        values = _typed(self.protocol, Protocol, "the protocol")
        if values.get("context", 0) and "context_mode" not in values:
            values["context_mode"] = "recompute"
        return Protocol(**values)


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
    raw, lines = _read_yaml(path, what)
    for key in ("models", "datasets", "methods"):
        if isinstance(raw.get(key), str):
            raw[key] = [raw[key]]
    suite = Suite(**_typed(raw, Suite, what, lines[""]))
    # Now, while the lines are at hand; flags may still replace what is said here.
    _typed(suite.protocol, Protocol, f"the protocol of {what}", lines.get("protocol"))
    return suite


def _read_yaml(path: Path, what: str) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """The mapping in a file, and the lines of its keys: those of the file under "", and those of
    each mapping in it under its key.

    Raises:
        UsageError: it cannot be read, is not YAML, no mapping, or has a key twice.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        raw = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}.") from error
    except yaml.MarkedYAMLError as error:
        place = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{what} is not valid YAML{place}: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: what is no UTF-8, and dates and numbers that there are not.
        problem = str(error).split("\n")[0]
        raise UsageError(f"{what} is not valid YAML: {problem}.") from error
    if node is None or not isinstance(raw, dict):
        raise UsageError(f"{what} must be a mapping of keys such as models and methods.")
    lines = {"": _lines(node, what)}
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and isinstance(key, yaml.ScalarNode):
            lines[key.value] = _lines(value, what)
    return raw, lines


def _lines(node: Any, what: str) -> dict[str, int]:
    """The line of each key of a YAML mapping, from 1."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:  # YAML would silently take the last
            raise UsageError(f"{what}, line {line}: '{name}' stands in line {lines[name]} already.")
        lines[name] = line
    return lines


def checked_suite(raw: dict[str, Any], what: str) -> Suite:
    """A suite made of values whose names and types have yet to be checked.

    Args:
        raw: the values, by the names of `Suite`'s fields.
        what: what an error calls them, such as `the suite mine.yaml`.

    Raises:
        UsageError: an unknown key, or a value of the wrong type.
    """
    return Suite(**_typed(raw, Suite, what))


def installed_suites() -> dict[str, Path]:
    """The suites that come with the bench, by name."""
    try:
        folder = Path(str(resources.files("tta_bench_suites")))
    except ModuleNotFoundError:
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _typed(
    raw: dict[str, Any], target: type, what: str, lines: dict[str, int] | None = None
) -> dict[str, Any]:
    """The values of a mapping if each is a field of `target` and of its type; else UsageError."""
    known = typing.get_type_hints(target)
    values = {}
    for key, value in raw.items():
        line = (lines or {}).get(str(key))
        where = what if line is None else f"{what}, line {line}"
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"keys: {', '.join(sorted(known))}."
            raise UsageError(f"{where}: there is no key '{key}'; {hint}")
        kind = known[key]
        if kind is str and _is_count(value):
            value = str(value)  # lanes: 4, prefix: 5
        wanted = _mismatch(value, kind)
        if wanted:
            raise UsageError(f"{where}: '{key}' must be {wanted}, not {_shown(value)}.")
        values[key] = value
    return values


def _is_count(value: Any) -> bool:
    """Whether it is a whole number that a person could mean; Python would not print much more."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _shown(value: Any) -> str:
    """A value in a sentence; never whole, since a few lines of aliases can stand for gigabytes."""
    if isinstance(value, (list, tuple, set, dict)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of so many digits"
    return reprlib.repr(value)


def _mismatch(value: Any, kind: Any) -> str | None:
    """What a value of this type would be, if the value is none."""
    if typing.get_origin(kind) is types.UnionType:  # the only unions here are with None
        return None if value is None else _mismatch(value, typing.get_args(kind)[0])
    if typing.get_origin(kind) is list:
        good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return None if good and value else "a text or a list of texts"
    if typing.get_origin(kind) is dict:
        return None if isinstance(value, dict) else "a mapping"
    if kind is int:
        return None if _is_count(value) else "a whole number"
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    return None if isinstance(value, kind) else "text"
