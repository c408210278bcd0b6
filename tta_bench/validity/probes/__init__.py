"""All probes, in the order of the table: those that others need come first."""

from tta_bench.validity.lab import Probe
from tta_bench.validity.probes import causal, costs, given, lanes, scenes, scoring, shapes, switch

_STEADY = ("runs", "deterministic")

FULL = (
    Probe("runs", scoring.runs),
    Probe("deterministic", scoring.deterministic, ("runs",)),
    Probe("as given", given.as_given, _STEADY),
    Probe("normalised", scoring.normalised, ("runs",)),
    Probe("causality", causal.future, _STEADY),
    Probe("targets", causal.targets, _STEADY),
    Probe("wide chunks", scenes.wide_chunks, _STEADY, diverging=True),
    Probe("nothing to learn", scoring.nothing_to_learn, ("runs",), diverging=True),
    Probe("score twice", scoring.twice, _STEADY),
    Probe("untouched", scoring.untouched, ("runs",)),
    Probe("neighbours", lanes.neighbours, _STEADY),
    Probe("reset", lanes.reset, _STEADY),
    Probe("off", switch.off, _STEADY),
    Probe("lanes", lanes.lanes, _STEADY),
    Probe("one-token chunk", shapes.one_token_chunk, ("runs",)),
    Probe("idle lanes", shapes.idle_lanes, _STEADY),
    Probe("mid chunk", shapes.mid_chunk, _STEADY),
    Probe("long document", scenes.long_document, _STEADY, diverging=True),
    Probe("many steps", scenes.many_steps, _STEADY, diverging=True),
    Probe("wide context", scenes.wide_context, _STEADY, diverging=True),
    Probe("built-in model", scenes.built_in, _STEADY, diverging=True),
    Probe("state bytes", costs.declared_state, ("runs",)),
    Probe("figures", costs.figures, ("runs",)),
    Probe("flops", costs.flops, ("runs",)),
    Probe("families", shapes.families, ("runs",)),
)

QUICK = FULL[:13]
"""The probes that `eval` runs for every method: without them no number has a meaning."""
