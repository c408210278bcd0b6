"""A method as plain data, from which any process can make it again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tta_bench.contract.choice import MethodChoice, choose_with
from tta_bench.contract.registry import add_plugin
from tta_bench.contract.source import source_hash
from tta_bench.contract.stack import StackParams
from tta_bench.errors import ChangedError


@dataclass(frozen=True)
class MethodSpec:
    """A method by name, with all of its parameters.

    Attributes:
        name: as it is registered; of a stack the names of its parts, joined by `+`.
        params: every field of its `Params`.
        plugins: Python files that register methods, this one perhaps among them.
        source: `source_hash` of the class where it was chosen; None for whatever is found.
    """

    name: str
    params: dict[str, Any] = field(hash=False)
    plugins: tuple[str, ...] = ()
    source: str | None = None

    @classmethod
    def of(cls, choice: MethodChoice, plugins: tuple[str, ...] = ()) -> MethodSpec:
        """The plain data of a method that was chosen."""
        return cls(choice.name, _fields(choice.params), plugins, source_hash(choice.cls))

    def choice(self) -> MethodChoice:
        """The class and its parameters, checked.

        Raises:
            UsageError: there is no such method or parameter here.
            MethodError: the method or a plugin cannot be imported.
            ChangedError: its source is another one here than where it was chosen.
        """
        for file in self.plugins:
            add_plugin(file)
        choice = choose_with(self.name, self.params)
        if self.source not in (None, source_hash(choice.cls)):
            raise ChangedError(
                f"The source of {self.name} was changed while it was in use: run the command again."
            )
        return choice


def _fields(params: Any) -> dict[str, Any]:
    if isinstance(params, StackParams):
        return {"parts": [{"name": p.name, "params": _fields(p.params)} for p in params.parts]}
    return {f.name: getattr(params, f.name) for f in dataclasses.fields(params) if f.init}
