"""The log of a training: a CSV row, a line on the screen, and a picture of the curve."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from tta_bench.training.loss import SegmentLoss
from tta_bench.training.recipe import Schedule
from tta_bench.training.streams import LaneSegments


class TrainingLog:
    """`log.csv`: step, tokens, seconds, rates, loss (nats per token since the last row), gradient
    norm, and every step size and half-life.
    """

    def __init__(
        self,
        path: Path,
        schedule: Schedule,
        loss: SegmentLoss,
        segments: LaneSegments,
        say: Callable[[str], None],
    ) -> None:
        self.path, self.schedule, self.loss, self.say = path, schedule, loss, say
        self.tokens_per_step = segments.lanes * segments.segment * segments.filled
        self.rows: list[dict[str, Any]] = []
        self.since = (0, 0.0)  # where this session began

    def resume(self, step: int) -> None:
        """Keeps the rows up to a checkpoint's step."""
        if self.path.is_file():
            with self.path.open(newline="") as handle:
                rows = list(csv.DictReader(handle))
            self.rows = [row for row in rows if int(row["step"]) <= step]
        self.since = (step, 0.0)

    def row(self, step: int, seconds: float, rate: float, norm: float, used: float) -> None:
        """Writes what has happened since the last row; `used` is the share of the budget."""
        nats, tokens = self.loss.take_sums()
        row = {
            "step": step,
            "tokens": round(step * self.tokens_per_step),
            "seconds": round(seconds, 2),
            "learning_rate": f"{rate:.3g}",
            "loss": round(nats / max(tokens, 1), 5),
            "grad_norm": round(norm, 4),
            **rates_of(self.loss.head),
        }
        self.rows.append(row)
        with self.path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(row))
            writer.writeheader()
            writer.writerows(self.rows)
        speed = step * self.tokens_per_step / seconds if seconds else 0.0
        left = seconds / used * (1 - used) if used else 0.0
        self.say(
            f"step {step}  loss {row['loss']:.4f}  {speed / 1e6:.3f} M tokens/s  "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )

    def close(self) -> None:
        """Draws the curve beside the log, where matplotlib is installed."""
        try:
            import matplotlib
        except ImportError:
            return
        if not self.rows:
            return
        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        axes.plot(
            [float(row["tokens"]) / 1e6 for row in self.rows],
            [float(row["loss"]) for row in self.rows],
        )
        axes.set(xlabel="training tokens (millions)", ylabel="loss (nats per token)")
        axes.grid(alpha=0.3)
        figure.savefig(self.path.with_name("curve.png"), dpi=144)
        pyplot.close(figure)


def rates_of(head: nn.Module | None) -> dict[str, float]:
    """Step sizes and half-lives, of parameters kept as logarithms, by name."""
    if head is None:
        return {}
    found = {}
    for name, value in head.named_parameters():
        parts = name.split(".")
        kinds = [part.removeprefix("log_") for part in parts if part.startswith("log_")]
        if kinds:
            for index, entry in enumerate(value.detach().float().exp().flatten().tolist()):
                found[f"{kinds[0]}.{parts[-1]}.{index}"] = round(entry, 5)
    return found
