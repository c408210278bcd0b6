"""Runs a stored run's cell again, from its manifest alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.registry import available, load
from tta_bench.contract.spec import build
from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import BenchError, DocumentError, ModelError, UsageError
from tta_bench.evaluation.execute import open_cell
from tta_bench.evaluation.setting import Cell
from tta_bench.evaluation.suite import Suite, checked_suite
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.load import load_model
from tta_bench.store import Run, RunWriter, create_group, load_run
from tta_bench.store.groups import slug
from tta_bench.store.manifest import section

if TYPE_CHECKING:
    from tta_bench.evaluation.progress import Progress
    from tta_bench.model.language_model import LanguageModel

_LIMITS = ("limit", "max_tokens")


class Rerunner:
    """Repeats stored runs one after another; runs of one model load it once.

    Args:
        results: the folder that the new runs land in, each group in one called `reproduce-GROUP`.
        progress: shows how far each has come.
        limit: read the first so many documents only.
    """

    def __init__(self, results: Path, progress: Progress, limit: int | None = None):
        self.results = results
        self.progress = progress
        self.limit = limit
        self._loaded: tuple[tuple[str, ...], LanguageModel] | None = None

    def run(self, stored: Run) -> tuple[Run, tuple[str, ...]]:
        """The same cell run from the start, and what is to be said of how.

        Raises:
            UsageError: the manifest names a method that is not here, or what no run can be made of.
            ModelError: its weights cannot be had, or are others.
            DocumentError: its documents cannot be had.
            MethodError: the method cannot be imported.
        """
        manifest = stored.manifest
        suite = suite_of(stored, self.limit)
        choice = _choice(stored)
        notes = []
        threads, note = _threads(manifest)
        notes += [note] if note else []
        device = _device(str(section(manifest, "device").get("type")))
        with _thread_count(threads), deterministic_algorithms(suite.deterministic):
            model = self._model(stored, suite.models[0], suite.dtype, device)
            cell = self._open(stored, suite, model)
            cell.check_method(choice)
            group = create_group(
                f"reproduce-{slug(stored.path.resolve().parent.name)}",
                base="",
                digest="",
                results=self.results,
            )
            with RunWriter.resume(group, cell.manifest(choice), "all") as writer:
                cell.run(choice, writer, self.progress, debug=False)
        return load_run(writer.path), tuple(notes)

    def _model(self, stored: Run, spec: str, dtype: str, device: str) -> LanguageModel:
        wanted = (spec, dtype, device)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # never two models in memory
            try:
                self._loaded = wanted, load_model(*wanted)
            except BenchError as error:
                raise ModelError(f"the weights of {stored.path} cannot be had: {error}") from error
        model = self._loaded[1]
        then = model_identity(stored.manifest["model"])
        now = model_identity(describe_model(model))
        if "name" not in then and then != now:
            raise ModelError(
                f"the weights of {stored.path} cannot be had: {spec} has other hashes now; "
                "bring back the files that the manifest names."
            )
        return model

    def _open(self, stored: Run, suite: Suite, model: LanguageModel) -> Cell:
        try:
            cell = open_cell(suite, model, suite.datasets[0])
        except DocumentError as error:
            raise DocumentError(f"the documents of {stored.path} cannot be had: {error}") from error
        then = {row.index: row.sha256 for row in stored.rows}
        same = [d.sha256 == then.get(index) for index, d in enumerate(cell.documents)]
        if not any(same):  # before hours are spent on what nothing can be compared with
            raise DocumentError(
                f"the documents of {stored.path} cannot be had: {suite.datasets[0]} holds other "
                "texts here (those of a Python or a package are of its version)."
            )
        return cell


def suite_of(stored: Run, limit: int | None = None) -> Suite:
    """The suite of one cell that a manifest describes, its documents cut to the first `limit`.

    Raises:
        UsageError: the manifest holds values that no suite can, or a limit would change what is
            read instead of leaving out what comes last.
    """
    manifest, what = stored.manifest, f"the manifest of {stored.path}"
    dataset = manifest["dataset"]
    protocol = {k: v for k, v in manifest["protocol"].items() if k != "prefix_id" and v is not None}
    raw: dict[str, Any] = {
        "models": [_model_spec(manifest["model"])],
        "datasets": [dataset.get("spec")],
        "methods": [stored.spec],
        "protocol": protocol,
        "min_tokens": dataset.get("min_tokens") or 0,
        "text_column": section(manifest, "config").get("text_column"),
        "dtype": manifest.get("dtype"),
        "lanes": str(stored.lanes or "auto"),
        "seed": section(manifest, "seeds").get("torch") or 0,
        "deterministic": manifest.get("deterministic") or False,
        **{name: dataset.get(name) for name in _LIMITS},
    }
    suite = checked_suite(raw, what)
    found = suite.resolved_protocol()
    if found.uses_prefix and "prefix_id" in manifest["protocol"]:
        prefix = manifest["protocol"]["prefix_id"]
        suite.protocol["prefix"] = "none" if prefix is None else str(prefix)
    suite.limit = _documents(stored, found, suite.limit, limit)
    return suite


def _documents(stored: Run, protocol: Protocol, own: int | None, limit: int | None) -> int | None:
    """How many documents to read: as many as were read, or as asked for."""
    if not stored.rows:
        raise UsageError(f"{stored.path} has read no document yet; there is nothing to compare.")
    if protocol.join is not None:
        if limit is not None:
            raise UsageError(
                f"--limit cannot shorten a run under --protocol {protocol.name}, which joins its "
                "documents into one; leave it out."
            )
        return own
    read = stored.rows[-1].index + 1
    if own is None and limit is None and read == stored.manifest["dataset"].get("documents"):
        return None
    return min(number for number in (read, own, limit) if number is not None)


def _model_spec(model: dict[str, Any]) -> Any:
    """What `--model` takes; of a model of the hub the commit that was read."""
    name = model.get("name")
    if not isinstance(name, str):
        return name
    if model.get("source") == "hub" and isinstance(model.get("commit"), str):
        return f"{name.partition('@')[0]}@{model['commit']}"
    scheme = "config:" if name.startswith("config:") else ""
    return scheme + os.path.expanduser(name.removeprefix(scheme))  # manifests write the home as ~


def _choice(stored: Run) -> MethodChoice:
    """The method with the parameters of the manifest: its spec rounds, and defaults may move."""
    name, params = stored.method, stored.manifest["method"].get("params")
    if name not in available():
        raise UsageError(
            f"the method '{name}' of {stored.path} is not known here; "
            "name the file that registers it with --plugin FILE."
        )
    cls = load(name)
    return MethodChoice(
        name, cls, build(cls.Params, params if isinstance(params, dict) else {}, name)
    )


def _device(kind: str) -> str:
    """The kind of device the run had where there is one, else whatever there is."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return kind if there.get(kind) else "auto"


def _threads(manifest: dict[str, Any]) -> tuple[int | None, str | None]:
    """The threads that the run had, and a note where that is a guess.

    Another number splits sums otherwise, which moves the last bits. Never more than there are
    cores: threads that wait for one another would take for ever.
    """
    platform = section(manifest, "platform")
    here = os.cpu_count() or 1
    threads, cores = platform.get("threads"), platform.get("cores")
    if isinstance(threads, int) and threads > 0:
        return min(threads, here), None
    if isinstance(cores, int) and cores > 0:
        now = min(cores, here)
        return now, f"the run does not say how many threads it had; now {now}, for {cores} cores"
    return None, None


@contextmanager
def _thread_count(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
