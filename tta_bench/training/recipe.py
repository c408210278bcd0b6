"""The YAML recipe of a training: which method on which base, which texts, which schedule.

It is stored with what it makes. Both stages read it, so this file imports nothing that only one of
them needs.
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

BODIES = {
    "frozen": "the base's body stays as it is",
    "joint": "the base's body is trained, too",
    "scratch": "a body of the base's shape is trained from fresh weights",
}


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
class Corpus:
    """Texts from packages: which ones, and what is kept of them."""

    sources: tuple[Source, ...]
    heldout_fraction: float = 0.015  # by file: decided by a hash of the file's name
    heldout_files: tuple[str, ...] = ()  # patterns of `package/path` held out whatever the hash
    min_document_chars: int = 400
    max_document_chars: int = 8_000_000
    base: Path = Path()  # folder of the recipe: local sources are relative to it

    @property
    def digest(self) -> str:
        """Changes when the prepared folder would."""
        values = dataclasses.asdict(dataclasses.replace(self, base=Path()))
        text = json.dumps(values, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Schedule:
    """How it is trained. The learning rate falls to zero with the share of the budget used, in
    steps or in minutes, whichever is further; only steps alone can be repeated bit for bit.
    """

    steps: int = 1000
    minutes: float = 0.0  # of training, compiling not counted; 0: as long as the steps take
    lanes: int = 32  # documents read side by side, over all processes
    batch: int = 0  # lanes in one forward pass of one process; 0: all of them
    segment: int = 2048  # tokens of each lane in a step
    windows: tuple[int, ...] = (256,)  # that the body reads at once; lanes take them in turn
    chunk: int = 256  # of the method's updates while training; no result depends on it
    learning_rate: float = 3e-3
    rate_factor: float = 10.0  # on it, for step sizes and half-lives, which are logarithms
    warmup_steps: int = 100
    weight_decay: float = 0.1
    adam_beta2: float = 0.95
    clip: float = 1.0
    log_every: int = 50
    checkpoint_every: int = 500
    compile: bool = True  # on CUDA only: on a CPU it costs more than it earns
    workers: int = 4  # processes that cut segments, on CUDA
    seed: int = 1


@dataclass(frozen=True)
class Recipe:
    """A training, whole."""

    name: str
    method: str = "none"  # as `tta-bench train` takes it: NAME:key=value,...
    base: str = "builtin:tiny"
    body: str = "frozen"
    dataset: str = ""  # as `tta-bench eval --dataset` takes it, or a corpus
    corpus: Corpus | None = None
    train: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if self.body not in BODIES:
            raise UsageError(f"body must be one of {', '.join(BODIES)}, not {self.body!r}.")
        if bool(self.dataset) == (self.corpus is not None):
            raise UsageError("a training needs either a dataset (--dataset) or a recipe's corpus.")

    def to_dict(self) -> dict[str, Any]:
        """As it is stored with what it made; the corpus by its hash."""
        values = dataclasses.asdict(self)
        values["corpus"] = None if self.corpus is None else self.corpus.digest
        return json.loads(json.dumps(values, default=str))


def load_recipe(path: Path, **changes: Any) -> Recipe:
    """The recipe of a file, with what the command line says on top.

    Args:
        changes: fields of `Recipe`, and of `Schedule`, that replace the file's; None changes
            nothing.

    Raises:
        UsageError: it cannot be read, or has an unknown key or an impossible value.
    """
    raw = _read(path)
    corpus = raw.pop("corpus", None)
    if isinstance(corpus, str):  # recipes on the same texts name one file that lists them
        corpus = _read(path.parent / corpus).get("corpus")
    values = {"name": path.stem, **raw}
    if corpus is not None:
        values["corpus"] = _corpus(corpus, path.resolve().parent)
    return make_recipe(values, changes, str(path))


def make_recipe(values: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from a mapping and changes; see `load_recipe`."""
    given = {key: value for key, value in changes.items() if value is not None}
    schedule = {f.name for f in dataclasses.fields(Schedule)}
    train = {**(values.get("train") or {}), **{k: v for k, v in given.items() if k in schedule}}
    whole = {**values, **{k: v for k, v in given.items() if k not in schedule}}
    if given.get("dataset"):
        whole["corpus"] = None
    whole["train"] = _build(Schedule, train, f"{where}: train")
    return _build(Recipe, whole, where)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no recipe {str(path)!r}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"The recipe {str(path)!r} cannot be read: {reason}.") from error
    if not isinstance(raw, dict):
        raise UsageError(f"The recipe {str(path)!r} must be a mapping of keys such as method.")
    return {key: value for key, value in raw.items() if not str(key).startswith("x-")}


def _corpus(raw: Any, base: Path) -> Corpus:
    if not isinstance(raw, dict):
        raise UsageError("a corpus is a mapping with the key domains, or the name of a recipe.")
    values = dict(raw)
    sources = []
    for domain, entries in (values.pop("domains", None) or {}).items():
        for entry in entries:
            source = _build(Source, {"domain": domain, **entry}, f"corpus.domains.{domain}")
            if bool(source.package) == bool(source.folder):
                raise UsageError(
                    f"Each source in corpus.domains.{domain} needs either a package or a folder."
                )
            sources.append(source)
    if not sources:
        raise UsageError("The corpus lists no sources under corpus.domains.")
    return _build(Corpus, {**values, "sources": sources, "base": base}, "corpus")


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
        kind = str(fields[key].type)
        cast = tuple if kind.startswith("tuple") else casts.get(kind, lambda same: same)
        try:
            built[key] = cast(value)
        except (TypeError, ValueError):
            raise UsageError(f"{where}.{key} cannot be {value!r}.") from None
    return cls(**built)
