"""The method that is probed, and what `probe_params` makes of its hyper-parameters."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tta_bench.contract.method import Method
from tta_bench.contract.registry import load
from tta_bench.contract.spec import build, split_spec, to_spec

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
        name, values = split_spec(spec)
        method = load(name)
        return cls.of(name, method, build(method.Params, values, name))

    @property
    def spec(self) -> str:
        """The shortest spec of it, as given."""
        return to_spec(self.name, self.given)

    @property
    def changes(self) -> list[Change]:
        """What `probe_params` changed."""
        return [
            Change(field.name, given, probed)
            for field in dataclasses.fields(self.given)
            if (given := getattr(self.given, field.name))
            != (probed := getattr(self.params, field.name))
        ]

    @property
    def as_near_as_affordable(self) -> Any:
        """As given, save for the numbers that `probe_params` made smaller."""
        smaller = {change.name: change.probed for change in self.changes if change.smaller}
        return dataclasses.replace(self.given, **smaller)


@dataclass(frozen=True)
class Change:
    """One hyper-parameter that the probes use with another value than the run does."""

    name: str
    given: Any
    probed: Any

    @property
    def smaller(self) -> bool:
        """Whether a number came nearer to 0 and did not reach it: what makes a method cheaper."""
        numbers = all(type(value) in (int, float) for value in (self.given, self.probed))
        return numbers and 0 < self.probed / (self.given or 1) < 1

    def __str__(self) -> str:
        return f"{self.name}={self.probed} in place of {self.given}"
