"""What a manifest records of its setting, as the suite that would ask for it again."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from tta_bench.documents.limits import LIMITS
from tta_bench.documents.sequence import datasets_in, sequence_spec
from tta_bench.evaluation.suite import Suite, checked_suite
from tta_bench.store.manifest import section

_BEFORE_PATH = re.compile(r"(config:|((share|rest):[^:]*:)+)?")
"""What may stand before a path in a spec."""


def recorded_suite(manifest: Mapping[str, Any], what: str) -> Suite:
    """The suite of the one run that a manifest describes, its values checked.

    Args:
        manifest: from a file, so that it may hold anything.
        what: what an error calls it, such as `the manifest of results/mine/none-1234`.

    Raises:
        UsageError: it holds values that no suite can.
    """
    dataset, protocol = manifest["dataset"], manifest["protocol"]
    unsaid = {"prefix_id"} if protocol.get("name", "stream") == "stream" else {"prefix_id", "chunk"}
    limits = {name: dataset.get(name) for name in LIMITS}
    raw: dict[str, Any] = {
        "models": [_model_spec(manifest["model"])],
        "datasets": [_here(dataset.get("spec"))],
        "methods": [manifest["method"].get("spec")],
        "protocol": {k: v for k, v in protocol.items() if k not in unsaid and v is not None},
        "probe": _here(section(manifest, "probe").get("spec")),
        "text_column": section(manifest, "config").get("text_column"),
        **_loading(manifest["model"]),
        "dtype": manifest.get("dtype"),
        "seed": section(manifest, "seeds").get("torch") or 0,
        "deterministic": manifest.get("deterministic") or False,
        "words": section(manifest, "config").get("words") or [],
        **limits,
        "min_tokens": limits["min_tokens"] or 0,
    }
    suite = checked_suite(raw, what)
    if suite.resolved_protocol().uses_prefix and "prefix_id" in protocol:
        prefix = protocol["prefix_id"]
        suite.protocol["prefix"] = "none" if prefix is None else str(prefix)
    return suite


def _model_spec(model: Mapping[str, Any]) -> Any:
    """What `--model` takes; of a model of the hub the commit that was read."""
    name, commit = model.get("name"), model.get("commit")
    if isinstance(name, str) and model.get("source") == "hub" and isinstance(commit, str):
        return f"{name.partition('@')[0]}@{commit}"
    return _here(name)


def _loading(model: Mapping[str, Any]) -> dict[str, Any]:
    """How the model was loaded; of a model that was spread over devices, over those there are."""
    tokenizer = model.get("tokenizer")
    return {
        "tokenizer": _here(tokenizer.get("name")) if isinstance(tokenizer, dict) else None,
        "adapter": model.get("adapter") or "auto",
        "load_in": model.get("load_in"),
        "device_map": "auto" if model.get("spread_over") else None,
    }


def _here(spec: Any) -> Any:
    """A spec of a manifest, which writes the home folder as `~`."""
    if not isinstance(spec, str):
        return spec
    if several := datasets_in(spec):
        return sequence_spec([_here(one) for one in several])
    scheme = _BEFORE_PATH.match(spec)
    assert scheme is not None  # it matches nothing, too
    return scheme[0] + os.path.expanduser(spec[scheme.end() :])
