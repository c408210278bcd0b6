"""Suites: YAML files that say which models, datasets and methods run under which protocol."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tta_bench.errors import UsageError
from tta_bench.protocol import Protocol

DEFAULT_SUITE = "quickstart"


@dataclass
class Suite:
    """Everything `tta-bench eval` needs; flags override what a file says.

    Attributes:
        models: as `--model` takes them.
        datasets: as `--dataset` takes them.
        methods: specs such as `dynamic-eval:lr=1e-4`.
        protocol: fields of `Protocol`.
        limit: documents read of each dataset.
        max_tokens: tokens read of each document.
        min_tokens: shorter documents are left out.
        text_column: column that holds the text, for tables.
        lanes: documents read side by side, or `auto`.
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
    seed: int = 0

    def resolved_protocol(self) -> Protocol:
        """The protocol, checked.

        Raises:
            UsageError: an unknown field or an impossible combination.
        """
        known = {f.name for f in dataclasses.fields(Protocol)}
        _refuse_unknown(self.protocol, known, "protocol")
        values = dict(self.protocol)
        if values.get("context", 0) and "context_mode" not in values:
            values["context_mode"] = "recompute"
        return Protocol(**values)


def load_suite(name: str) -> Suite:
    """A suite by the name of one that is installed, or by the path of a YAML file.

    Raises:
        UsageError: there is none, it is not YAML, or it has an unknown key.
    """
    import yaml

    path = Path(name)
    if not path.is_file():
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
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = str(error).split("\n")[0]
        raise UsageError(f"the suite {path} is not valid YAML: {problem}.") from error
    if not isinstance(raw, dict):
        raise UsageError(f"the suite {path} must be a mapping of keys such as models and methods.")
    _refuse_unknown(raw, {f.name for f in dataclasses.fields(Suite)}, f"suite {path}")
    for key in ("models", "datasets", "methods"):
        if isinstance(raw.get(key), str):
            raw[key] = [raw[key]]
    return Suite(**raw | ({"lanes": str(raw["lanes"])} if "lanes" in raw else {}))


def installed_suites() -> dict[str, Path]:
    """The suites that come with the bench, by name."""
    try:
        folder = Path(str(resources.files("tta_bench_suites")))
    except ModuleNotFoundError:
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _refuse_unknown(raw: dict[str, Any], known: set[str], what: str) -> None:
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"keys: {', '.join(sorted(known))}."
            raise UsageError(f"{what} has no key '{key}'; {hint}")
