"""Metrics of how well a run predicted its documents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tta_bench.format import BREAK, DASH, fixed
from tta_bench.metrics.metric import Metric
from tta_bench.statistics import Quality, quality

if TYPE_CHECKING:
    from tta_bench.store import Run


@lru_cache(maxsize=128)
def quality_of(run: Run) -> Quality | None:
    """Totals over the documents that are done, computed once for all metrics of a run."""
    return quality(run.rows)


def _metric(name: str, attribute: str, title: str, **fields: Any) -> Metric:
    """A metric that is an attribute of `Quality`."""

    def value(run: Run, baseline: Run | None) -> float | None:
        found = quality_of(run)
        return None if found is None else getattr(found, attribute)

    return Metric(name, value, title, better="lower", **fields)


def _perplexity(row: Mapping[str, Any]) -> str:
    value = row["perplexity"]
    if value is None:
        return DASH if row["nll"] is None or row["documents_missing"] else "∞"
    return perplexity_text(value)


def perplexity_text(value: float) -> str:
    """Two decimals; none from 1,000 on."""
    return fixed(value, 2 if value < 1000 else 0)


def _four_decimals(value: float) -> str:
    return fixed(value, 4)


QUALITY = (
    _metric(
        "perplexity",
        "perplexity",
        "perplexity",
        summary="Corpus perplexity per token, exp(sum of NLL / tokens).",
        cell=_perplexity,
    ),
    _metric(
        "bits_per_byte",
        "bits_per_byte",
        f"bits/{BREAK}byte",
        summary="Bits per UTF-8 byte of the source text, sum of NLL / (ln 2 x bytes).",
        show=_four_decimals,
        narrow=6,
    ),
    _metric(
        "nll_per_token",
        "nll_per_token",
        f"nats/{BREAK}token",
        summary="Nats per token, sum of NLL / tokens.",
        show=_four_decimals,
        shown=False,
        narrow=6,
    ),
    _metric(
        "macro_perplexity",
        "macro_perplexity",
        f"macro {BREAK}perplexity",
        summary="Mean over documents of the document's perplexity.",
        show=perplexity_text,
        shown=False,
    ),
    _metric(
        "macro_nll_per_token",
        "macro_nll",
        f"macro {BREAK}nats/{BREAK}token",
        summary="Mean over documents of the document's nats per token.",
        show=_four_decimals,
        shown=False,
    ),
    _metric(
        "word_perplexity",
        "word_perplexity",
        f"word {BREAK}perplexity",
        summary="exp(sum of NLL / words), words split as lm-evaluation-harness splits them.",
        show=perplexity_text,
        shown=False,
    ),
    _metric(
        "byte_perplexity",
        "byte_perplexity",
        f"byte {BREAK}perplexity",
        summary="exp(sum of NLL / UTF-8 bytes of the source text).",
        show=_four_decimals,
        shown=False,
    ),
)
