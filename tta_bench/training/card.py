"""The model card, written from the measured numbers so that it cannot drift from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tta_bench.training.recipe import Recipe

_TEXT = """\
# {name}: a small language model for tta-bench

A Llama-architecture causal language model of {parameters:,} parameters ({shape}), stored in
bfloat16, with a byte-level BPE tokenizer of {vocab:,} entries that round-trips any text. It exists
so that tta-bench runs with no download; it predicts English reference text, books and Python code
well enough to tell methods apart, and is good for nothing else.

## Training

Recipe: `suites/train/{recipe}.yaml` (`tta-bench train lm --config suites/train/{recipe}.yaml`), on
one {device}, torch {torch}.

| steps | tokens | passes over the data | seconds, compiling included | tokens/s | last loss |
| ---: | ---: | ---: | ---: | ---: | ---: |
| {steps:,} | {tokens:,} | {epochs:.1f} | {seconds:.0f} | {speed:,.0f} | {loss} |

AdamW, peak learning rate {lr:g}, {batch} windows of {length} tokens a step, linear warm-up over
{warmup} steps and linear decay to zero over the time budget of {minutes:g} minutes (so a rerun
gives the same kind of model, not the same bits). The last loss is the training loss, in nats per
token.

## Held-out files

Excluded from training by file: those whose name's sha256 falls in the first {fraction:.1%} of its
range, and those that the recipe names. Each file is streamed alone, every token once, with {half}
to {most} tokens of context. `xz -9` compresses all files of a domain as one.

| domain | files | bytes | tokens | nats/token | bits/byte | xz -9 bits/byte |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{heldout}

## Data

{data_intro}

| domain | documents | bytes | tokens |
| --- | ---: | ---: | ---: |
{domains}

Files were dropped for these reasons: {dropped}. Neither the Python manual nor the standard library
is among the sources (`builtin:pydoc` and `builtin:stdlib` are made from them), and every file that
shares over a fifth of its long lines with them was dropped ({copies} files).

| domain | package | version |
| --- | --- | --- |
{packages}

The texts keep their own licences, which are those of the packages; none of them is in this
repository.
"""


def write_card(numbers: Mapping[str, Any], recipe: Recipe, path: Path) -> None:
    prepared = numbers["prepared"]
    model, schedule = recipe.model, recipe.train
    length = int(model.get("max_position_embeddings", 2048))
    shape = ", ".join(
        f"{model[key]} {word}"
        for key, word in [
            ("num_hidden_layers", "layers"),
            ("hidden_size", "wide"),
            ("num_attention_heads", "query heads"),
            ("num_key_value_heads", "key-value head(s)"),
        ]
        if key in model
    )
    train = prepared["train"]
    total = {
        key: sum(row[key] for row in train.values()) for key in ("documents", "bytes", "tokens")
    }
    path.write_text(
        _TEXT.format(
            name=numbers["name"],
            recipe=recipe.name,
            parameters=numbers["parameters"],
            shape=f"{shape}, context {length}",
            vocab=recipe.prepare.vocab_size,
            device=numbers["device"],
            torch=numbers["torch"],
            steps=numbers["steps"],
            tokens=numbers["tokens"],
            epochs=numbers["epochs"],
            seconds=numbers["seconds"],
            speed=numbers["tokens_per_second"],
            loss="-" if numbers["final_loss"] is None else f"{float(numbers['final_loss']):.4f}",
            lr=schedule.learning_rate,
            batch=schedule.batch_size * schedule.accumulate,
            length=length,
            warmup=schedule.warmup_steps,
            minutes=schedule.max_minutes,
            fraction=recipe.prepare.heldout_fraction,
            half=length // 2,
            most=length - 1,
            heldout=_heldout_rows(numbers["heldout"], prepared["heldout"]),
            data_intro=f"{total['documents']:,} documents, {total['bytes'] / 1e6:.1f} MB, "
            f"{total['tokens']:,} tokens, from packages of public registries:",
            domains="\n".join(
                f"| {domain} | {row['documents']:,} | {row['bytes']:,} | {row['tokens']:,} |"
                for domain, row in train.items()
            ),
            dropped=", ".join(f"{why} ({n:,})" for why, n in prepared["dropped"].items()) or "none",
            copies=len(prepared["dropped_evaluation_copies"]),
            packages="\n".join(
                f"| {row['domain']} | `{row['name']}` | {row['version']} |"
                for row in prepared["packages"]
            ),
        ),
        encoding="utf-8",
    )


def _heldout_rows(scores: Mapping[str, Any], packed: Mapping[str, Any]) -> str:
    lines = []
    for domain, row in scores.items():
        if domain == "all":
            continue
        lines.append(_heldout_row(domain, row, packed[domain]["xz_bits_per_byte"]))
    if "all" in scores:
        n_bytes = sum(row["bytes"] for row in packed.values())
        n_packed = sum(row["xz_bytes"] for row in packed.values())
        lines.append(_heldout_row("all", scores["all"], 8 * n_packed / n_bytes))
    return "\n".join(lines)


def _heldout_row(domain: str, row: Mapping[str, Any], xz: float) -> str:
    return (
        f"| {domain} | {row['documents']} | {row['bytes']:,} | {row['tokens']:,} "
        f"| {row['nats_per_token']:.4f} | {row['bits_per_byte']:.4f} | {xz:.4f} |"
    )
