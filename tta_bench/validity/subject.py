"""The method that is probed, and what `probe_params` makes of its hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tta_bench.contract.choice import MethodChoice, choose
from tta_bench.contract.flat import flat, replaced
from tta_bench.contract.method import Method
from tta_bench.contract.stack import Stack, StackParams

SWITCHES = (
    "lr",
    "learning_rate",
    "step",
    "step_size",
    "eta",
    "weight",
    "mix",
    "mixing",
    "lam",
    "lambda_",
    "strength",
    "scale",
)
"""Hyper-parameters that switch a method off at 0, unless its class names others in `off`."""


def switches(cls: type[Method], params: Any) -> list[dict[str, Any]]:
    """Hyper-parameters, named as in `flat`, each of which should switch a method off.

    They are those that its class declares in `off`, where an empty one says that nothing does;
    otherwise those whose names are known. A stack is off where all of its parts are.
    """
    if isinstance(params, StackParams):
        assert issubclass(cls, Stack)
        together: dict[str, Any] = {}
        for number, (part, own) in enumerate(zip(cls.parts, params.parts, strict=True)):
            found = switches(part, own.params)
            if not found:
                return []
            together |= {f"{number}.{name}": value for name, value in found[-1].items()}
        return [together]
    if cls.off is not None:
        return [dict(cls.off)] if cls.off else []
    known: dict[str, Any] = {name: 0.0 for name in SWITCHES if name in flat(params)}
    return [*({name: value} for name, value in known.items()), *([known] if len(known) > 1 else [])]


@dataclass(frozen=True)
class Subject:
    """A method with its hyper-parameters, of which the probes make fresh instances.

    Attributes:
        name: its name in the report.
        cls: its class.
        given: hyper-parameters as they will be used.
        params: those that it is probed with.
    """

    name: str
    cls: type[Method]
    given: Any
    params: Any

    @classmethod
    def of(cls, name: str, method: type[Method], given: Any) -> Subject:
        """A method with the hyper-parameters of its run, made cheaper as it says itself."""
        return cls(name, method, given, method.probe_params(given))

    @classmethod
    def from_spec(cls, spec: str) -> Subject:
        """The method that `name:key=value,...` names.

        Raises:
            UsageError: an unknown method or parameter.
            MethodError: its module cannot be imported.
        """
        return cls.of(*choose(spec))

    @property
    def spec(self) -> str:
        """The shortest spec of it, as given."""
        return MethodChoice(self.name, self.cls, self.given).spec

    @property
    def changes(self) -> list[Change]:
        """What `probe_params` changed."""
        probed = flat(self.params)
        return [
            Change(name, given, probed[name])
            for name, given in flat(self.given).items()
            if given != probed[name]
        ]

    @property
    def as_near_as_affordable(self) -> Any:
        """As given, save for the numbers that `probe_params` made smaller."""
        smaller = {change.name: change.probed for change in self.changes if change.smaller}
        return replaced(self.given, smaller)


@dataclass(frozen=True)
class Change:
    """One hyper-parameter that the probes use with another value than the run does."""

    name: str
    given: Any
    probed: Any

    @property
    def switch(self) -> bool:
        """Whether it may switch the method off, or a part of a stack."""
        return self.name.rpartition(".")[2] in SWITCHES

    @property
    def smaller(self) -> bool:
        """Whether a number came nearer to 0 and did not reach it: what makes a method cheaper."""
        numbers = all(type(value) in (int, float) for value in (self.given, self.probed))
        return numbers and 0 < self.probed / (self.given or 1) < 1

    def __str__(self) -> str:
        return f"{self.name}={self.probed} in place of {self.given}"
