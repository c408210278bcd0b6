"""What the jobs of a plan will read and cost, and what of them is stored: no weights are loaded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tta_bench.cost.flop_report import mean_flops
from tta_bench.engine.loop import MIN_TOKENS
from tta_bench.engine.streams import full_step
from tta_bench.errors import BenchError
from tta_bench.evaluation.group import group_identity
from tta_bench.evaluation.manifest import run_manifest
from tta_bench.evaluation.plan import by_model
from tta_bench.evaluation.setting import Setting, open_settings
from tta_bench.evaluation.shards import shards_left
from tta_bench.evaluation.steps import step_shapes
from tta_bench.model.device import pick_device
from tta_bench.model.shape import load_shape
from tta_bench.store import group_folder, run_folder
from tta_bench.store.environment import describe_device
from tta_bench.store.resume import load_same, rows_to_keep

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.contract.method import Method
    from tta_bench.evaluation.job import Job
    from tta_bench.model.step_shape import StepShape


_Costs = dict["StepShape", "float | None"]
"""FLOPs of a method's step of each shape, by its formula; None where it has none."""


@dataclass(frozen=True)
class Expectation:
    """What a stored measurement of speed says.

    Attributes:
        tokens_per_second: of one device.
        memory_bytes: the peak; None if it is not known.
        chunk: tokens of a step of one lane, as it was measured.
        lanes: documents side by side, as it was measured.
    """

    tokens_per_second: float
    memory_bytes: int | None
    chunk: int
    lanes: int


SpeedOf = Callable[[Mapping[str, Any], int], "Expectation | None"]
"""The expectation for a run, by its manifest and the tokens that a step scores."""


@dataclass(frozen=True)
class Estimate:
    """One job, before it is done.

    Attributes:
        model: as it was named.
        dataset: as it was named.
        method: the method's spec.
        run: the folder that the run is stored in.
        documents: documents of the dataset.
        stored: how many of them are stored and need not be read.
        tokens: tokens that are scored in all of them; documents too short to score have none.
        flops_per_token: FLOPs per scored token, by formula; None if they are not known.
        reason: why they are not known.
        shards: lots that documents which are not stored are handed out in.
        seconds: time on one device for what is not stored; None if no speed is stored.
        memory_bytes: the peak of one device; None likewise.
    """

    model: str
    dataset: str
    method: str
    run: Path
    documents: int
    stored: int
    tokens: int
    flops_per_token: float | None
    reason: str | None
    shards: int = 0
    seconds: float | None = None
    memory_bytes: int | None = None

    @property
    def flops(self) -> float | None:
        """FLOPs of the whole job."""
        return None if self.flops_per_token is None else self.flops_per_token * self.tokens

    def to_dict(self) -> dict[str, Any]:
        """The values of a row, JSON-able."""
        return {**vars(self), "run": self.run.as_posix(), "flops": self.flops}


def estimate(
    jobs: Sequence[Job],
    *,
    name: str | None = None,
    base: str | None = None,
    results: Path,
    speed_of: SpeedOf | None = None,
) -> Iterator[Estimate]:
    """An estimate of each job, in order. Needs configurations and tokenizers, never weights.

    Args:
        jobs: the plan.
        name: name of the group, as for `run_suite`.
        base: likewise.
        results: the folder that the group lies in.
        speed_of: what is known of a run's speed; None: nothing.

    Raises:
        WeightlessError: the code of a model does not run without its weights.
        BenchError: a job cannot be run.
    """
    group: Path | None = None
    for jobs_of_model in by_model(jobs):
        model = load_shape(*jobs_of_model[0].setting.model_key)
        device = describe_device(str(pick_device(jobs_of_model[0].setting.device)), torch)
        costs: defaultdict[str, _Costs] = defaultdict(dict)
        for setting, choices in open_settings(jobs_of_model, model):
            shapes = _all_steps(setting)
            for choice in choices:
                manifest = run_manifest(setting, choice, described=False)
                if group is None:
                    identity = group_identity(jobs, manifest, base)
                    group = group_folder(name, **identity, results=results)
                run = run_folder(group, manifest)
                per_token, reason = _flops(setting, choice, shapes, costs[choice.spec])
                over = _stored(run, manifest)
                step = full_step(setting.protocol, setting.documents.max_tokens_per_document)
                known = speed_of and speed_of(manifest | {"device": device}, step.scored)
                yield Estimate(
                    model=setting.spec.model,
                    dataset=setting.spec.dataset,
                    method=choice.spec,
                    run=run,
                    documents=len(setting.documents),
                    stored=len(over),
                    tokens=_tokens(shapes),
                    flops_per_token=per_token,
                    reason=reason,
                    shards=len(shards_left(setting, over)),
                    seconds=_tokens(_all_steps(setting, over)) / known.tokens_per_second
                    if known
                    else None,
                    memory_bytes=known.memory_bytes if known else None,
                )


def _tokens(shapes: Counter[StepShape]) -> int:
    return sum(shape.scored * times for shape, times in shapes.items())


def _all_steps(setting: Setting, over: Collection[int] = ()) -> Counter[StepShape]:
    """The steps over all documents that are long enough to be scored, but for some."""
    shapes: Counter[StepShape] = Counter()
    lengths = setting.documents.lengths.tolist()
    left = (length for index, length in enumerate(lengths) if index not in over)
    for length, documents in Counter(left).items():
        if length >= MIN_TOKENS:
            for shape in step_shapes(setting, length):
                shapes[shape] += documents
    return shapes


def _stored(run: Path, manifest: dict[str, Any]) -> set[int]:
    """The documents of which there are rows."""
    if not (run / "manifest.json").exists():
        return set()
    return {row.index for row in rows_to_keep(load_same(run, manifest), "missing")[0]}


def _flops(
    setting: Setting, choice: MethodChoice, shapes: Counter[StepShape], known: _Costs
) -> tuple[float | None, str | None]:
    """FLOPs per token by the method's formula; or None, and why there is no figure.

    Args:
        setting: the model's shape, and the documents.
        choice: the method.
        shapes: how often a lane takes a step of each shape.
        known: FLOPs of the method's steps so far, to which those of others are added.
    """
    if not shapes:
        return None, "no document fills one window"
    offline = choice.cls.offline_datasets(choice.params)
    if offline:
        return None, f"it reads {', '.join(offline)} before it starts"
    try:
        if not shapes.keys() <= known.keys():
            method: Method = choice.cls(setting.model, choice.params, 1)
            known.update((shape, method.flops(shape)) for shape in shapes if shape not in known)
        if known[next(iter(shapes))] is None:
            return None, "the method has no formula; eval counts its FLOPs"
        return mean_flops(known.__getitem__, shapes), None
    except BenchError as error:
        return None, str(error)
    except Exception:  # a method is foreign code, and here it finds no values
        return (
            None,
            "it needs the model's weights, which a plan does not load; eval counts its FLOPs",
        )
