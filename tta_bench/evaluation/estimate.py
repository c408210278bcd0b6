"""What the jobs of a plan will read and cost, and what of them is stored: no weights are loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.cost.flop_report import mean_flops
from tta_bench.engine.loop import MIN_TOKENS
from tta_bench.errors import BenchError
from tta_bench.evaluation.group import group_identity
from tta_bench.evaluation.manifest import run_manifest
from tta_bench.evaluation.plan import by_model
from tta_bench.evaluation.setting import Setting, open_settings
from tta_bench.evaluation.steps import step_shapes
from tta_bench.model.shape import load_shape
from tta_bench.store import group_folder, run_folder
from tta_bench.store.resume import load_same, rows_to_keep

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.contract.method import Method
    from tta_bench.evaluation.job import Job
    from tta_bench.model.step_shape import StepShape


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

    @property
    def flops(self) -> float | None:
        """FLOPs of the whole job."""
        return None if self.flops_per_token is None else self.flops_per_token * self.tokens

    def to_dict(self) -> dict[str, Any]:
        """The values of a row, JSON-able."""
        return {**vars(self), "run": self.run.as_posix(), "flops": self.flops}


def estimate(
    jobs: Sequence[Job], *, name: str | None = None, base: str | None = None, results: Path
) -> Iterator[Estimate]:
    """An estimate of each job, in order. Needs configurations and tokenizers, never weights.

    Args:
        jobs: the plan.
        name: name of the group, as for `run_suite`.
        base: likewise.
        results: the folder that the group lies in.

    Raises:
        WeightlessError: the code of a model does not run without its weights.
        BenchError: a job cannot be run.
    """
    group: Path | None = None
    for jobs_of_model in by_model(jobs):
        model = load_shape(*jobs_of_model[0].setting.model_key)
        for setting, choices in open_settings(jobs_of_model, model):
            shapes = _all_steps(setting)
            for choice in choices:
                manifest = run_manifest(setting, choice)
                if group is None:
                    identity = group_identity(jobs, manifest, base)
                    group = group_folder(name, **identity, results=results)
                run = run_folder(group, manifest)
                per_token, reason = _flops(setting, choice, shapes)
                yield Estimate(
                    model=setting.spec.model,
                    dataset=setting.spec.dataset,
                    method=choice.spec,
                    run=run,
                    documents=len(setting.documents),
                    stored=_stored(run, manifest),
                    tokens=sum(shape.scored * times for shape, times in shapes.items()),
                    flops_per_token=per_token,
                    reason=reason,
                )


def _all_steps(setting: Setting) -> Counter[StepShape]:
    """The steps over all documents that are long enough to be scored."""
    shapes: Counter[StepShape] = Counter()
    for length, documents in Counter(setting.documents.lengths.tolist()).items():
        if length >= MIN_TOKENS:
            for shape in step_shapes(setting, length):
                shapes[shape] += documents
    return shapes


def _stored(run: Path, manifest: dict[str, Any]) -> int:
    if not (run / "manifest.json").exists():
        return 0
    return len(rows_to_keep(load_same(run, manifest), "missing")[0])


def _flops(
    setting: Setting, choice: MethodChoice, shapes: Counter[StepShape]
) -> tuple[float | None, str | None]:
    """FLOPs per token by the method's formula; or None, and why there is no figure."""
    if not shapes:
        return None, "no document fills one window"
    offline = choice.cls.offline_datasets(choice.params)
    if offline:
        return None, f"it reads {', '.join(offline)} before it starts"
    try:
        method: Method = choice.cls(setting.model, choice.params, 1)
        if method.flops(next(iter(shapes))) is None:
            return None, "the method has no formula; eval counts its FLOPs"
        return mean_flops(method.flops, shapes), None
    except BenchError as error:
        return None, str(error)
    except Exception as error:  # a method is foreign code, and here it finds no values
        problem = str(error).split("\n")[0].rstrip(".")
        return None, f"it needs the model's weights ({type(error).__name__}: {problem})"
