"""The gain on key tokens, which a long context predicts, beside that on all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tta_bench.errors import BenchError
from tta_bench.report.curves import curve_figure
from tta_bench.report.figure import Figure
from tta_bench.report.gains import Gains
from tta_bench.statistics import by_kind
from tta_bench.statistics.key_tokens import is_key
from tta_bench.store.key_tokens import key_tokens_of, stored_metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tta_bench.store import Run
    from tta_bench.store.key_tokens import KeyTokens


def key_figures(
    gains: Sequence[Gains],
    baseline_run: Run,
    slots: Mapping[str, int],
    baseline: str,
    prefix: str = "",
) -> tuple[list[Figure], list[str]]:
    """A figure for each set of key tokens beside the baseline's run, and what is left out.

    Args:
        gains: gains of runs over the baseline.
        baseline_run: the baseline's run.
        slots: the place of each method in the palette.
        baseline: the baseline's name.
        prefix: start of the figures' names.
    """
    figures, sentences = [], []
    for metric in stored_metrics(baseline_run):
        try:
            stored = key_tokens_of(baseline_run, metric)
            if stored is not None:
                figures.append(_figure(metric, stored, gains, slots, baseline, prefix))
        except BenchError as error:
            sentences.append(f"No slice by key tokens of {metric}: {error}")
    return figures, sentences


def _figure(
    metric: str,
    stored: KeyTokens,
    gains: Sequence[Gains],
    slots: Mapping[str, int],
    baseline: str,
    prefix: str,
) -> Figure:
    if not any(document.key for document in stored.documents.values()):
        raise BenchError("no document has any.")
    curves = [
        (item.run.spec, by_kind(item.values, _kinds(item, stored), item.clusters)) for item in gains
    ]
    return curve_figure(
        f"{prefix}gain-by-key-{metric}",
        f"Gain on key tokens ({metric})",
        f"Key tokens are those that {stored.evaluator} predicts much better with the whole "
        f"document before them than with {stored.header['rule'].get('trunc_len')} tokens.",
        "kind of token",
        f"gain over {baseline}, nats per token",
        curves,
        slots,
        "tokens",
        kinds=("other tokens", "key tokens"),
    )


def _kinds(gains: Gains, stored: KeyTokens) -> list[NDArray[np.int64]]:
    """[n_g] for each document: 1 for key tokens, 0 for others."""
    kinds = []
    for row, values in zip(gains.rows, gains.values, strict=True):
        document = stored.documents.get(row.index)
        if document is None:
            raise BenchError(f"those of {row.key} are not there.")
        try:
            kinds.append(is_key(len(values), document.tokens, document.key).astype(int))
        except ValueError as error:
            raise BenchError(f"the losses of {row.key} have no known place: {error}") from error
    return kinds
