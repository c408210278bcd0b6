"""A list in a row that is made only where somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Later:
    """A list of values that most tables never show, such as a row for each of many documents."""

    def __init__(self, make: Callable[[Any], Any], items: Sequence[Any]):
        self._make, self._items = make, items

    def made(self) -> list[Any]:
        """The list."""
        return [self._make(item) for item in self._items]


def all_made(row: dict[str, Any]) -> dict[str, Any]:
    """The row with every such list made."""
    return {name: v.made() if isinstance(v, Later) else v for name, v in row.items()}
