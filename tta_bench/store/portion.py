"""Portions: one run made by several commands that share nothing, each of its own documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tta_bench.errors import UsageError
from tta_bench.store.manifest import section

SHARD = "shard"
"""The section of a manifest that stamps a run as a portion; the whole run has none."""


@dataclass(frozen=True)
class Portion:
    """Which portion of how many.

    Attributes:
        number: from 1.
        of: all of them.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Portion:
        """The portion that `--shard` names.

        Raises:
            UsageError: it is not K/N with K from 1 to N.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(
                f"--shard is K/N, the K-th of N portions, such as 1/16 to 16/16, not '{text[:40]}'."
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def suffix(self) -> str:
        """What the name of its group ends with: each portion lies in a group of its own."""
        return f"-{self.number}-of-{self.of}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def is_stamp(value: Any) -> bool:
    """Whether a section of a manifest is a stamp, or is not there."""
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("cut"), str):
        return False
    number, sizes = value.get("number"), value.get("documents")
    if not isinstance(number, int) or not isinstance(sizes, list):
        return False
    return 1 <= number <= len(sizes) and all(isinstance(size, int) for size in sizes)


def portion_of(manifest: Mapping[str, Any]) -> Portion | None:
    """The portion that a run is; None for a run of all documents."""
    found = section(manifest, SHARD)
    return Portion(found["number"], len(found["documents"])) if found else None


def documents_of(manifest: Mapping[str, Any]) -> Any:
    """How many documents the run has when it is whole: of a portion its own."""
    portion = portion_of(manifest)
    if portion is None:
        return manifest["dataset"].get("documents")
    return section(manifest, SHARD)["documents"][portion.number - 1]
