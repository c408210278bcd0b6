"""Runs by setting: the same model, documents, protocol, dtype and device, so comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tta_bench.errors import UsageError
from tta_bench.format import DASH
from tta_bench.store.key import setting
from tta_bench.tables.labels import labels_of

if TYPE_CHECKING:
    from tta_bench.store import Run

BASELINE = "none"
"""The method that others are compared with by default: the frozen model."""


def by_setting(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each setting, in the order of their first runs."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        alike = [setting(run.manifest), run.device]
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(run)
    return list(groups.values())


def baseline_of(group: Sequence[Run], name: str = BASELINE) -> Run | None:
    """The run to compare the others of a setting with; None if there is none.

    Runs whose spec is `name` come before those whose method is, and complete ones before others.
    """
    candidates = [run for run in group if run.spec == name]
    candidates = candidates or [run for run in group if run.method == name]
    complete = [run for run in candidates if run.status == "complete"]
    return next(iter(complete or candidates), None)


def baseline_place(group: Sequence[Run], name: str = BASELINE) -> int | None:
    """Where among the runs of a setting the baseline is; None if there is none."""
    other = baseline_of(group, name)
    return next((place for place, run in enumerate(group) if run is other), None)


def baseline_label(group: Sequence[Run], name: str) -> str:
    """The baseline as headings and notes call it: paths are cut as in the label of its row."""
    return labels_of([*(run.spec for run in group), name])[-1]


def require_baseline(runs: Sequence[Run], name: str) -> None:
    """Refuses a baseline that no run is of; `none` may be missing.

    Raises:
        UsageError: no run is of this baseline.
    """
    if name != BASELINE and baseline_of(runs, name) is None:
        known = ", ".join(dict.fromkeys(run.spec for run in runs))
        raise UsageError(f"--baseline '{name}' is none of the runs' methods; there are {known}.")


def titles_of(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A title for the runs of each setting: model, dataset, and what sets the settings apart."""
    firsts = [group[0] for group in groups]
    labels = [_labels(run) for run in firsts]
    differing = [
        name
        for name in dict.fromkeys(name for label in labels for name in label)
        if len({label.get(name) for label in labels}) > 1
    ]
    # A hash says nothing where the name in the title tells the tables apart as well.
    for digest, section, field in (("weights", "model", "name"), ("documents", "dataset", "spec")):
        names = {str(run.manifest[section].get(field)) for run in firsts}
        if digest in differing and len(names) == len({label[digest] for label in labels}):
            differing.remove(digest)
    titles = []
    for run, label in zip(firsts, labels, strict=True):
        model = _name(run.manifest["model"].get("name"))
        dataset = _name(run.manifest["dataset"].get("spec"))
        apart = [f"{name} {label.get(name, 'not set')}" for name in differing]
        titles.append(" · ".join([f"{model} on {dataset}", *apart]))
    return titles


def _name(spec: Any) -> str:
    """A spec as it stands in a title: an absolute path is cut to its last part."""
    name = str(spec or DASH)
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("/") else name


def _labels(run: Run) -> dict[str, str]:
    """What two settings may differ in, beside the names of model and dataset."""
    parts = setting(run.manifest)
    documents, protocol = dict(parts["dataset"]), dict(parts["protocol"])
    labels = {
        "protocol": protocol.pop("name", None),
        **protocol,
        "dtype": parts["dtype"],
        "device": run.device or DASH,
        "documents": str(documents.pop("fingerprint"))[:8],
        **documents,
        "weights": _digest(parts["model"]),
        "engine version": parts["engine_version"],
    }
    return {name.replace("_", " "): str(value) for name, value in labels.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
