"""Stage two: train the recipe's Llama on a prepared folder, with `transformers.Trainer`.

Needs no network and, beside torch and transformers, only accelerate, numpy, safetensors and
tokenizers, so that it can run on a borrowed GPU machine:  ``python -m tta_bench.training.lm
--prepared DIR --config RECIPE --output DIR``
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from tta_bench.errors import BenchError, UsageError
from tta_bench.training.card import write_card
from tta_bench.training.heldout import evaluate_heldout
from tta_bench.training.recipe import Recipe, Schedule, load_recipe
from tta_bench.training.tokenizer import BOS, EOS
from tta_bench.training.windows import RandomWindows


def _causal_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Plain causal attention over whole windows; query [B, H, T, D], key and value [B, H_kv, T, D],
    result [B, T, H, D].

    transformers' own SDPA path builds an explicit mask whenever it is compiled without a cache (it
    looks for packed sequences), and a mask rules the flash kernel out. A name that has no mask
    function of its own gets no mask at all.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    mixed = F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=kwargs.get("scaling")
    )
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register("tta_bench_causal", _causal_attention)


class LossOnly(torch.nn.Module):
    """A model that returns its loss and nothing else, so that the compiler never has to write the
    logits out ([B, T, V]).
    """

    def __init__(self, lm: LlamaForCausalLM) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": self.lm(input_ids=input_ids, labels=labels, use_cache=False).loss}


class Budget(TrainerCallback):
    """Ends training when the minutes are used up, and writes the log.

    The clock starts after the first optimiser step: compiling the model is not training.
    ``fraction`` drives the learning rate, so that it reaches zero exactly when the time does, on a
    machine of any speed; the price is that a run can be repeated only in kind, not bit for bit.
    """

    def __init__(self, schedule: Schedule, tokens_per_step: int, log: Path) -> None:
        self.schedule, self.tokens_per_step, self.log = schedule, tokens_per_step, log
        self.began: float | None = None
        self.seconds = 0.0
        self.steps = 0
        self.rows: list[dict[str, float]] = []

    def fraction(self, step: int) -> float:
        minutes = 0.0 if self.began is None else (time.monotonic() - self.began) / 60
        return min(1.0, max(step / self.schedule.max_steps, minutes / self.schedule.max_minutes))

    def rate(self, step: int) -> float:
        """Warm-up, then straight down to zero (Bergsma et al. 2025, "Straight to Zero")."""
        return min(1.0, (step + 1) / max(1, self.schedule.warmup_steps)) * (1 - self.fraction(step))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.began is None:
            self.began = time.monotonic()
        self.steps = state.global_step
        self.seconds = time.monotonic() - self.began
        if self.seconds >= 60 * self.schedule.max_minutes:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        row = {
            "step": state.global_step,
            "tokens": state.global_step * self.tokens_per_step,
            "seconds": round(self.seconds, 2),
            "learning_rate": logs.get("learning_rate", 0.0),
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm", 0.0),
        }
        self.rows.append(row)
        with open(self.log, "a", newline="") as out:
            writer = csv.DictWriter(out, list(row))
            if len(self.rows) == 1:
                writer.writeheader()
            writer.writerow(row)
        if self.seconds:
            rate = (state.global_step - 1) * self.tokens_per_step / self.seconds
            print(
                f"step {row['step']}  loss {float(row['loss']):.4f}  {rate / 1e6:.3f} M tokens/s",
                flush=True,
            )


def train(recipe: Recipe, prepared: Path, output: Path, device: str = "auto") -> dict[str, Any]:
    """Trains, saves the model in bfloat16, evaluates what was saved on the held-out files; returns
    (and writes) the numbers.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device.startswith("cuda")
    if importlib.util.find_spec("accelerate") is None:
        raise UsageError("Training needs the package accelerate: pip install 'tta-bench[train]'.")
    summary_path = prepared / "prepared.json"
    if not summary_path.is_file():
        raise UsageError(
            f"{str(prepared)!r} holds no prepared data: run the stage `prepare` first."
        )
    summary = json.loads(summary_path.read_text(encoding="utf-8"))
    schedule = recipe.train
    output.mkdir(parents=True, exist_ok=True)
    log = output / "log.csv"
    log.unlink(missing_ok=True)

    tokenizer = Tokenizer.from_file(str(prepared / "tokenizer.json"))
    set_seed(schedule.seed)
    model: Any = LlamaForCausalLM(_model_config(recipe, tokenizer))
    model.set_attn_implementation("tta_bench_causal")
    length = model.config.max_position_embeddings
    per_step = schedule.batch_size * schedule.accumulate
    windows = RandomWindows(
        prepared / "train.npy", length, schedule.max_steps * per_step, schedule.seed
    )
    if len(windows.tokens) <= length:
        raise UsageError(
            f"{len(windows.tokens)} training tokens do not fill one window of {length}."
        )
    budget = Budget(schedule, per_step * length, log)
    optimizer = _optimizer(model, schedule, fused=on_gpu)
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.accumulate,
        max_steps=schedule.max_steps,
        max_grad_norm=schedule.clip,
        bf16=on_gpu,
        tf32=True if on_gpu else None,
        use_cpu=not on_gpu,
        torch_compile=schedule.compile and on_gpu,
        dataloader_num_workers=schedule.workers if on_gpu else 0,
        dataloader_persistent_workers=on_gpu and schedule.workers > 0,
        remove_unused_columns=False,
        logging_steps=schedule.log_every,
        logging_nan_inf_filter=False,  # it would wait for the GPU at every step
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=schedule.seed,
    )
    trainer = Trainer(
        model=LossOnly(model),
        args=arguments,
        train_dataset=windows,
        data_collator=windows.collate,
        callbacks=[budget],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, budget.rate)),
    )
    trainer.remove_callback(PrinterCallback)  # the budget prints, with the throughput
    started = time.monotonic()
    trainer.train()
    wall = time.monotonic() - started

    model.to("cpu", torch.bfloat16).save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # it ships: others must be able to read it
    (output / "generation_config.json").unlink(missing_ok=True)  # it repeats config.json
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(prepared / name, output / name)
    saved = AutoModelForCausalLM.from_pretrained(output, dtype=torch.bfloat16)
    tokens = budget.steps * budget.tokens_per_step
    numbers = {
        "name": recipe.name,
        "parameters": sum(p.numel() for p in saved.parameters()),
        "steps": budget.steps,
        "tokens": tokens,
        "epochs": tokens / len(windows.tokens),
        "seconds": round(wall, 1),
        "seconds_after_first_step": round(budget.seconds, 1),
        "tokens_per_second": (budget.steps - 1)
        * budget.tokens_per_step
        / max(budget.seconds, 1e-9),
        "final_loss": budget.rows[-1]["loss"] if budget.rows else None,
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "torch": torch.__version__,
        "heldout": evaluate_heldout(saved, tokenizer, prepared / "heldout.jsonl", device),
        "prepared": summary,
    }
    (output / "training.json").write_text(json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
    write_card(numbers, recipe, output / "README.md")
    return numbers


def _model_config(recipe: Recipe, tokenizer: Tokenizer) -> LlamaConfig:
    try:
        return LlamaConfig(
            **recipe.model,
            vocab_size=tokenizer.get_vocab_size(),
            bos_token_id=tokenizer.token_to_id(BOS),
            eos_token_id=tokenizer.token_to_id(EOS),
            pad_token_id=None,
        )
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"The recipe's section model is not a Llama: {reason}.") from error


def _optimizer(model: torch.nn.Module, schedule: Schedule, fused: bool) -> torch.optim.AdamW:
    """AdamW; norms and biases (one-dimensional) are not decayed."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if fused:
        model.to(
            "cuda"
        )  # before the optimiser sees them: a fused step needs its parameters on the device
    return torch.optim.AdamW(
        groups, lr=schedule.learning_rate, betas=(0.9, schedule.adam_beta2), fused=fused
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tta_bench.training.lm", description=__doc__)
    parser.add_argument(
        "--prepared", type=Path, required=True, help="folder of the stage `prepare`"
    )
    parser.add_argument("--config", type=Path, required=True, help="the recipe (YAML)")
    parser.add_argument("--output", type=Path, required=True, help="where the model goes")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    chosen = parser.parse_args(arguments)
    try:
        numbers = train(load_recipe(chosen.config), chosen.prepared, chosen.output, chosen.device)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({key: value for key, value in numbers.items() if key != "prepared"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
