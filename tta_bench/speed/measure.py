"""All rows of one measurement, in one process on one device: references first, then methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from tta_bench.speed.figures import BASELINE
from tta_bench.speed.method import run_method
from tta_bench.speed.plan import SpeedPlan
from tta_bench.speed.reference import OPTIMIZERS, eager_loop, forward
from tta_bench.speed.row import Task, measured_row
from tta_bench.store.jsonable import jsonable

if TYPE_CHECKING:
    from tta_bench.contract.choice import MethodChoice
    from tta_bench.model.language_model import LanguageModel

OnProfile = Callable[[str, str], None]
"""Takes a method's spec and the text of its profile."""


def measure(
    model: LanguageModel,
    plan: SpeedPlan,
    choices: Iterable[MethodChoice],
    say: Callable[[str], None],
    on_profile: OnProfile | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields each row as it is measured.

    Rows that fit on fewer lanes than asked for are followed, at the end, by a row of `none` on as
    many, so that every ratio of times is of the same number of lanes.

    Args:
        say: told what begins and how it ended.
        on_profile: None: nothing is profiled.
    """
    choices = list(choices)
    tasks = [*_references(model, plan), *_methods(model, plan, choices, on_profile)]
    rows = []
    for number, task in enumerate(tasks, 1):
        say(f"[{number}/{len(tasks)}] {task.label}")
        rows.append(measured_row(task, plan.chunk))
        say(_outcome(rows[-1]))
        yield rows[-1]
    baseline = next((choice for choice in choices if choice.spec == BASELINE), None)
    if baseline is None:
        return
    for lanes in _lanes_without_baseline(rows):
        say(f"{BASELINE} on {lanes} lanes, to compare with")
        row = measured_row(_method(model, plan, baseline, lanes), plan.chunk)
        say(_outcome(row))
        yield row


def _references(model: LanguageModel, plan: SpeedPlan) -> list[Task]:
    compiles = model.device.type == "cuda" and not model.fixed  # for a CPU it is slow
    kinds = [False, True] if compiles else [False]
    tasks = [
        Task(
            label=f"transformers forward, {'compiled' if compiled else 'eager'}",
            kind="reference",
            about={"reference": "forward", "compiled": compiled},
            measure=partial(forward, model, plan, compiled=compiled),
            lanes=plan.lanes,
        )
        for compiled in kinds
    ]
    if model.fixed:
        return tasks  # its weights are none that a loop could change
    for optimizer in OPTIMIZERS:

        def loop(lanes: int, optimizer: str = optimizer) -> Any:
            return eager_loop(model, plan, optimizer)

        about = {"reference": "eager_loop", "optimizer": optimizer}
        tasks.append(Task(f"eager loop, one document, {optimizer}", "reference", about, loop, 1))
    return tasks


def _methods(
    model: LanguageModel,
    plan: SpeedPlan,
    choices: Iterable[MethodChoice],
    on_profile: OnProfile | None,
) -> list[Task]:
    return [
        _method(
            model,
            plan,
            choice,
            plan.lanes,
            None if on_profile is None else partial(on_profile, choice.spec),
        )
        for choice in choices
    ]


def _method(
    model: LanguageModel,
    plan: SpeedPlan,
    choice: MethodChoice,
    lanes: int,
    on_profile: Callable[[str], None] | None = None,
) -> Task:
    def run(lanes: int) -> Any:
        return run_method(model, choice, plan, lanes, on_profile)

    params = jsonable(dataclasses.asdict(choice.params))
    about = {"method": choice.spec, "name": choice.name, "params": params}
    return Task(choice.spec, "method", about, run, lanes)


def _lanes_without_baseline(rows: Iterable[dict[str, Any]]) -> list[int]:
    """The numbers of lanes that some complete row has and no row of `none`; loops do not count."""
    done = [row for row in rows if row["status"] == "complete"]
    wanted = {row["lanes"] for row in done if row.get("reference") != "eager_loop"}
    there = {row["lanes"] for row in done if row.get("method") == BASELINE}
    return sorted(wanted - there, reverse=True)


def _outcome(row: dict[str, Any]) -> str:
    if row["status"] != "complete":
        return f"  {row['status']}: {row['reason']}"
    on = "" if row["lanes"] == row["lanes_asked"] else f", on {row['lanes']} lanes"
    return (
        f"  {1e3 * row['step_seconds_median']:,.1f} ms a step, "
        f"{row['tokens_per_second']:,.0f} tokens/s, warm-up {row['warm_up_seconds']:.1f} s{on}"
    )
