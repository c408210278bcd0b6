"""The log of a training: rows of a CSV file, lines on the screen, and a plot of the loss."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from tta_bench.errors import UsageError
from tta_bench.format import duration
from tta_bench.training.loss import SegmentLoss
from tta_bench.training.processes import Processes
from tta_bench.training.streams import LaneSegments


class TrainingLog:
    """Writes `log.csv`, a row at a time.

    A row has the step, tokens, seconds, learning rate, loss (nats per token since the previous
    row), gradient norm, and every step size and half-life.

    Args:
        path: the CSV file.
        loss: the loss, which sums nats and tokens between rows.
        segments: the training data, which has the number of tokens per step.
        processes: those that train; the first one writes, the sums of all.
        say: prints a line.
    """

    def __init__(
        self,
        path: Path,
        loss: SegmentLoss,
        segments: LaneSegments,
        processes: Processes,
        say: Callable[[str], None],
    ) -> None:
        self.path, self.loss, self.processes, self.say = path, loss, processes, say
        self.steps, self.tokens_per_step = segments.steps, segments.tokens_per_step
        self.rows: list[dict[str, Any]] = []

    def resume(self, step: int) -> None:
        """Reads the rows of an earlier session up to the step of its checkpoint."""
        if self.path.is_file():
            with self.path.open(newline="") as handle:
                rows = list(csv.DictReader(handle))
            self.rows = [row for row in rows if int(row["step"]) <= step]

    def row(
        self,
        step: int,
        seconds: float,
        rate: float,
        norm: float,
        timed_steps: int,
        left: float | None,
    ) -> None:
        """Writes a row and prints a line; every process must come here.

        Args:
            step: training steps taken.
            seconds: seconds of the timed steps.
            rate: learning rate.
            norm: norm of the gradient.
            timed_steps: the steps that `seconds` covers.
            left: seconds until the end, as far as one can tell.

        Raises:
            UsageError: the loss is no number any more.
        """
        nats, tokens = self.processes.total(*self.loss.take_sums())
        if not math.isfinite(nats):
            raise UsageError(
                f"the loss is no finite number at step {step}: training diverged; try a lower "
                "--learning-rate and another --output."
            )
        if not self.processes.first:
            return
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
        line = f"step {step} of {self.steps}  loss {row['loss']:.4f}"
        if left is not None:
            speed = timed_steps * self.tokens_per_step / seconds
            line += f"  {speed:,.0f} tokens/s  {duration(left)} left"
        self.say(line)

    def close(self) -> None:
        """Plots the loss in `curve.png` beside the log, if matplotlib is installed."""
        try:
            import matplotlib
        except ImportError:
            return
        if not self.rows or not self.processes.first:
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
    """Step sizes and half-lives by name: the parameters that are stored as logarithms."""
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
