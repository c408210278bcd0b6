"""A method as plain data, from which any process can make it again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tta_bench.contract.choice import MethodChoice
from tta_bench.contract.registry import add_plugin, load
from tta_bench.contract.spec import build


@dataclass(frozen=True)
class MethodSpec:
    """A method by name, with all of its parameters.

    Attributes:
        name: as it is registered.
        params: every field of its `Params`.
        plugins: Python files that register methods, this one perhaps among them.
    """

    name: str
    params: dict[str, Any] = field(hash=False)
    plugins: tuple[str, ...] = ()

    @classmethod
    def of(cls, choice: MethodChoice, plugins: tuple[str, ...] = ()) -> MethodSpec:
        """The plain data of a method that was chosen."""
        fields = dataclasses.fields(choice.params)
        params = {f.name: getattr(choice.params, f.name) for f in fields if f.init}
        return cls(choice.name, params, plugins)

    def choice(self) -> MethodChoice:
        """The class and its parameters, checked.

        Raises:
            UsageError: there is no such method or parameter here.
            MethodError: the method or a plugin cannot be imported.
        """
        for file in self.plugins:
            add_plugin(file)
        cls = load(self.name)
        return MethodChoice(self.name, cls, build(cls.Params, self.params, self.name))
