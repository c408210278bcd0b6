"""How a method's values were chosen: the section `tuning` of a manifest, and `tuning.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tta_bench.convert import Converter
from tta_bench.errors import BenchError, UsageError
from tta_bench.store.files import read_json, sealed, to_json, write_atomically
from tta_bench.store.jsonable import jsonable, without_private_paths

TUNING = "tuning.json"
"""File of a group of trials: what was chosen from them."""


@dataclass(frozen=True)
class TunedTrial:
    """A method that was tried on the tuning documents.

    Attributes:
        spec: the method's spec.
        values: the value of each parameter that was tuned, as text.
        nll_per_token: summed NLL over tokens of all documents, nats; None where one is not done.
        valid: whether probes and audit passed in every run.
        reason: why the trial cannot be chosen; None if it can.
        documents: documents that are done.
        tokens: tokens scored in them.
        flops: FLOPs of reading them; None if unknown.
        runs: the runs, one for each dataset, as GROUP/RUN.
    """

    spec: str
    values: dict[str, str]
    nll_per_token: float | None
    valid: bool | None
    reason: str | None
    documents: int
    tokens: int
    flops: float | None
    runs: tuple[str, ...]

    @property
    def loss(self) -> float | None:
        """What is compared; None where the trial cannot be chosen."""
        return self.nll_per_token if self.reason is None else None


@dataclass(frozen=True)
class TunedParameter:
    """A parameter that was tuned.

    Attributes:
        name: as in the values of a trial; in a stack with the number of its part.
        label: what people call it.
        values: all that were tried, those of a scale from the lowest to the highest.
        given: those that were asked for, as written; the others lie beyond their ends.
        scale: whether the values are numbers with ends.
        edge: why the best is the lowest or the highest: `bound`, where values went on for as long
            as they may; `allowed`, where the method takes no further one. None if it is neither.
    """

    name: str
    label: str
    values: tuple[str, ...]
    given: tuple[str, ...]
    scale: bool
    edge: Literal["bound", "allowed"] | None = None


@dataclass(frozen=True)
class TuningDocuments:
    """One dataset that was tuned on.

    Attributes:
        dataset: as `--dataset` takes it.
        fingerprint: hash of every text and token id.
        keys: of the documents.
        sha256: of each whole text.
        limit, max_tokens, min_tokens: how much of it was read.
    """

    dataset: str
    fingerprint: str
    keys: tuple[str, ...]
    sha256: tuple[str, ...]
    limit: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0


@dataclass(frozen=True)
class Tuning:
    """How the values of one method on one model were chosen.

    Attributes:
        space: the method's spec with sets.
        method: its name.
        chosen: the spec of the best trial.
        values: its values of the parameters that were tuned, as text.
        parameters: what was tuned.
        trials: all that was tried, in order.
        documents: what on.
        flops: FLOPs of all trials together, as far as they are known.
        model: the name of the model.
        protocol: of the trials, as in a manifest.
        dtype: of the model's weights.
        sampler: what asked for points where the whole grid was too large; None for the grid.
    """

    space: str
    method: str
    chosen: str
    values: dict[str, str]
    parameters: tuple[TunedParameter, ...]
    trials: tuple[TunedTrial, ...]
    documents: tuple[TuningDocuments, ...]
    flops: float | None
    model: str
    protocol: dict[str, Any]
    dtype: str
    sampler: dict[str, Any] | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """The values of a manifest's section: JSON without private paths."""
        found: dict[str, Any] = without_private_paths(jsonable(self))
        return found

    @property
    def best(self) -> TunedTrial | None:
        """The trial that was chosen."""
        return next((trial for trial in self.trials if trial.values == self.values), None)


def tuning_of(manifest: Mapping[str, Any]) -> Tuning | None:
    """How a run's values were chosen; None if they were not tuned, or nobody can read how."""
    section = manifest.get("tuning")
    if not isinstance(section, Mapping):
        return None
    try:
        return Converter("the tuning").make(Tuning, section)
    except UsageError:
        return None


def read_choices(group: Path) -> list[Tuning]:
    """The choices stored in a group of trials; none if it has no such file.

    Raises:
        BenchError: the file is damaged.
    """
    path = group / TUNING
    if not path.exists():
        return []
    stored = read_json(path)[0].get("choices")
    try:
        return [Converter("the tuning").make(Tuning, one) for one in stored or []]
    except (UsageError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is damaged: {error}.") from error


def store_choice(group: Path, tuning: Tuning) -> None:
    """Adds a choice to those of a group, in place of one of the same search.

    Raises:
        BenchError: the file is damaged or cannot be written.
    """

    def search(one: Tuning) -> Sequence[Any]:
        return one.space, one.model, one.dtype, one.protocol, [d.fingerprint for d in one.documents]

    (new,) = _read_back(tuning)
    kept = [one for one in read_choices(group) if search(one) != search(new)]
    choices = [one.to_dict() for one in (*kept, new)]
    write_atomically(group / TUNING, to_json(sealed({"choices": choices}), indent=2))


def _read_back(tuning: Tuning) -> list[Tuning]:
    """The choice as it will be read: with lists of JSON, and without private paths."""
    return [Converter("the tuning").make(Tuning, tuning.to_dict())]


def remove_choices(group: Path) -> None:
    """Deletes the file of choices of a group, if it has one."""
    (group / TUNING).unlink(missing_ok=True)
