"""Limits on what is read of a dataset; a run under any of them stands for a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tta_bench.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """How much of a dataset is read.

    Attributes:
        limit: documents, of a sequence those of each dataset; None for all.
        max_tokens: tokens of each document, from its start; None for all.
        min_tokens: shorter documents are left out before `limit` counts.
    """

    limit: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("max_tokens", 1), ("min_tokens", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} must be at least {least}, but is {value}.")


LIMITS = tuple(field.name for field in fields(Limits))


def limits_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The limits in a mapping, such as the dataset of a manifest, that cut anything away."""
    return {name: values[name] for name in LIMITS if values.get(name)}


def limits_as_flags(values: Mapping[str, Any]) -> str | None:
    """The limits that cut anything away, as `--limit 3, --max-tokens 64`; None without any."""
    given = limits_given(values)
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return ", ".join(flags) or None
