"""The YAML recipe of a training: which method on which base, which texts, which schedule.

It is stored with what it makes. Both stages read it, so this file imports nothing that only one of
them needs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tta_bench.convert import Converter, Place
from tta_bench.errors import UsageError
from tta_bench.yaml_file import read_yaml

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
    reconstruction: bool = False  # each window is followed by a slice of what was written so far
    learning_rate: float = 3e-3
    rate_factor: float = 10.0  # on it, for step sizes and half-lives, which are logarithms
    warmup_steps: int = 100  # at most: after a quarter of the budget the rate has risen
    weight_decay: float = 0.1
    adam_beta2: float = 0.95
    clip: float = 1.0
    log_every: int = 50  # steps; a tenth of all if that is less
    checkpoint_every: int = 500
    compile: bool = True  # on CUDA only: on a CPU it costs more than it earns
    workers: int = 4  # processes that cut segments, on CUDA
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "lanes", "segment", "chunk", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.windows or min(self.windows) < 1:
            raise ValueError("windows must be one or several numbers of at least 1.")
        for name in ("minutes", "batch", "warmup_steps", "weight_decay", "clip", "workers"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        for name in ("learning_rate", "rate_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")


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
            raise ValueError(f"body must be one of {', '.join(BODIES)}, not {self.body!r}.")
        if bool(self.dataset) == (self.corpus is not None):
            raise ValueError("a training needs either a dataset (--dataset) or a recipe's corpus.")

    def to_dict(self) -> dict[str, Any]:
        """As it is stored with what it made; the corpus by its hash."""
        values = dataclasses.asdict(self)
        values["corpus"] = None if self.corpus is None else self.corpus.digest
        return json.loads(json.dumps(values, default=str))


def recipe_files(paths: Sequence[Path]) -> list[Path]:
    """The recipes that these paths name; of a folder those in it, by name.

    Raises:
        UsageError: a folder holds none.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"the folder {path} holds no recipe, a file NAME.yaml.")
        files += found
    return files


def load_recipe(path: Path, **changes: Any) -> Recipe:
    """The recipe of a file, with what the command line says on top.

    Args:
        changes: fields of `Recipe`, and of `Schedule`, that replace the file's; None changes
            nothing.

    Raises:
        UsageError: it cannot be read, or has an unknown key or an impossible value.
    """
    raw, convert = _read(path)
    corpus = raw.pop("corpus", None)
    corpus_convert = convert
    if isinstance(corpus, str):  # recipes on the same texts name one file that lists them
        listed, corpus_convert = _read(path.parent / corpus)
        corpus = listed.get("corpus")
    values = {"name": path.stem, **raw}
    if corpus is not None:
        values["corpus"] = _corpus(corpus, path.resolve().parent, corpus_convert)
    return make_recipe(values, changes, convert)


def make_recipe(
    values: Mapping[str, Any], changes: Mapping[str, Any], convert: Converter
) -> Recipe:
    """A recipe from a mapping and changes; see `load_recipe`."""
    given = {key: value for key, value in changes.items() if value is not None}
    schedule = {f.name for f in dataclasses.fields(Schedule)}
    whole = {**values, **{k: v for k, v in given.items() if k not in schedule}}
    if given.get("dataset"):
        whole["corpus"] = None
    recipe = convert.make(Recipe, whole)
    train = {k: v for k, v in given.items() if k in schedule}
    try:
        return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **train))
    except ValueError as error:
        raise UsageError(f"the command line: {error}") from error


def _read(path: Path) -> tuple[dict[str, Any], Converter]:
    """What a recipe's file says, without its `x-` keys, and the converter that knows its lines."""
    if not path.is_file():
        raise UsageError(f"there is no recipe {path}.")
    what = f"the recipe {path}"
    raw, lines = read_yaml(path, what)
    values = {key: value for key, value in raw.items() if not str(key).startswith("x-")}
    return values, Converter(what, line=lines)


def _corpus(raw: Any, base: Path, convert: Converter) -> Corpus:
    at: Place = ("corpus",)
    if not isinstance(raw, dict):
        raise convert.error(
            at, "corpus must be a mapping with the key domains, or a recipe's name."
        )
    values = dict(raw)
    domains = values.pop("domains", None) or {}
    if not isinstance(domains, dict):
        raise convert.error((*at, "domains"), "'domains' must be a mapping of lists of sources.")
    sources = [
        source
        for domain, entries in domains.items()
        for source in _sources(str(domain), entries, (*at, "domains", domain), convert)
    ]
    if not sources:
        raise convert.error(at, "the corpus lists no sources under domains.")
    return convert.make(Corpus, {**values, "sources": sources, "base": base}, at)


def _sources(domain: str, entries: Any, at: Place, convert: Converter) -> Iterator[Source]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise convert.error(at, f"'{domain}' must be a list of sources, each a mapping.")
    for index, entry in enumerate(entries):
        source = convert.make(Source, {"domain": domain, **entry}, (*at, index))
        if bool(source.package) == bool(source.folder):
            raise convert.error((*at, index), "a source needs either a package or a folder.")
        yield source
