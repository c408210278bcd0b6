"""A method as the user named it, with its parameters checked."""

from __future__ import annotations

from typing import Any, NamedTuple

from tta_bench.contract.method import Method
from tta_bench.contract.spec import to_spec


class MethodChoice(NamedTuple):
    """A method as the user named it, checked."""

    name: str
    cls: type[Method]
    params: Any

    @property
    def spec(self) -> str:
        """The shortest spec that names it."""
        return to_spec(self.name, self.params)
