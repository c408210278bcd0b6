"""Metrics of what a run cost, as its summary records them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from tta_bench.format import BREAK, binary, count, duration, fixed, si
from tta_bench.metrics.metric import Metric

if TYPE_CHECKING:
    from tta_bench.store import Run

_gib = partial(binary, power=30)
_mib = partial(binary, power=20)


def _flops(row: Mapping[str, Any]) -> str:
    text = si(row["flops_per_token"])
    ratio = row.get("flops_x_none")  # a slice of a run has no costs
    return text if ratio is None else f"{text} {BREAK}×{fixed(ratio, 2)}"


def _flops_ratio(run: Run, baseline: Run | None) -> float | None:
    mine = run.cost("flops_per_token")
    theirs = None if baseline is None else baseline.cost("flops_per_token")
    return mine / theirs if mine is not None and theirs else None


def _on_gpu(run: Run) -> bool:
    return (run.device or "").startswith("cuda")


def _on_cpu(run: Run) -> bool:
    return not _on_gpu(run)


def _cost(
    name: str,
    title: str,
    unit: str = "",
    *,
    summary: str,
    show: Callable[[float], str],
    better: Literal["lower", "higher"] = "lower",
    **fields: Any,
) -> Metric:
    """A metric that the run's summary holds under the same name."""
    return Metric(
        name,
        lambda run, baseline: run.cost(name),
        title,
        unit,
        summary,
        show,
        better=better,
        bold=False,
        **{"shown": False, **fields},
    )


COST = (
    _cost(
        "flops_per_token",
        f"FLOPs/{BREAK}token",
        summary="FLOPs per scored token by formula, with the ratio to those of `none`.",
        show=si,
        cell=_flops,
        shown=True,
        narrow=8,
    ),
    _cost(
        "flops_per_token_counted",
        f"FLOPs/{BREAK}token {BREAK}counted",
        summary="FLOPs per scored token by PyTorch's counter.",
        show=si,
    ),
    Metric(
        "flops_x_none",
        _flops_ratio,
        f"FLOPs {BREAK}× none",
        summary="FLOPs per token divided by those of `none`.",
        show=partial(fixed, decimals=2),
        better="lower",
        bold=False,
        shown=False,
        against="none",
    ),
    _cost(
        "tokens_per_second",
        f"tokens{BREAK}/s",
        summary="Scored tokens per second of evaluation.",
        show=count,
        better="higher",
        shown=True,
        narrow=6,
    ),
    _cost(
        "step_seconds_median",
        f"step {BREAK}median",
        "ms",
        summary="Median time of a step.",
        show=lambda value: fixed(1e3 * value, 1),
    ),
    _cost(
        "step_seconds_p90",
        f"step {BREAK}p90",
        "ms",
        summary="90th percentile of the time of a step.",
        show=lambda value: fixed(1e3 * value, 1),
    ),
    _cost(
        "step_tokens_median",
        f"step {BREAK}tokens",
        summary="Median number of tokens scored in a step.",
        show=count,
    ),
    _cost(
        "peak_allocated_bytes",
        f"peak {BREAK}memory",
        f"GiB {BREAK}allocated",
        summary="Peak memory of tensors in PyTorch's GPU allocator.",
        show=_gib,
        shown=_on_gpu,
        narrow=9,
    ),
    _cost(
        "peak_reserved_bytes",
        f"peak {BREAK}memory",
        f"GiB {BREAK}reserved",
        summary="Peak memory that PyTorch's GPU allocator held.",
        show=_gib,
        narrow=9,
    ),
    _cost(
        "peak_process_bytes",
        f"peak {BREAK}memory",
        f"GiB {BREAK}process",
        summary="Peak memory of the process.",
        show=_gib,
        shown=_on_cpu,
        narrow=9,
    ),
    _cost(
        "state_bytes_per_lane",
        f"state/{BREAK}lane",
        "MiB",
        summary="Memory of a method's adaptation state, per lane.",
        show=_mib,
        shown=True,
        narrow=6,
    ),
    _cost(
        "offline_seconds",
        f"offline {BREAK}training",
        summary="Time that training slow weights took, once.",
        show=duration,
    ),
    _cost(
        "offline_flops",
        f"offline {BREAK}FLOPs",
        summary="FLOPs that training slow weights took, once.",
        show=si,
    ),
    _cost("seconds", "time", summary="Time of the whole evaluation.", show=duration),
)
