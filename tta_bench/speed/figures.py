"""Ratios derived from measured rows; pure functions of what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

BASELINE = "none"


def with_ratios(rows: Sequence[Row], matrix_flops: float | None) -> list[dict[str, Any]]:
    """The rows with their ratios; None where either side is missing.

    `time_x_none` is seconds per token over those of `none` on as many lanes, `flops_x_none` the
    same of FLOPs on any number, `matrix_share` the FLOP/s of the row over the
    rate of dense products.
    """
    return [{**row, **_ratios(row, rows, matrix_flops)} for row in rows]


def _ratios(row: Row, rows: Sequence[Row], matrix_flops: float | None) -> dict[str, float | None]:
    peer = _baseline(rows, row.get("lanes"))
    some = _baseline(rows, None)
    rate, flops = row.get("tokens_per_second"), row.get("flops_per_token")
    reached = None if rate is None or flops is None else rate * flops
    return {
        "time_x_none": _over(peer.get("tokens_per_second"), rate),
        "flops_x_none": _over(flops, some.get("flops_per_token")),
        "flops_per_second": reached,
        "matrix_share": _over(reached, matrix_flops),
    }


def goals(rows: Sequence[Row]) -> dict[str, Any]:
    """The ratios that say how near the bench comes to what is possible.

    Args:
        rows: as `with_ratios` gives them.

    Returns:
        `none_over_forward_compiled`, `none_over_forward_eager`: tokens/s of `none` over those of
        transformers' own forward pass, on the same lanes; `dynamic_eval_adam_over_eager_loop`,
        `..._sgd_...`: tokens/s of dynamic evaluation of all weights, all lanes together, over those
        of the usual loop; `time_minus_flops`: for each method, time x none less FLOPs x none.
    """
    found: dict[str, Any] = {}
    for name, compiled in (("compiled", True), ("eager", False)):
        plain = _first(rows, reference="forward", compiled=compiled)
        own = _baseline(rows, plain.get("lanes")) if plain else {}
        found[f"none_over_forward_{name}"] = _over_rates(own, plain)
    for optimizer in ("adam", "sgd"):
        loop = _first(rows, reference="eager_loop", optimizer=optimizer)
        own = next(
            (
                row
                for row in rows
                if row.get("name") == "dynamic-eval"
                and row["params"].get("optimizer") == optimizer
                and row["params"].get("subset") == "all"
            ),
            {},
        )
        found[f"dynamic_eval_{optimizer}_over_eager_loop"] = _over_rates(own, loop)
    found["time_minus_flops"] = {
        row["method"]: row["time_x_none"] - row["flops_x_none"]
        for row in rows
        if row["kind"] == "method"
        and row["method"] != BASELINE
        and row.get("time_x_none") is not None
        and row.get("flops_x_none") is not None
    }
    return found


def _baseline(rows: Iterable[Row], lanes: int | None) -> Row:
    """The complete row of `none` on so many lanes (None: on any), empty if there is none."""
    complete = {"method": BASELINE, "status": "complete"}
    return _first(rows, **complete, **({} if lanes is None else {"lanes": lanes}))


def _first(rows: Iterable[Row], **wanted: Any) -> Row:
    fitting = (row for row in rows if all(row.get(key) == value for key, value in wanted.items()))
    return next(fitting, {})


def _over_rates(one: Row, other: Row) -> float | None:
    return _over(one.get("tokens_per_second"), other.get("tokens_per_second"))


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other
