"""LongPPL (Fang et al. 2024, arXiv 2410.23771): perplexity over key tokens alone.

Key tokens are stored beside the runs (`tta_bench.store.key_tokens`): the same for every row, by a
frozen evaluator, never by the method. Over a corpus the loss is averaged over all key tokens.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from tta_bench.errors import BenchError
from tta_bench.format import BREAK, count, duration, plural, si
from tta_bench.metrics.metric import Metric
from tta_bench.metrics.quality import perplexity_text
from tta_bench.statistics.key_tokens import KeyRule, is_key, rule_named
from tta_bench.statistics.quality import exp
from tta_bench.store.key_tokens import LONGPPL, KeyTokens, key_tokens_of

if TYPE_CHECKING:
    from tta_bench.store import Run

KEY_TOKENS = "key_tokens"


@dataclass(frozen=True)
class Key:
    """The key tokens of a run's documents, and what the run lost on them.

    Attributes:
        stored: where they come from.
        documents: documents that are done.
        with_key: those of them that have key tokens.
        tokens: number of key tokens.
        nll: their summed loss, nats.
    """

    stored: KeyTokens
    documents: int
    with_key: int
    tokens: int
    nll: float


def key_of(run: Run, name: str) -> Key:
    """The key tokens of a run by the rule of that name.

    Raises:
        BenchError: they are not stored for every document, or the losses of single tokens are not.
    """
    stored = key_tokens_of(run, name)
    if stored is None:
        raise BenchError(_unmade(run, name))
    return _key(run, name, stored)


@lru_cache(maxsize=256)
def _key(run: Run, name: str, stored: KeyTokens) -> Key:
    done = [row for row in run.rows if row.status == "done"]
    lacking = sum(row.index not in stored.documents for row in done)
    if lacking:
        raise BenchError(
            f"the key tokens of {lacking:,} of {plural(len(done), 'document')} are not there; "
            f"{_command(run, name)} makes them."
        )
    sums, tokens, with_key = [], 0, 0
    for row in done:
        document = stored.documents[row.index]
        if not document.key:
            continue
        try:
            mask = is_key(row.tokens, document.tokens, document.key)
        except ValueError as error:
            raise BenchError(f"the losses of {row.key} have no known place: {error}") from error
        losses = run.nll(row)[mask]
        sums += losses.tolist()
        tokens += len(losses)
        with_key += 1
    return Key(stored, len(done), with_key, tokens, math.fsum(sums))


def _longppl(name: str, run: Run, baseline: Run | None) -> float | None:
    """None where the baseline's key tokens are others: the two would not stand in line."""
    try:
        key = key_of(run, name)
        other = None if baseline is None else key_tokens_of(baseline, name)
    except BenchError:
        return None  # the note says it
    if not key.tokens or (other is not None and other.identity != key.stored.identity):
        return None
    return exp(key.nll / key.tokens)


def _tokens(name: str, run: Run, baseline: Run | None) -> int | None:
    try:
        return key_of(run, name).tokens
    except BenchError:
        return None


def _note(name: str, run: Run) -> str:
    try:
        key = key_of(run, name)
    except BenchError as error:
        return f"{name}: {error}"
    return sentence(key.stored, key.tokens, key.with_key, key.documents)


def sentence(stored: KeyTokens, tokens: int, with_key: int, documents: int) -> str:
    """How many key tokens there are, who found them, and what that cost, which no row counts.

    Args:
        stored: where they come from.
        tokens: number of key tokens.
        with_key: documents that have some.
        documents: documents in all.
    """
    all_read = stored.documents.values()
    return (
        f"{stored.header['metric']}: {plural(tokens, 'key token')} in {with_key:,} of "
        f"{plural(documents, 'document')} ({documents - with_key:,} without any), found by "
        f"{stored.evaluator} in {stored.header['dtype']}, which read "
        f"{plural(sum(document.read for document in all_read), 'token')} once "
        f"({si(sum(document.flops for document in all_read))}FLOPs, "
        f"{duration(sum(document.seconds for document in all_read))}), not counted in rows"
    )


def _lacks(name: str, run: Run) -> str | None:
    return _unmade(run, name) if key_tokens_of(run, name) is None else None


def _unmade(run: Run, name: str) -> str:
    return f"the key tokens of {name} are not there; {_command(run, name)} makes them."


def _command(run: Run, name: str) -> str:
    group = shlex.quote(str(run.path.parent))
    return f"`tta-bench key-tokens {group} --metric {name}`"


@lru_cache(maxsize=32)
def _metrics(rule: KeyRule) -> tuple[Metric, Metric]:
    name = rule.name
    counted = name.replace(LONGPPL, KEY_TOKENS)
    lacks = partial(_lacks, name)
    scaled = f"; {LONGPPL}-N: more than N" if rule == KeyRule() else ""
    return (
        Metric(
            name,
            partial(_longppl, name),
            name,
            summary=f"LongPPL: perplexity over key tokens, those that need more than "
            f"{rule.trunc_len:,} tokens of context{scaled}.",
            show=perplexity_text,
            better="lower",
            shown=False,
            note=partial(_note, name),
            lacks=lacks,
        ),
        Metric(
            counted,
            partial(_tokens, name),
            counted.replace("_", f" {BREAK}"),
            summary=f"Number of key tokens of {name}.",
            show=count,
            shown=False,
            lacks=lacks,
        ),
    )


UNSCALED = _metrics(KeyRule())


def rule_of(name: str) -> KeyRule | None:
    """The rule whose key tokens a metric is computed of, by the metric's name; None without one.

    Raises:
        UsageError: no rule has the number in the name.
    """
    return rule_named(name.replace(KEY_TOKENS, LONGPPL))


def scaled_down(name: str) -> tuple[Metric, ...]:
    """The metrics of a shorter context, `longppl-512` and `key_tokens-512`, by the name of one.

    Empty where no such metric is meant, nor one of a shorter context.

    Raises:
        UsageError: no rule has that number.
    """
    rule = rule_of(name) if "-" in name else None
    return () if rule is None else _metrics(rule)
