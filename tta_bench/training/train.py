"""`tta-bench train`: a recipe's method on its base and texts, to a file of slow weights."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, set_seed

import tta_bench
from tta_bench.contract.registry import load
from tta_bench.contract.source import source_hash
from tta_bench.contract.spec import build, split_spec
from tta_bench.errors import MethodError, UsageError
from tta_bench.heads import BodyModule, Head, SlowWeights
from tta_bench.heads.slow_weights import base_identity
from tta_bench.model.attention import use_causal_attention
from tta_bench.model.language_model import LanguageModel
from tta_bench.model.load import load_model
from tta_bench.model.prefix import prefix_id
from tta_bench.store.environment import checkout_state
from tta_bench.store.jsonable import jsonable
from tta_bench.training.heldout import evaluate_heldout
from tta_bench.training.log import rates_of
from tta_bench.training.loss import SegmentLoss
from tta_bench.training.prepare import encode, load_prepared, prepare
from tta_bench.training.recipe import Recipe
from tta_bench.training.streams import LaneSegments, TokenArray
from tta_bench.training.trainer import Trained, has_checkpoint, run_trainer

Say = Callable[[str], None]
WEIGHTS = "weights.safetensors"
FACTS = "training.json"
NOTE = "recipe.json"
SOURCE = "source_sha256"


def train(
    recipe: Recipe,
    folder: Path,
    device: str = "auto",
    say: Say = print,
    prepared: Path | None = None,
) -> dict[str, Any]:
    """Trains and saves. Returns what it took, which is also written to `training.json`.

    The same call again continues from the last checkpoint; if all is done it returns the facts.

    Args:
        recipe: what to train.
        folder: where log, checkpoints and weights go.
        device: `auto`, `cuda`, `mps` or `cpu`.
        say: called with each message for the user.
        prepared: folder of prepared texts, if they were made elsewhere.

    Raises:
        UsageError: the method cannot be trained this way, or `folder` holds the training of another
            recipe or of another source of the method.
        MethodError: the method has no slow weights, or they are no module of `tta_bench.heads`.
    """
    name, values = split_spec(recipe.method)
    cls = load(name)
    source = source_hash(cls)
    facts = finished(recipe, source, folder)
    if facts is not None:
        say(f"nothing to do: {folder} holds the finished training of this recipe.")
        return facts
    schedule = recipe.train
    set_seed(schedule.seed)
    slow = build(cls.Slow, values, name)
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what `cuda` means in this process
    frozen = recipe.body == "frozen"
    # A trained body keeps float32 weights; one that is only read may be as narrow as in evaluation.
    model = load_model(recipe.base, "auto" if frozen else "float32", device)
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
    model.net.requires_grad_(not frozen)
    documents, texts = training_texts(recipe, folder, model, say, prepared)
    segments = LaneSegments(
        documents,
        schedule.lanes,
        schedule.windows,
        schedule.segment,
        schedule.chunk,
        schedule.steps,
        schedule.seed,
    )
    say(
        f"{len(documents.starts) - 1:,} documents, {documents.tokens:,} tokens; "
        f"{segments.filled:.1%} of the slots are filled"
    )
    limit = f" or {schedule.minutes:g} minutes" if schedule.minutes else ""
    say(f"{segments.steps:,} steps{limit}, {segments.tokens_per_step:,.0f} tokens per step")
    loss = SegmentLoss(
        model,
        None if head is None else head.to(model.device),
        not frozen,
        schedule.windows,
        schedule.chunk,
        schedule.lanes,
        schedule.segment * segments.filled,
    )
    # Only now: a command that was mistaken must not stand in the way of the right one.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(json.dumps(_note(recipe, source), indent=2) + "\n")
    took = run_trainer(loss, segments, schedule, folder, say)
    model.net.requires_grad_(False)
    facts = _facts(recipe, source, took, documents, texts, head)
    if head is None:
        _save_model(model, folder)
        heldout = Path(texts.get("folder", "")) / "heldout.jsonl"
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
    return facts


def finished(recipe: Recipe, source: str, folder: Path) -> dict[str, Any] | None:
    """The facts of a finished training in `folder`, if there is one.

    Args:
        recipe: what is to be trained.
        source: hash of the method's source.
        folder: where the training would be.

    Raises:
        UsageError: the folder holds a training of another recipe or of another source.
    """
    note, done = folder / NOTE, folder / FACTS
    # What ended before its first checkpoint, such as a head that failed, holds nothing to keep.
    if note.is_file() and (done.is_file() or has_checkpoint(folder)):
        differences = _differences(json.loads(note.read_text()), _note(recipe, source))
        if differences:
            raise UsageError(
                f"{folder} holds another training ({'; '.join(differences)}); give another "
                "--output or delete it."
            )
    return json.loads(done.read_text()) if done.is_file() else None


def _note(recipe: Recipe, source: str) -> dict[str, Any]:
    """What makes two trainings the same."""
    return {**recipe.to_dict(), SOURCE: source}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two notes, each such as `steps: 12, now 20`."""
    was, now = ({**note, **note["train"]} for note in (old, new))
    keys = [key for key in {**was, **now} if key != "train" and was.get(key) != now.get(key)]
    return [
        f"the source of {new['method'].split(':')[0]} has changed"
        if key == SOURCE
        else f"{key}: {was.get(key)}, now {now.get(key)}"
        for key in keys
    ]


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
    """The documents, and what the facts say of them."""
    tokenizer = words_of(model)
    prefix = prefix_id("auto", tokenizer, model.vocab_size)
    if prefix is None:
        raise UsageError(f"the tokenizer of {model.name} has neither BOS nor EOS to begin with.")
    if prepared is None and recipe.corpus is not None:
        prepared = prepare(
            recipe.corpus, folder / "prepared", tokenizer.backend_tokenizer, prefix, say
        )
    if prepared is not None:
        summary = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))
        return load_prepared(prepared), {"folder": str(prepared), "prepared": summary}
    from tta_bench.documents.sources import load_documents

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
) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    return {
        "name": recipe.name,
        "recipe": recipe.to_dict(),
        SOURCE: source,
        "training": {
            **dataclasses.asdict(took),
            "tokens_per_second": took.tokens_per_second,
            "passes": took.tokens / documents.tokens,
            "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
            "rates": rates_of(head),
        },
        "texts": {key: value for key, value in texts.items() if key != "folder"},
        "versions": {
            "tta_bench": tta_bench.__version__,
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
