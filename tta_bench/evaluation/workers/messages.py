"""What driver and workers tell each other: plain data, small, one document at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tta_bench.auditing.finding import Finding
    from tta_bench.evaluation.job import Job, SettingSpec
    from tta_bench.evaluation.part import Broken, PartEnd
    from tta_bench.model.findings import Acceptance
    from tta_bench.model.step_shape import StepShape


@dataclass(frozen=True)
class Where:
    """The run that a task is of.

    Attributes:
        number: of the run, in this driver.
        job: the run as a job.
        identity: what identifies the model that must be found by its name.
        fingerprint: of the documents that must be found.
        folder: the run's, which a worker reads to audit it.
        artifacts: the hashes of the files that the method loads.
        lanes: of each shard.
        debug: let exceptions of the method through.
    """

    number: int
    job: Job
    identity: dict[str, Any]
    fingerprint: str
    folder: Path
    artifacts: dict[str, Any]
    lanes: int
    debug: bool


@dataclass(frozen=True)
class Load:
    """Load the model of this setting and say what it is."""

    setting: SettingSpec
    debug: bool


@dataclass(frozen=True)
class Read:
    """Read these documents."""

    where: Where
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Leave:
    """Say what reading has cost, and whether the model is as it was; others go on with the run."""

    where: Where


@dataclass(frozen=True)
class End:
    """The same, for the last in a run: also audit and judge it. The others are `Part.end`'s."""

    where: Where
    shapes: Counter[StepShape]
    spoiled: Finding | None
    broken: bool


Task = Load | Read | Leave | End


@dataclass(frozen=True)
class Hello:
    """A worker is there.

    Attributes:
        device: as a manifest has it; so are `platform` and `software`.
        card: the UUID of its GPU; None on a CPU.
    """

    device: dict[str, Any]
    platform: dict[str, Any]
    software: dict[str, Any]
    card: str | None = None


@dataclass(frozen=True)
class Loaded:
    """The model is there.

    Attributes:
        description: as a manifest has it.
        acceptance: what was found by trial.
    """

    description: dict[str, Any]
    acceptance: Acceptance


@dataclass(frozen=True)
class Began:
    """The method is set up; from now on documents are read."""


@dataclass(frozen=True)
class Ended:
    """A document has ended."""

    index: int
    status: str
    reason: str | None
    nll: NDArray[np.float32] | None
    top1: NDArray[np.bool_] | None
    seconds: float
    figures: Mapping[str, float]
    probe_nll: float | None = None


@dataclass(frozen=True)
class Scored:
    """Tokens were scored."""

    tokens: int
    nll: float


@dataclass(frozen=True)
class Said:
    """A sentence for the user; a remark may be missed."""

    sentence: str
    remark: bool = False


@dataclass(frozen=True)
class Done:
    """The task is done; of `Leave` and `End` with what it gave."""

    broken: Broken | None = None
    end: PartEnd | None = None


@dataclass(frozen=True)
class Failed:
    """What ends everything: the name of an error of the bench, or of another, and what it says."""

    kind: str
    sentence: str
