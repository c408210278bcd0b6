"""A method costs what it declares."""

from __future__ import annotations

from tta_bench.cost.flop_report import TOLERANCE
from tta_bench.engine.flop_check import check_flops
from tta_bench.model.step_shape import StepShape
from tta_bench.validity.lab import Found, Lab
from tta_bench.validity.models import document
from tta_bench.validity.reader import CHUNK, Reader
from tta_bench.validity.tensors import bytes_elsewhere, state_bytes

SHAPES = (StepShape(16, 16, 0), StepShape(24, 16, 0), StepShape(16, 16, 12))
"""Without context, with context read again, and with carried keys."""

_STEPS = 4


def flops(lab: Lab) -> Found:
    """Compares the formula with PyTorch's counter."""
    worst, sentence = 0.0, ""
    for shape in SHAPES:
        report = check_flops(lab.fresh(), shape, lab.subject.name, _STEPS)
        if report.uncounted_because:
            sentence = f"PyTorch's counter could not run: {report.uncounted_because}."
            return "skip", None, "—", sentence
        if report.analytic is None:
            return "skip", None, "—", "flops() gives no formula; the counted figure is reported."
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


def declared_state(lab: Lab) -> Found:
    """Adds up the state before, between and after documents, and looks for state elsewhere."""
    one, three = lab.fresh(1), lab.fresh(3)
    per_lane = (bytes_elsewhere(three) - bytes_elsewhere(one)) / 2
    declared, measured = one.state_bytes(), state_bytes(one)
    figure = f"{measured:,} B"
    if per_lane > 0:
        sentence = f"state_bytes() says {declared:,} B; {per_lane:,.0f} B a lane lie outside state."
        return "fail", measured + per_lane, f"{measured + per_lane:,.0f} B", sentence
    sizes = []
    for chunks in (3, 9):
        Reader(one).read([document(chunks * CHUNK, 60 + chunks)])
        sizes.append((one.state_bytes(), state_bytes(one), bytes_elsewhere(one)))
        declared = one.state_bytes()
        if declared != state_bytes(one):
            measured = state_bytes(one)
            break
    if declared != measured:
        sentence = f"state_bytes() says {declared:,} B; the tensors in state take {measured:,} B."
        return "fail", float(measured), f"{measured:,} B", sentence
    grown = sizes[-1][2] - sizes[0][2]
    if grown > 0:
        sentence = f"{grown:,} B more lie outside state after a document three times as long."
        return "fail", float(grown), f"+{grown:,} B", sentence
    return "pass", float(measured), figure, "state_bytes() is what the state of a lane takes."
