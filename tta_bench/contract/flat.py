"""Hyper-parameters of a method or of a stack by name, and copies with some of them changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tta_bench.contract.stack import PartParams, StackParams


def flat(params: Any) -> dict[str, Any]:
    """The hyper-parameters by name; in a stack `PART.NAME`, with parts numbered from 0."""
    if isinstance(params, StackParams):
        return {
            f"{number}.{name}": value
            for number, part in enumerate(params.parts)
            for name, value in flat(part.params).items()
        }
    return {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}


def replaced(params: Any, values: Mapping[str, Any]) -> Any:
    """The hyper-parameters with some of them changed, named as in `flat`.

    Raises:
        ValueError: a method refuses a value.
    """
    if not isinstance(params, StackParams):
        return dataclasses.replace(params, **values)
    parts = []
    for number, part in enumerate(params.parts):
        prefix = f"{number}."
        own = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        parts.append(PartParams(part.name, dataclasses.replace(part.params, **own)))
    return StackParams(tuple(parts))
