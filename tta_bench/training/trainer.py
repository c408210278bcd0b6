"""The training loop: `transformers.Trainer` over lanes, with checkpoints that resume exactly."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import Parameter
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tta_bench.cost.counter import count_flops
from tta_bench.training.log import TrainingLog
from tta_bench.training.loss import SegmentLoss
from tta_bench.training.recipe import Schedule
from tta_bench.training.streams import LaneSegments

CHECKPOINTS = "checkpoints"
BUDGET = "budget.json"

LOGARITHMS = ("log_",)
"""Parameters with such a part in their names are logarithms: they have a rate of their own and no
decay."""


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        steps: optimiser steps.
        tokens: tokens that were read.
        timed_steps: the steps that `seconds` covers: all, but for those that compile.
        seconds: seconds of training; None where no step was timed.
        flops: FLOPs of all steps.
    """

    steps: int
    tokens: int
    timed_steps: int
    seconds: float | None
    flops: float

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of the timed steps; None where there is none."""
        return self.tokens * self.timed_steps / self.steps / self.seconds if self.seconds else None


def run_trainer(
    loss: SegmentLoss, segments: LaneSegments, schedule: Schedule, folder: Path, say: Callable
) -> Trained:
    """Trains `loss` on `segments`, from the last checkpoint in `folder` if there is one.

    The fast state of the lanes is part of a checkpoint, so that a training that was killed and
    taken up ends with the weights of one that was not (under a budget of steps).
    """
    on_gpu = loss.device.type == "cuda"
    flops = _flops_per_row(loss, segments, on_gpu)
    compiles = on_gpu and schedule.compile
    if compiles:
        loss.compile_parts()
    last = _last_checkpoint(folder / CHECKPOINTS)
    log = TrainingLog(folder / "log.csv", loss, segments, say)
    budget = Budget(schedule, loss, log, compiles)
    world = max(1, int(torch.distributed.get_world_size())) if _distributed() else 1
    batch = schedule.batch or segments.lanes // world
    optimizer = _optimizer(loss, schedule, fused=on_gpu)
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=max(1, segments.lanes // (batch * world)),
        max_steps=segments.steps,
        max_grad_norm=schedule.clip,
        bf16=on_gpu,
        tf32=True if on_gpu else None,
        use_cpu=not on_gpu,
        train_sampling_strategy="sequential",
        dataloader_num_workers=schedule.workers if on_gpu else 0,
        dataloader_persistent_workers=on_gpu and schedule.workers > 0,
        remove_unused_columns=False,
        logging_steps=schedule.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would wait for the GPU at every step
        save_strategy="steps",
        save_steps=schedule.checkpoint_every,
        save_total_limit=2,  # one is being written, the other is whole
        report_to=[],
        disable_tqdm=True,
        seed=schedule.seed,
        ddp_find_unused_parameters=False,
    )
    if arguments.n_gpu > 1:  # one process trains on one GPU; `Trainer` would spread it over all
        arguments._n_gpu = 1
    trainer = Trainer(
        model=loss,
        args=arguments,
        train_dataset=segments,
        data_collator=segments.collate,
        callbacks=[budget],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, budget.rate)),
    )
    trainer.remove_callback(PrinterCallback)  # the log prints, with the throughput
    trainer.remove_callback(ProgressCallback)
    if last is not None:
        budget.restore(last)
        say(f"going on from step {last.name[11:]}")
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    seconds = budget.seconds if budget.timed_steps else None  # before plotting takes its time
    log.close()
    steps = trainer.state.global_step
    tokens = round(steps * segments.tokens_per_step)
    return Trained(steps, tokens, budget.timed_steps, seconds, flops * steps * segments.lanes)


class Budget(TrainerCallback):
    """Ends training when the time is used up, and keeps with a checkpoint what Trainer does not.

    Where the first step of a session compiles, the clock starts after it: compiling is not
    training. `fraction` drives the learning rate, so that it reaches zero exactly when the budget
    does.

    Attributes:
        timed_steps: steps taken while the clock ran, over all sessions.
    """

    def __init__(
        self, schedule: Schedule, loss: SegmentLoss, log: TrainingLog, compiles: bool
    ) -> None:
        self.schedule, self.loss, self.log, self.compiles = schedule, loss, log, compiles
        self.began: float | None = None
        self.earlier = 0.0
        self.timed_steps = 0

    @property
    def seconds(self) -> float:
        """Seconds of training, over all sessions."""
        return self.earlier + (0.0 if self.began is None else time.monotonic() - self.began)

    def fraction(self, step: int) -> float:
        """Share of the budget that has been used."""
        by_time = self.seconds / 60 / self.schedule.minutes if self.schedule.minutes else 0.0
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
        warm = min(1.0, (step + 1) / max(1, self.schedule.warmup_steps))
        return warm * (1 - self.fraction(step))

    def restore(self, checkpoint: Path) -> None:
        """Puts back what `on_save` stored."""
        state = checkpoint / f"fast_state_{_rank()}.safetensors"
        if self.loss.state:
            for name, value in load_file(state, device=str(self.loss.device)).items():
                self.loss.state[name].copy_(value)
        about = json.loads((checkpoint / BUDGET).read_text())
        self.earlier, self.timed_steps = about["seconds"], about["timed_steps"]
        self.log.resume(about["step"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.compiles:
            self.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.began is None:
            self.began = time.monotonic()
        else:
            self.timed_steps += 1
        if self.schedule.minutes and self.seconds >= 60 * self.schedule.minutes:
            control.should_training_stop = True
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_log = True  # the last step, wherever it falls

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.loss.state:
            save_file(self.loss.state, folder / f"fast_state_{_rank()}.safetensors")
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody reads
        about = {"step": state.global_step, "seconds": self.seconds}
        about |= {"timed_steps": self.timed_steps}
        part = folder / ".budget.json.part"  # written last: a file of that name is complete
        part.write_text(json.dumps(about))
        os.replace(part, folder / BUDGET)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            rate, norm = logs.get("learning_rate", 0.0), logs.get("grad_norm", 0.0)
            step = state.global_step
            self.log.row(
                step, self.seconds, float(rate), float(norm), self.timed_steps, self.left(step)
            )


def has_checkpoint(folder: Path) -> bool:
    """Whether a training in `folder` can be continued."""
    return any((folder / CHECKPOINTS).glob(f"checkpoint-*/{BUDGET}"))


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is complete; what a kill left of another is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    whole = [path for path in found if (path / BUDGET).is_file()]
    for path in found:
        if path not in whole and _rank() == 0:
            shutil.rmtree(path)
    return whole[-1] if whole else None


def _optimizer(loss: SegmentLoss, schedule: Schedule, fused: bool) -> torch.optim.AdamW:
    """AdamW; norms and biases (one-dimensional) are not decayed, logarithms have their own rate."""
    matrices: list[Parameter] = []
    vectors: list[Parameter] = []
    logarithms: list[Parameter] = []
    for name, parameter in loss.named_parameters():
        if any(part.startswith(LOGARITHMS) for part in name.split(".")):
            logarithms.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
    rate = schedule.learning_rate
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
        {"params": logarithms, "weight_decay": 0.0, "lr": rate * schedule.rate_factor},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=rate,
        betas=(0.9, schedule.adam_beta2),
        fused=fused,
    )


def _flops_per_row(loss: SegmentLoss, segments: LaneSegments, on_gpu: bool) -> float:
    """FLOPs of one lane in a training step, forward and backward, as the counter sees them.

    Counted before anything is compiled: what first runs under the counter stays uncompiled.
    """
    rows = segments.collate(range(len(segments.windows)))
    batch = {name: value.to(loss.device) for name, value in rows.items()}
    mixed = torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext()

    def step() -> None:
        with mixed:
            loss(**batch)["loss"].backward()

    counted = count_flops(step).flops
    loss.zero_grad(set_to_none=True)
    loss.forget()
    return counted / len(segments.windows)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _rank() -> int:
    return torch.distributed.get_rank() if _distributed() else 0
