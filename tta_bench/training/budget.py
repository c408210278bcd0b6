"""The budget of a training in steps and minutes: its clock, its learning rate, and its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tta_bench.training.checkpoint import about_of, complete, load_state, save_state
from tta_bench.training.interrupt import Interrupt
from tta_bench.training.log import TrainingLog
from tta_bench.training.processes import Processes
from tta_bench.training.recipe import Schedule
from tta_bench.training.spread import Spread

WARMUP = 0.25
"""Share of the budget after which the learning rate has risen, however long the warm-up."""

LONGEST_SILENCE = 30.0
"""Seconds after which a line comes, even if few steps were taken."""


class Budget(TrainerCallback):
    """Ends training when the time is used up, and keeps with a checkpoint what Trainer does not.

    Where the first step of a session compiles, the clock starts after it: compiling is not
    training. `fraction` drives the learning rate, so that it reaches zero exactly when the budget
    does. Whatever depends on a clock or on Ctrl-C is decided by the first process for all.

    Attributes:
        timed_steps: steps taken while the clock ran, over all sessions.
        spent: seconds of training when the last step was taken, the same in every process.
        stopped: whether Ctrl-C ended training before the budget did.
    """

    def __init__(
        self,
        schedule: Schedule,
        spread: Spread,
        processes: Processes,
        log: TrainingLog,
        interrupt: Interrupt,
        compiles: bool,
    ) -> None:
        self.schedule, self.spread, self.processes = schedule, spread, processes
        self.log, self.interrupt, self.compiles = log, interrupt, compiles
        self.began: float | None = None
        self.earlier = self.spent = self.spoke = 0.0
        self.timed_steps = 0
        self.wanted = self.stopped = False

    @property
    def seconds(self) -> float:
        """Seconds of training, over all sessions."""
        return self.earlier + (0.0 if self.began is None else time.monotonic() - self.began)

    def fraction(self, step: int) -> float:
        """Share of the budget that has been used."""
        by_time = self.spent / 60 / self.schedule.minutes if self.schedule.minutes else 0.0
        return min(1.0, max(step / self.schedule.steps, by_time))

    def left(self, step: int) -> float | None:
        """Seconds until the budget is used up; None while no step was timed."""
        if not self.timed_steps:
            return None
        by_steps = self.seconds / self.timed_steps * (self.schedule.steps - step)
        minutes = self.schedule.minutes
        return min(by_steps, max(0.0, 60 * minutes - self.seconds)) if minutes else by_steps

    def rate(self, step: int) -> float:
        """Warm-up, then straight down to zero (Bergsma et al. 2025, "Straight to Zero")."""
        used = self.fraction(step)
        warm = max((step + 1) / max(1, self.schedule.warmup_steps), used / WARMUP)
        return min(1.0, warm) * (1 - used)

    def restore(self, checkpoint: Path) -> None:
        """Puts back what `on_save` stored."""
        load_state(checkpoint, self.log.loss.state)
        about = about_of(checkpoint)
        self.earlier = self.spent = self.spoke = about["seconds"]
        self.timed_steps = about["timed_steps"]
        self.log.resume(about["step"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.compiles:
            self.began = time.monotonic()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Comes before the next step's learning rate is set."""
        if self.began is None:
            self.began = time.monotonic()
        else:
            self.timed_steps += 1
        self.spent, wanted = self.processes.agree(self.seconds, self.interrupt.wanted)
        self.wanted = bool(wanted)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        minutes = self.schedule.minutes
        if minutes and self.spent >= 60 * minutes:
            control.should_training_stop = True
        if state.global_step >= state.max_steps:
            control.should_training_stop = True
        if self.wanted and not control.should_training_stop:
            self.stopped = control.should_save = control.should_training_stop = True
        if control.should_training_stop or self.spent - self.spoke >= LONGEST_SILENCE:
            control.should_log = True  # the last step, wherever it falls

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        rank = self.processes.rank
        save_state(folder, self.log.loss.state, self.spread.lanes_of(rank), rank)
        self.processes.wait()  # a checkpoint is complete when every process has written its part
        if self.processes.first:
            about = {"step": state.global_step, "seconds": self.seconds}
            complete(folder, about | {"timed_steps": self.timed_steps})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.spoke = self.spent
            rate, norm = logs.get("learning_rate", 0.0), logs.get("grad_norm", 0.0)
            step = state.global_step
            self.log.row(
                step, self.seconds, float(rate), float(norm), self.timed_steps, self.left(step)
            )
