"""`tta-bench train`: a recipe's method on its base and texts, to a file of slow weights."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, set_seed

from tta_bench.contract.registry import load
from tta_bench.contract.source import source_hash
from tta_bench.contract.spec import build, split_spec
from tta_bench.errors import MethodError, UsageError
from tta_bench.format import binary
from tta_bench.heads import BodyModule, Head, SlowWeights
from tta_bench.heads.slow_weights import base_identity
from tta_bench.model.attention import use_causal_attention
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import load_model
from tta_bench.model.prefix import prefix_id
from tta_bench.store.environment import checkout_state
from tta_bench.store.jsonable import jsonable
from tta_bench.training.folder import (
    FACTS,
    NOTE,
    PREPARED,
    SOURCE,
    WEIGHTS,
    finished,
    how_to_use,
    note_of,
)
from tta_bench.training.heldout import evaluate_heldout
from tta_bench.training.hidden import KeptHidden
from tta_bench.training.log import rates_of
from tta_bench.training.loss import SegmentLoss
from tta_bench.training.prepare import encode, load_prepared, prepare
from tta_bench.training.processes import Processes, join
from tta_bench.training.recipe import Recipe
from tta_bench.training.spread import spread_lanes
from tta_bench.training.streams import LaneSegments, TokenArray
from tta_bench.training.trainer import Trained, run_trainer
from tta_bench.version import __version__

Say = Callable[[str], None]


def train(
    recipe: Recipe,
    folder: Path,
    device: str = "auto",
    say: Say = print,
    prepared: Path | None = None,
    hidden: Path | None = None,
    texts: Path | None = None,
) -> dict[str, Any]:
    """Trains and saves. Returns what it took, which is also written to `training.json`.

    The same call again continues from the last checkpoint; if all is done it returns the facts.
    Under torchrun every process calls it, and the first one alone writes and speaks.

    Args:
        recipe: what to train.
        folder: where log, checkpoints and weights go.
        device: `auto`, `cuda`, `mps` or `cpu`.
        say: called with each message for the user.
        prepared: folder of prepared texts, if they were made elsewhere.
        hidden: folder in which the hidden states of a frozen body are kept; see `KeptHidden`.
        texts: where the texts of a corpus are prepared; by default in `folder`.

    Raises:
        UsageError: the method cannot be trained this way, or `folder` holds something else, such as
            the training of another recipe or of another source of the method.
        MethodError: the method has no slow weights, or they are no module of `tta_bench.heads`.
        KeyboardInterrupt: Ctrl-C; `last_checkpoint` says what is kept.
    """
    met = distributed.is_initialized()  # by a sequence of trainings, which also parts
    processes = join(device)
    if not processes.first:
        say = silence
    facts = _train(recipe, folder, processes, say, prepared, hidden, texts)
    if not met:
        processes.part()
    return facts


def _train(
    recipe: Recipe,
    folder: Path,
    processes: Processes,
    say: Say,
    prepared: Path | None,
    hidden: Path | None,
    texts: Path | None,
) -> dict[str, Any]:
    name, values = split_spec(recipe.method)
    cls = load(name)
    source = source_hash(cls)
    facts = finished(recipe, source, folder)
    if facts is not None:
        say(f"nothing to do: {folder} holds the finished training of this recipe.")
        say(how_to_use(cls, recipe, folder))
        return facts
    schedule = recipe.train
    spread = spread_lanes(schedule, processes.count)
    set_seed(schedule.seed)
    slow = build(cls.Slow, values, name)
    frozen = recipe.body == "frozen"
    # A trained body keeps float32 weights; one that is only read may be as narrow as in evaluation.
    say(f"loading {recipe.base}")
    model = load_model(recipe.base, "auto" if frozen else "float32", str(processes.device))
    positions = model.max_positions
    if positions is not None and max(schedule.windows) > positions:
        raise UsageError(
            f"windows of {max(schedule.windows)} tokens are longer than the {positions} positions "
            f"of {model.name}: set train.windows in a recipe."
        )
    identity = base_identity(model, recipe.body)  # type: ignore[arg-type]
    if recipe.body == "scratch":
        model = fresh(model)
    use_causal_attention(model.net)
    head = cls.slow_weights(model, slow)
    if not (head is None or isinstance(head, (Head, BodyModule))):
        raise MethodError(
            f"{name}: slow_weights must return a tta_bench.heads.Head or BodyModule, not "
            f"{type(head).__name__}."
        )
    if head is None and frozen:
        raise UsageError(
            f"{name} has nothing to train beside the body: use --body joint or scratch."
        )
    if isinstance(head, BodyModule):
        model = head.attach(model)
    elif schedule.reconstruction:
        raise UsageError(
            f"{name} writes nothing that the body could reconstruct a text from: "
            "train.reconstruction is for methods that act inside the body; leave it out."
        )
    model.net.requires_grad_(not frozen)
    with processes.first_alone():
        documents, about = training_texts(recipe, texts or folder / PREPARED, model, say, prepared)
    segments = LaneSegments(
        documents,
        schedule.lanes,
        schedule.windows,
        schedule.segment,
        schedule.chunk,
        schedule.steps,
        schedule.seed,
        schedule.reconstruction,
    )
    say(
        f"{len(documents.starts) - 1:,} documents, {documents.tokens:,} tokens; "
        f"{segments.filled:.1%} of the slots are filled"
    )
    limit = f" or {schedule.minutes:g} minutes" if schedule.minutes else ""
    say(f"{segments.steps:,} steps{limit}, {segments.tokens_per_step:,.0f} tokens per step")
    kept = None
    if hidden is not None:
        with processes.first_alone():
            kept = _kept(hidden, name, model, head, frozen, segments, say)
    loss = SegmentLoss(
        model,
        None if head is None else head.to(model.device),
        not frozen,
        schedule.windows,
        schedule.chunk,
        schedule.lanes,
        schedule.segment * segments.filled,
        kept,
        cls.graphs,
    )
    # Only now: a command that was mistaken must not stand in the way of the right one.
    if processes.first:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NOTE).write_text(json.dumps(note_of(recipe, source), indent=2) + "\n")
    try:
        took = run_trainer(loss, segments, schedule, folder, say, spread, processes)
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"the memory of {processes.device} ran out: read fewer documents side by side "
            "(--lanes), or fewer at once (train.batch in a recipe)."
        ) from error
    model.net.requires_grad_(False)
    facts = _facts(recipe, source, took, documents, about, head, processes)
    if not processes.first:
        return facts
    if head is None:
        _save_model(model, folder)
        heldout = Path(about.get("folder", "")) / "heldout.jsonl"
        if heldout.is_file():
            saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
            facts["heldout"] = evaluate_heldout(
                saved, words_of(model).backend_tokenizer, heldout, str(model.device)
            )
    else:
        _weights(recipe, name, slow, model, identity, head, facts).save(folder / WEIGHTS)
    (folder / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    took_time = "" if took.seconds is None else f" in {took.seconds:.1f} s"
    say(f"{took.tokens:,} tokens{took_time}; everything is in {folder}.")
    say(how_to_use(cls, recipe, folder))
    return facts


def _kept(
    hidden: Path,
    name: str,
    model: LanguageModel,
    head: Any,
    frozen: bool,
    segments: LaneSegments,
    say: Say,
) -> KeptHidden:
    """Where the hidden states of a training are kept."""
    if not (frozen and isinstance(head, Head)):
        raise UsageError(
            f"--hidden keeps what a frozen body gives to a head, and this training of {name} "
            "changes what its body gives; leave the option out."
        )
    kept = KeptHidden(hidden, model, segments)
    missing = binary(kept.missing_bytes, 30)
    say(f"hidden states are kept in {kept.folder}; at most {missing} GiB are still to be added")
    return kept


def silence(line: str) -> None:
    """Says nothing, as processes other than the first do."""


def fresh(model: LanguageModel) -> LanguageModel:
    """A model of the same shape with weights that were never trained."""
    device = model.device
    net = AutoModelForCausalLM.from_config(model.net.config, dtype=torch.float32)
    return LanguageModel(net.to(device), model.tokenizer, model.name, model.provenance)


def words_of(model: LanguageModel) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that was loaded by its name: it has one."""
    assert model.tokenizer is not None
    return model.tokenizer


def training_texts(
    recipe: Recipe, folder: Path, model: LanguageModel, say: Say, prepared: Path | None
) -> tuple[TokenArray, dict[str, Any]]:
    """The documents, and what the facts say of them; `folder` is where a corpus is prepared."""
    tokenizer = words_of(model)
    prefix = prefix_id("auto", tokenizer, model.readable_ids)
    if prefix is None:
        raise UsageError(f"the tokenizer of {model.name} has neither BOS nor EOS to begin with.")
    if prepared is None and recipe.corpus is not None:
        prepared = prepare(recipe.corpus, folder, tokenizer.backend_tokenizer, prefix, say)
    if prepared is not None:
        documents, summary = load_prepared(prepared)
        return documents, {"folder": str(prepared), "prepared": summary}
    from tta_bench.documents.sources import load_documents

    say(f"tokenising {recipe.dataset}")
    texts = (("", document.text) for document in load_documents(recipe.dataset))
    documents, _ = encode(tokenizer.backend_tokenizer, texts, prefix)
    return documents, {"dataset": recipe.dataset}


def _facts(
    recipe: Recipe,
    source: str,
    took: Trained,
    documents: TokenArray,
    texts: dict[str, Any],
    head: Any,
    processes: Processes,
) -> dict[str, Any]:
    on_gpu = processes.device.type == "cuda"
    return {
        "name": recipe.name,
        "recipe": recipe.to_dict(),
        SOURCE: source,
        "training": {
            **dataclasses.asdict(took),
            "tokens_per_second": took.tokens_per_second,
            "passes": took.tokens / documents.tokens,
            "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
            "devices": processes.count,
            "rates": rates_of(head),
        },
        "texts": {key: value for key, value in texts.items() if key != "folder"},
        "versions": {
            "tta_bench": __version__,
            "commit": checkout_state()["commit"],
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _weights(
    recipe: Recipe,
    name: str,
    slow: Any,
    model: LanguageModel,
    identity: dict[str, Any],
    head: torch.nn.Module,
    facts: dict[str, Any],
) -> SlowWeights:
    narrow = {key: value.to(torch.bfloat16) for key, value in head.state_dict().items()}
    body = {}
    if recipe.body != "frozen":
        body = {key: value.to(torch.bfloat16) for key, value in model.net.named_parameters()}
    told = {key: facts[key] for key in ("name", "recipe", SOURCE, "training", "versions")}
    return SlowWeights(
        method=name,
        options=jsonable(slow),
        trained_body=recipe.body,  # type: ignore[arg-type]
        base={"name": recipe.base, "identity": identity},
        facts=told,
        tensors=narrow,
        body=body,
    )


def _save_model(model: LanguageModel, folder: Path) -> None:
    """In bfloat16, as a folder that `--model` takes."""
    net: Any = model.net
    net.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it ships: others must be able to read it
    (folder / "generation_config.json").unlink(missing_ok=True)  # it repeats config.json
    words_of(model).save_pretrained(folder)
