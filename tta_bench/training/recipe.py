"""The YAML recipe of a language model: which texts, which model, which schedule.

One recipe (``suites/train/tiny.yaml``) drives both stages, so this file imports nothing that only
one of them needs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tta_bench.errors import UsageError


@dataclass(frozen=True)
class Source:
    """Files of one package (``debian:``, ``npm:``, ``pypi:``) or of one local folder, relative to
    the recipe.
    """

    domain: str
    package: str = ""
    folder: str = ""
    include: tuple[str, ...] = ("*",)  # fnmatch patterns over the relative path; `*` crosses `/`
    exclude: tuple[str, ...] = ()
    max_mb: float = 1e9  # what one source may contribute, so that none drowns the others

    @property
    def name(self) -> str:
        return self.package or self.folder


@dataclass(frozen=True)
class Preparation:
    """Stage one: texts in, a tokenizer and a flat array of token ids out."""

    sources: tuple[Source, ...]
    vocab_size: int = 4096
    tokenizer_sample_mb: float = 40.0
    heldout_fraction: float = 0.015  # by file: decided by a hash of the file's name
    heldout_files: tuple[str, ...] = ()  # patterns of `package/path` held out whatever the hash
    min_document_chars: int = 400
    max_document_chars: int = 8_000_000


@dataclass(frozen=True)
class Schedule:
    """Stage two. The learning rate falls with the fraction of the budget used, in steps or in
    minutes, whichever is further.
    """

    max_minutes: float = 8.0  # the training loop; compiling and the held-out pass come on top
    max_steps: int = 20_000
    batch_size: int = 128  # windows of `model.max_position_embeddings` tokens
    accumulate: int = 1  # each step sums the gradients of this many batches
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    adam_beta2: float = 0.95
    clip: float = 1.0
    log_every: int = 50
    compile: bool = True  # on CUDA only: on a CPU it costs more than it earns
    workers: int = 4  # processes that cut windows
    seed: int = 1


@dataclass(frozen=True)
class Recipe:
    name: str
    prepare: Preparation
    model: dict[str, Any] = field(default_factory=dict)  # arguments of transformers.LlamaConfig
    train: Schedule = field(default_factory=Schedule)
    base: Path = Path()  # folder of the recipe: local sources are relative to it

    @property
    def prepare_hash(self) -> str:
        """Changes when the prepared folder would."""
        text = json.dumps(dataclasses.asdict(self.prepare), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipe(path: Path) -> Recipe:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no recipe {str(path)!r}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"The recipe {str(path)!r} cannot be read: {reason}.") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("prepare"), dict):
        raise UsageError(f"The recipe {str(path)!r} needs the sections prepare, model and train.")
    prepare = dict(raw["prepare"])
    sources = []
    for domain, entries in (prepare.pop("domains", None) or {}).items():
        for entry in entries:
            source = _build(Source, {"domain": domain, **entry}, f"prepare.domains.{domain}")
            if bool(source.package) == bool(source.folder):
                raise UsageError(
                    f"Each source in prepare.domains.{domain} needs either a package or a folder."
                )
            sources.append(source)
    if not sources:
        raise UsageError(f"The recipe {str(path)!r} lists no sources under prepare.domains.")
    return Recipe(
        name=str(raw.get("name", path.stem)),
        prepare=_build(Preparation, {**prepare, "sources": sources}, "prepare"),
        model=dict(raw.get("model") or {}),
        train=_build(Schedule, raw.get("train") or {}, "train"),
        base=path.resolve().parent,
    )


def _build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a mapping: numbers cast to the field's type, lists to tuples, unknown keys
    refused by name.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise UsageError(f"{where} has no key {key!r}; it knows {', '.join(fields)}.")
    casts = {"int": int, "float": float, "bool": bool, "str": str}
    built = {}
    for key, value in values.items():
        cast = casts.get(str(fields[key].type), tuple)
        try:
            built[key] = cast(value)
        except (TypeError, ValueError):
            raise UsageError(f"{where}.{key} cannot be {value!r}.") from None
    return cls(**built)
