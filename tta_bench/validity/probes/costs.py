"""A method costs what it declares."""

from __future__ import annotations

from tta_bench.contract.method import Method
from tta_bench.cost.counter import count_flops
from tta_bench.cost.flop_report import TOLERANCE
from tta_bench.engine.flop_check import check_flops
from tta_bench.engine.protocol import Protocol
from tta_bench.engine.step import synthetic_steps
from tta_bench.model.step_shape import StepShape
from tta_bench.validity.figures import declared_costs
from tta_bench.validity.holdings import held_bytes
from tta_bench.validity.lab import Found, Lab
from tta_bench.validity.models import document
from tta_bench.validity.reader import CHUNK, Reader
from tta_bench.validity.tensors import bytes_elsewhere, state_bytes

SHAPES = ((StepShape(16, 16, 0), 16), (StepShape(24, 16, 0), 4), (StepShape(16, 16, 12), 4))
"""Without context, with context read again, and with carried keys; and how many steps of each: a
method may do more in every eighth."""

_MOST = 1.5
"""The most that work may exceed the figure that stands for it."""

_ONE_OFF = StepShape(1024, 1024, 0)
"""Setting up a method for nothing may take what a wide step takes."""

_SLACK_BYTES = 2**10
"""Bytes of small objects that no one declares."""

_WIDE = Protocol(chunk=64)


def figures(lab: Lab) -> Found:
    """Looks for figures that no cost can be, and for work that no figure holds."""
    method = lab.fresh()
    wrong = declared_costs(method, SHAPES[0][0])
    if wrong is not None:
        return "fail", None, "—", f"{wrong}."
    Reader(method).read([document(2 * CHUNK, 64)])
    set_up, reset = count_flops(lab.fresh).flops, count_flops(lambda: method.reset(0)).flops
    step, wide = (_formula(method, shape) for shape in (SHAPES[0][0], _ONE_OFF))
    figure = f"{set_up + reset:.3g} FLOPs"
    if set_up > _MOST * (method.offline_flops + wide):
        said = method.offline_flops
        sentence = f"Setting up takes {set_up:.4g} FLOPs; offline_flops says {said:.4g}."
        return "fail", set_up, figure, sentence
    if reset > 0.5 * step:
        sentence = f"A reset takes {reset:.4g} FLOPs, which no figure holds."
        return "fail", reset, figure, sentence
    return "pass", set_up + reset, figure, "Its figures can be; set-up and reset hide no work."


def _formula(method: Method, shape: StepShape) -> float:
    return method.flops(shape) or method.cost.forward(shape)


def flops(lab: Lab) -> Found:
    """Compares the formula with PyTorch's counter, over many steps."""
    worst, sentence = 0.0, ""
    for shape, steps in SHAPES:
        report = check_flops(lab.fresh(), shape, lab.subject.name, steps)
        if report.uncounted_because:
            sentence = f"PyTorch's counter could not run: {report.uncounted_because}."
            return "skip", None, "—", sentence
        if report.analytic is None:
            return _without_formula(lab)
        off = 1.0 if report.ratio is None else abs(report.ratio - 1)
        if report.agrees is not True or off > worst:
            worst = max(worst, off)
            said, seen = report.analytic, report.seen or 0.0
            sentence = f"flops() says {said:.4g} for {tuple(shape)}, counted {seen:.4g}."
        if report.agrees is not True:
            break
    figure = f"{100 * worst:.2f} % off"
    if worst > TOLERANCE:
        return "fail", worst, figure, sentence
    return "pass", worst, figure, "flops() agrees with PyTorch's counter in three shapes."


def _without_formula(lab: Lab) -> Found:
    """Whether the first step, which stands for all, costs what later ones do."""
    shape, steps = SHAPES[0]
    take = synthetic_steps(lab.fresh(), shape)
    counted = [count_flops(take).flops for _ in range(steps)]
    mean = sum(counted) / steps
    if mean > _MOST * counted[0]:
        figure = f"{mean / max(counted[0], 1.0):.2g} x the first step"
        sentence = (
            f"flops() gives no formula, and steps differ: {counted[0]:.4g} FLOPs in the first of "
            f"{steps}, {mean:.4g} on average."
        )
        return "fail", mean, figure, sentence
    return "skip", None, "—", "flops() gives no formula; the counted figure is reported."


def declared_state(lab: Lab) -> Found:
    """Adds up the state before, between and after documents, and looks for state elsewhere."""
    one, three = lab.fresh(1), lab.fresh(3)
    per_lane = (bytes_elsewhere(three) - bytes_elsewhere(one)) / 2
    declared, measured = one.state_bytes(), state_bytes(one)
    figure = f"{measured:,} B"
    if per_lane > 0:
        sentence = f"state_bytes() says {declared:,} B; {per_lane:,.0f} B a lane lie outside state."
        return "fail", measured + per_lane, f"{measured + per_lane:,.0f} B", sentence
    held: list[int] = []
    for lanes in (1, 3):
        method = lab.fresh(lanes)
        Reader(method, _WIDE).read([document(3 * 64, 65 + lane) for lane in range(lanes)])
        held.append(held_bytes(method))
    outside = (held[1] - held[0]) / 2 - method.state_bytes()
    if outside > _SLACK_BYTES:
        sentence = (
            f"state_bytes() says {method.state_bytes():,} B; {outside:,.0f} B a lane lie elsewhere "
            "(arrays, containers, closures, variables of its module)."
        )
        return "fail", measured + outside, f"{measured + outside:,.0f} B", sentence
    sizes: list[tuple[int, int]] = []
    for chunks in (3, 24):
        Reader(one, _WIDE).read([document(chunks * 64, 60 + chunks)])
        sizes.append((one.state_bytes(), held_bytes(one)))
        declared = one.state_bytes()
        if declared != state_bytes(one):
            measured = state_bytes(one)
            break
    if declared != measured:
        sentence = f"state_bytes() says {declared:,} B; the tensors in state take {measured:,} B."
        return "fail", float(measured), f"{measured:,} B", sentence
    grown = (sizes[-1][1] - sizes[0][1]) - (sizes[-1][0] - sizes[0][0])
    if grown > _SLACK_BYTES:
        sentence = f"{grown:,} B more lie outside state after a document eight times as long."
        return "fail", float(grown), f"+{grown:,} B", sentence
    return "pass", float(measured), figure, "state_bytes() is what a lane takes, anywhere."
