"""A search by Optuna, for more parameters than a grid can hold."""

from __future__ import annotations

from tta_bench.extras import require
from tta_bench.tuning.axis import Axis
from tta_bench.tuning.search import Point, Search

MOST_GRID = 3
"""Most sets of one method whose combinations are all measured."""


def require_optuna() -> None:
    """Raises UsageError where Optuna is not installed."""
    require("optuna", extra="tune", what=f"tuning more than {MOST_GRID} parameters at once")


def sample(search: Search, trials: int, seed: int) -> None:
    """Measures the points that Optuna's TPE sampler asks for.

    The same losses lead to the same points: a search that was killed asks for them again. A point
    that cannot be chosen counts as the worst that was seen.

    Args:
        search: what measures.
        trials: points to ask for; some may be the same.
        seed: of the sampler.

    Raises:
        UsageError: Optuna is not installed.
    """
    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        point: Point = tuple(_asked(trial, axis) for axis in search.axes)
        if search.allows(point):
            search.measure([point])
        loss = search.losses.get(point)
        known = [value for value in search.losses.values() if value is not None]
        if loss is None and not known:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, max(known) if loss is None else loss)


def _asked(trial: object, axis: Axis) -> str:
    """The value of an axis that a trial of Optuna asks for; values of a scale have an order."""
    if axis.kind is None:
        return str(trial.suggest_categorical(axis.name, axis.values))  # type: ignore[attr-defined]
    ordered = axis.ordered
    place = trial.suggest_int(axis.name, 0, len(ordered) - 1)  # type: ignore[attr-defined]
    return ordered[int(place)]
