"""Which metrics there are: built-in ones, those of installed packages and of plugin files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from tta_bench.errors import MetricError, UsageError
from tta_bench.metrics.answers import ANSWERS
from tta_bench.metrics.cost import COST
from tta_bench.metrics.difference import DIFFERENCE
from tta_bench.metrics.drift import DRIFT
from tta_bench.metrics.longppl import UNSCALED, scaled_down
from tta_bench.metrics.metric import Metric
from tta_bench.metrics.oracle import ORACLE
from tta_bench.metrics.quality import QUALITY
from tta_bench.plugin_file import import_file, plugin_name

ENTRY_POINT_GROUP = "tta_bench.metrics"
BUILT_IN = (*QUALITY, *UNSCALED, *DIFFERENCE, *ORACLE, *ANSWERS, *DRIFT, *COST)

_registered: dict[str, Metric] = {}
_plugins: dict[Path, list[str]] = {}


def register_metric(metric: Metric) -> Metric:
    """Makes a metric available to `show`, `compare`, `report` and `export`; returns it.

    Raises:
        MetricError: another metric has this name.
    """
    _add(_registered, metric, "a plugin")
    return metric


def available(asked: Iterable[str] = ()) -> dict[str, Metric]:
    """Every metric by name: the built-in ones in the order of the columns, then all others.

    Args:
        asked: names of metrics that are wanted. Those that are scaled down (`longppl-512`) are
            without number, and so only there when they are asked for.

    Raises:
        MetricError: two metrics have one name, or an installed one cannot be imported.
        UsageError: no metric can be scaled down to a number that is asked for.
    """
    found = {metric.name: metric for metric in BUILT_IN}
    for name in asked:
        found |= {metric.name: metric for metric in scaled_down(name)}
    for metric in _installed():
        _add(found, metric, "an installed package")
    for metric in _registered.values():
        _add(found, metric, "a plugin")
    return found


def named(names: Iterable[str]) -> list[Metric]:
    """The metrics of these names.

    Raises:
        UsageError: no metric has such a name; the message names the closest.
    """
    names = list(names)
    known = available(names)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "see `tta-bench list metrics`."
            raise UsageError(f"there is no metric '{name}'; {hint}")
    return [known[name] for name in names]


def add_plugin(path: str | Path) -> list[str]:
    """Runs a Python file that registers metrics, unless it has run; returns their names.

    Raises:
        UsageError: there is no such file.
        MetricError: the file cannot be imported, or registers no metric.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise UsageError(f"there is no plugin file {path}.")
    if file not in _plugins:
        before = set(_registered)
        try:
            import_file(plugin_name(file), file)
        except MetricError:
            raise
        except Exception as error:
            raise MetricError(
                f"{path} cannot be imported: {type(error).__name__}: {error}."
            ) from error
        _plugins[file] = [name for name in _registered if name not in before]
    if not _plugins[file]:
        raise MetricError(f"{path} registers no metric; call register_metric(Metric(...)) in it.")
    return _plugins[file]


def _add(known: dict[str, Metric], metric: Metric, origin: str) -> None:
    if not isinstance(metric, Metric):
        raise MetricError(f"{origin} names {metric!r} as a metric, which is no tta_bench.Metric.")
    other = known.setdefault(metric.name, metric)
    if other is not metric:
        raise MetricError(
            f"the metric '{metric.name}' of {origin} has the name of another; rename it."
        )


@lru_cache(maxsize=1)
def _installed() -> tuple[Metric, ...]:
    found = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            found.append(entry.load())
        except Exception as error:
            raise MetricError(
                f"the installed metric '{entry.name}' ({entry.value}) cannot be imported: "
                f"{type(error).__name__}: {error}."
            ) from error
    return tuple(found)
