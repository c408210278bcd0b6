"""Metrics of how well a run predicted its documents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tta_bench.format import BREAK, DASH, fixed, plural
from tta_bench.metrics.metric import Metric
from tta_bench.statistics import Quality, quality
from tta_bench.store.manifest import section

if TYPE_CHECKING:
    from tta_bench.store import Run


@lru_cache(maxsize=128)
def quality_of(run: Run) -> Quality | None:
    """Totals over the documents that are done, computed once for all metrics of a run."""
    return quality(run.done, run.published_words)


def _metric(name: str, attribute: str, title: str, **fields: Any) -> Metric:
    """A metric that is an attribute of `Quality`."""

    def value(run: Run, baseline: Run | None) -> float | None:
        found = quality_of(run)
        return None if found is None else getattr(found, attribute)

    return Metric(name, value, title, **{"better": "lower", **fields})


def _counts_words(run: Run) -> bool:
    """Whether the suite of a run has published counts of words, which its tables are then over."""
    return bool(section(run.manifest, "config").get("words"))


def _words_note(run: Run) -> str | None:
    """Which words word perplexity is over, where the suite has published counts; or why none."""
    found = quality_of(run)
    if found is None:
        return None
    if not found.words:
        return "no word perplexity: the words of what was scored are not stored"
    if not _counts_words(run):
        return None
    if run.published_words is None:
        return (
            "word perplexity over words as white space parts them: the published counts are of "
            "other documents, or of more"
        )
    source = section(run.manifest, "dataset").get("words_source")
    return (
        f"word perplexity over {plural(found.words, 'word')} as published ({source}), of a slice "
        "over those that white space parts"
    )


def _perplexity(row: Mapping[str, Any]) -> str:
    value = row["perplexity"]
    if value is None:
        return DASH if row["nll"] is None or row["documents_missing"] else "∞"
    return perplexity_text(value)


def perplexity_text(value: float) -> str:
    """Two decimals; none from 1,000 on."""
    return fixed(value, 2 if value < 1000 else 0)


def _accuracy_note(run: Run) -> str | None:
    """Why there is no accuracy where there is a perplexity."""
    found = quality_of(run)
    if found is None or found.top1 is not None:
        return None
    return "no accuracy: whether a token was the most probable one was not stored of every document"


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
        summary="exp(sum of NLL / words): as published, else as lm-evaluation-harness splits them.",
        show=perplexity_text,
        shown=_counts_words,
        note=_words_note,
    ),
    _metric(
        "byte_perplexity",
        "byte_perplexity",
        f"byte {BREAK}perplexity",
        summary="exp(sum of NLL / UTF-8 bytes of the source text).",
        show=_four_decimals,
        shown=False,
    ),
    _metric(
        "accuracy",
        "accuracy",
        "accuracy",
        unit="top-1",
        summary="Share of tokens that were the most probable one, by whatever margin.",
        show=lambda value: fixed(value, 4),
        better="higher",
        shown=False,
        narrow=8,
        note=_accuracy_note,
    ),
)
