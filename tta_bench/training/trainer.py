"""The training loop: `transformers.Trainer` over lanes, with checkpoints that resume exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import Parameter
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from tta_bench.cost.counter import count_flops
from tta_bench.errors import UsageError
from tta_bench.training.budget import Budget
from tta_bench.training.checkpoint import (
    CHECKPOINTS,
    last_checkpoint,
    remove_incomplete,
    step_of,
)
from tta_bench.training.interrupt import Interrupt
from tta_bench.training.log import TrainingLog
from tta_bench.training.loss import SegmentLoss
from tta_bench.training.processes import Processes
from tta_bench.training.recipe import Schedule
from tta_bench.training.spread import Spread
from tta_bench.training.streams import LaneSegments

Say = Callable[[str], None]

LINES = 10
"""Lines that the log of the shortest training has, at least, where it has so many steps."""

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
    loss: SegmentLoss,
    segments: LaneSegments,
    schedule: Schedule,
    folder: Path,
    say: Say,
    spread: Spread,
    processes: Processes,
) -> Trained:
    """Trains `loss` on `segments`, from the last checkpoint in `folder` if there is one.

    The fast state of the lanes is part of a checkpoint, so that a training that was killed and
    taken up ends with the weights of one that was not (under a budget of steps).

    Raises:
        KeyboardInterrupt: Ctrl-C; the steps taken so far are in a checkpoint, unless it was pressed
            twice.
    """
    on_gpu = loss.device.type == "cuda"
    flops, idle = _one_row(loss, segments, on_gpu)
    compiles = on_gpu and schedule.compile
    if compiles:
        torch._dynamo.config.optimize_ddp = False  # blocks are small: there is nothing to divide
        loss.compile_parts()
        say("compiling; the first step takes longer than the others")
    if processes.first:
        remove_incomplete(folder)
    last = last_checkpoint(folder)
    log = TrainingLog(folder / "log.csv", loss, segments, processes, say)
    interrupt = Interrupt(say)
    budget = Budget(schedule, spread, processes, log, interrupt, compiles)
    optimizer = _optimizer(loss, schedule, fused=on_gpu)
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        per_device_train_batch_size=spread.batch,
        gradient_accumulation_steps=spread.rounds,
        max_steps=segments.steps,
        max_grad_norm=schedule.clip,
        bf16=on_gpu,
        tf32=True if on_gpu else None,
        use_cpu=loss.device.type == "cpu",
        train_sampling_strategy="sequential",
        dataloader_num_workers=schedule.workers if on_gpu else 0,
        dataloader_persistent_workers=on_gpu and schedule.workers > 0,
        remove_unused_columns=False,
        logging_steps=max(1, min(schedule.log_every, segments.steps // LINES)),
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would wait for the GPU at every step
        save_strategy="steps",
        save_steps=schedule.checkpoint_every,
        save_total_limit=2,  # one is being written, the other is whole
        report_to=[],
        disable_tqdm=True,
        seed=schedule.seed,
        ddp_find_unused_parameters=idle,
    )
    if arguments.n_gpu > 1:  # one process trains on one GPU; `Trainer` would spread it over all
        arguments._n_gpu = 1
    # Only now: the arguments set the precision of matrix products, which a capture keeps.
    if on_gpu and loss.graphs:
        _capture(loss, segments, spread.lanes_of(processes.rank)[: spread.batch], say)
    trainer = Trainer(
        model=loss,
        args=arguments,
        train_dataset=segments,
        data_collator=(segments if loss.kept is None else loss.kept).collate,
        callbacks=[budget],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, budget.rate)),
    )
    trainer.remove_callback(PrinterCallback)  # the log prints, with the throughput
    trainer.remove_callback(ProgressCallback)
    if last is not None:
        budget.restore(last)
        say(f"going on from step {step_of(last)}")
    with interrupt:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    seconds = budget.seconds if budget.timed_steps else None  # before plotting takes its time
    log.close()
    if budget.stopped:
        raise KeyboardInterrupt
    steps = trainer.state.global_step
    tokens = round(steps * segments.tokens_per_step)
    return Trained(steps, tokens, budget.timed_steps, seconds, flops * steps * segments.lanes)


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


def _capture(loss: SegmentLoss, segments: LaneSegments, lanes: Sequence[int], say: Say) -> None:
    """Steps become replays of a CUDA graph, where they can."""
    batch = segments.collate(lanes)
    try:
        loss.capture({name: value.to(loss.device) for name, value in batch.items()})
    except RuntimeError as error:
        reason, _, _ = str(error).partition("\n")
        say(f"steps are not captured as a CUDA graph: {reason}")


def _one_row(loss: SegmentLoss, segments: LaneSegments, on_gpu: bool) -> tuple[float, bool]:
    """FLOPs of one lane in a training step, forward and backward, as the counter sees them; and
    whether a parameter stands idle, which processes that average gradients must know.

    Counted before anything is compiled: what first runs under the counter stays uncompiled.
    """
    rows = segments.collate(range(len(segments.windows)))
    batch = {name: value.to(loss.device) for name, value in rows.items()}
    mixed = torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext()

    def step() -> None:
        with mixed:
            loss(**batch)["loss"].backward()

    counted = count_flops(step).flops
    trained = [value for value in loss.parameters() if value.requires_grad]
    idle = any(value.grad is None for value in trained)
    if all(value.grad is None for value in trained):
        raise UsageError(
            "the loss of a segment depends on nothing that is trained: what is learned in a window "
            "serves the next ones, so make train.segment longer than train.windows."
        )
    loss.zero_grad(set_to_none=True)
    loss.forget()
    return counted / len(segments.windows), idle
