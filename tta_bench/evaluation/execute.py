"""Runs a suite: every model on every dataset with every method, into one group of stored runs."""

from __future__ import annotations

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build, split_spec
from tta_bench.documents import tokenized
from tta_bench.engine.determinism import deterministic_algorithms
from tta_bench.errors import UsageError
from tta_bench.evaluation.setting import Cell
from tta_bench.model.load import load_model
from tta_bench.store import (
    FAILED,
    Rerun,
    RunWriter,
    create_group,
    is_whole,
    load_run,
    run_folder,
    short_name,
)
from tta_bench.store.key import setting

if TYPE_CHECKING:
    from tta_bench.evaluation.progress import Progress
    from tta_bench.evaluation.suite import Suite
    from tta_bench.model.language_model import LanguageModel


def choose_methods(specs: list[str]) -> list[MethodChoice]:
    """Parses and checks method specs, so that a typing mistake costs no model load.

    Raises:
        UsageError: an unknown method or parameter, or the same spec twice.
    """
    choices = []
    for spec in specs:
        name, values = split_spec(spec)
        cls = load(name)
        choices.append(MethodChoice(name, cls, build(cls.Params, values, name)))
    for spec, times in Counter(choice.spec for choice in choices).items():
        if times > 1:
            raise UsageError(f"the method '{spec}' is asked for {times} times; once is enough.")
    return choices


def run_suite(
    suite: Suite,
    progress: Progress,
    *,
    name: str | None = None,
    base: str | None = None,
    results: Path = Path("results"),
    rerun: Rerun = "missing",
    trust_remote_code: bool = False,
    debug: bool = False,
) -> Iterator[Path]:
    """Does what the suite asks for and is not there; yields the folder of each run as it begins.

    Args:
        name: of the group of runs; without one it is named by `base` and what its runs share.
        base: by default the names of the first model and dataset.
        rerun: of a run that is there, the documents that are `missing`, those that `failed`, too,
            or `all`.

    Raises:
        BenchError: nothing can run: unknown names, no documents, too long a window.
    """
    if not suite.datasets:
        raise UsageError("no documents are named; give --dataset, such as builtin:pydoc.")
    choices = choose_methods(suite.methods)
    group: Path | None = None
    with deterministic_algorithms(suite.deterministic):
        for model_spec in suite.models:
            model = load_model(model_spec, suite.dtype, suite.device, trust_remote_code)
            # All are opened before the first runs: a wrong name should not cost an hour.
            cells = [open_cell(suite, model, dataset_spec) for dataset_spec in suite.datasets]
            for cell in cells:
                for choice in choices:
                    cell.check_method(choice)
            for cell in cells:
                for choice in choices:
                    manifest = cell.manifest(choice)
                    if group is None:
                        shared = [setting(manifest), suite.models[1:], suite.datasets[1:]]
                        digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode())
                        names = short_name(suite.models[0]), short_name(suite.datasets[0])
                        group = create_group(
                            name,
                            base=base or "-".join(names),
                            digest=digest.hexdigest(),
                            results=results,
                        )
                    path = run_folder(group, manifest)
                    if is_whole(path, manifest, rerun):
                        yield path
                        _say_whole(path, progress, suite.deterministic)
                        continue
                    with RunWriter.resume(group, manifest, rerun) as writer:
                        yield writer.path
                        cell.run(choice, writer, progress, debug)
                    gc.collect()


def open_cell(suite: Suite, model: LanguageModel, dataset_spec: str) -> Cell:
    """One model on one dataset, its documents tokenised.

    Raises:
        DocumentError: the documents cannot be had.
        UsageError: they cannot be read under the suite's protocol.
    """
    protocol = suite.resolved_protocol()
    documents = tokenized(
        dataset_spec,
        model.tokenizer,
        text_column=suite.text_column,
        limit=suite.limit,
        max_tokens=suite.max_tokens,
        min_tokens=suite.min_tokens,
        join=protocol.join,
        drop_final_newline=protocol.name == "llama.cpp",
    )
    cell = Cell(suite, protocol, model, dataset_spec, documents)
    cell.check()
    return cell


def _say_whole(path: Path, progress: Progress, deterministic: bool) -> None:
    run = load_run(path)
    if deterministic and not run.manifest.get("deterministic"):
        progress.note(f"{run.spec}: {path} was not run with --deterministic; --rerun all does that")
        return
    failed = sum(row.status in FAILED for row in run.rows)
    repeat = f"{failed} failed: --rerun failed repeats them" if failed else "--rerun all repeats it"
    if not progress.quiet:
        progress.note(
            f"{run.spec}: nothing to do, {path} has all {len(run.rows)} documents ({repeat})"
        )
