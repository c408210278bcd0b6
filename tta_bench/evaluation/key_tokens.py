"""Makes the key tokens of stored runs: once per document, with a frozen model loaded for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tta_bench.errors import BenchError, ModelError
from tta_bench.evaluation.evaluator import Evaluator
from tta_bench.evaluation.plan import setting_specs
from tta_bench.evaluation.recorded import recorded_suite
from tta_bench.evaluation.reopen import reopen
from tta_bench.metrics.longppl import rule_of
from tta_bench.model.identity import describe_model, model_identity
from tta_bench.model.load import load_model
from tta_bench.model.loading import PLAIN
from tta_bench.statistics.key_tokens import inside, merged_intervals
from tta_bench.store.jsonable import jsonable, without_private_paths
from tta_bench.store.key_tokens import (
    KeyDocument,
    KeyTokens,
    key_tokens_file,
    key_tokens_of,
    read_key_tokens,
    written_key_tokens,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tta_bench.evaluation.observer import Observer
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.statistics.key_tokens import KeyRule
    from tta_bench.store import Run


def make_asked_for(
    runs: Sequence[Run], metrics: Sequence[str], observer: Observer, trust_remote_code: bool
) -> None:
    """Finds the key tokens that metrics ask for; where they cannot be had, a note says why."""
    for rule in dict.fromkeys(map(rule_of, metrics)):
        if rule is not None:
            try:
                list(make_key_tokens(runs, rule, observer, trust_remote_code=trust_remote_code))
            except BenchError as error:
                observer.note(f"{rule.name}: {error}")


def make_key_tokens(
    runs: Sequence[Run],
    rule: KeyRule,
    observer: Observer,
    evaluator: str | None = None,
    trust_remote_code: bool = False,
) -> Iterator[tuple[Path, KeyTokens]]:
    """Makes what is missing of the key tokens of runs; yields the file of each dataset.

    Args:
        runs: stored runs, of one or several settings.
        rule: what makes a token key.
        observer: is told how far it has come.
        evaluator: the model that decides, as `--model` takes it. Where none is named it is the one
            that has decided for the documents that are there, else the model under test, frozen
            and loaded anew. It has the dtype of the runs.
        trust_remote_code: whether code that a hub repository brings may run.

    Raises:
        BenchError: the documents or the evaluator cannot be had, or the documents are too short or
            too long for it.
    """
    groups: dict[Path, list[Run]] = {}
    for run in runs:
        groups.setdefault(key_tokens_file(run, rule.name), []).append(run)
    for path, group in groups.items():
        first = group[0]
        wanted = {row.index for run in group for row in run.rows if row.status == "done"}
        found = key_tokens_of(first, rule.name)
        if evaluator is not None or found is None or not wanted <= found.documents.keys():
            model = _load(first, found, evaluator, trust_remote_code)
            _make(path, first, wanted, Evaluator(model, rule), observer)
            found = key_tokens_of(first, rule.name)
        if found is not None:
            yield path, found


def _load(
    run: Run, found: KeyTokens | None, named: str | None, trust_remote_code: bool
) -> LanguageModel:
    """The evaluator.

    Raises:
        ModelError: it cannot be loaded, or a model that no one named is not what it was.
    """
    described = run.manifest["model"] if found is None or named else found.header["evaluator"]
    suite = recorded_suite({**run.manifest, "model": described}, f"the manifest of {run.path}")
    (spec,) = setting_specs(suite, trust_remote_code)
    if named is not None:
        return load_model(*replace(spec, model=named, loading=PLAIN).model_key)
    model = load_model(*spec.model_key)
    then = model_identity(described)
    if "name" not in then and then != model_identity(describe_model(model)):
        raise ModelError(
            f"{spec.model} has other weights now than when it was recorded; bring back its files, "
            "or name an evaluator with --evaluator."
        )
    return model


def _make(path: Path, run: Run, wanted: set[int], evaluator: Evaluator, observer: Observer) -> None:
    rule, model = evaluator.rule, evaluator.model
    header: dict[str, Any] = {
        "metric": rule.name,
        "rule": asdict(rule),
        "evaluator": jsonable(describe_model(model)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "fingerprint": run.manifest["dataset"].get("fingerprint"),
    }
    reopened = reopen(run.manifest)
    lengths = {index: evaluator.tokens(text) for index, text, _ in reopened.places(wanted)}
    evaluator.check(max(lengths.values(), default=0))
    with written_key_tokens(path, without_private_paths(header)) as writer:
        kept = read_key_tokens(path)
        left = wanted - (kept.documents.keys() if kept else set())
        tokens = sum(lengths[index] for index in left if lengths[index] > rule.trunc_len)
        observer.start_method(f"{rule.name} by {model.name}", len(left), tokens)
        for number, (index, text, places) in enumerate(reopened.places(left), start=1):
            found = evaluator.read(text)
            key = np.flatnonzero(inside(places, merged_intervals(found.places)))
            writer.append(
                KeyDocument(
                    index, len(places), tuple(key.tolist()), found.read, found.flops, found.seconds
                )
            )
            nll = float(found.losses.sum(dtype=np.float64))
            observer.update(len(found.losses), nll, number)
        observer.end_method("complete")
