"""Colours and markers: one of each for a method, the same in every figure of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tta_bench.tables.settings import baseline_of

if TYPE_CHECKING:
    from tta_bench.store import Run

# Told apart by people with any kind of colour vision (after Okabe and Ito), and readable on white;
# the baseline comes first and is grey.
LIGHT = ("#5f6368", "#0072b2", "#d55e00", "#00805c", "#b4498d", "#a67c00", "#2e9bd6", "#7a4b2a")
# The same hues, light enough for a dark ground.
DARK = ("#a8adb4", "#5ab4f0", "#ff8a4c", "#3ecf9e", "#e58cc4", "#f0c24b", "#9ad8ff", "#d3a27f")

# Text on paper, and what stands back behind it.
INK, MUTED = "#1d2126", "#5d646d"

# Markers in the words of plotly, and their names in matplotlib. Their number has no divisor in
# common with that of the colours, so that many more methods than colours still differ.
SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "pentagon": "p",
    "star": "*",
    "cross": "P",
    "hexagon": "h",
}


def symbol(slot: int) -> str:
    """The marker of a slot, in plotly's words."""
    return list(SYMBOLS)[slot % len(SYMBOLS)]


def tag_above(slot: int) -> bool:
    """Whether a point's tag stands above it: neighbours in the palette take turns."""
    return slot % 2 == 1


def slots(runs: Sequence[Run], baseline: str) -> dict[str, int]:
    """The place in the palette of each method's spec: the baseline's is 0, then as they come."""
    chosen = baseline_of(runs, baseline)
    first = [] if chosen is None else [chosen.spec]
    specs = dict.fromkeys([*first, *(run.spec for run in runs)])
    return {spec: place + (not first) for place, spec in enumerate(specs)}
