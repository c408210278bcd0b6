"""Adapters of PEFT: where one is and which base it belongs to, and the base with the adapter on."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tta_bench.errors import ModelError
from tta_bench.extras import require
from tta_bench.model.acceptance.weights import listed
from tta_bench.model.hub_files import hub_commit, hub_file
from tta_bench.model.locate import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NO_PICKLES, Location, locate
from tta_bench.model.sources import MODEL_ALIASES
from tta_bench.model.tokenizer import has_tokenizer

if TYPE_CHECKING:
    from tta_bench.model.loading import Loading

Standing = Literal["merged", "beside"]
"""Whether an adapter is added into the weights of its base, or kept as modules beside them."""

_BASE = "base_model_name_or_path"
_NAME = "default"
"""The name under which PEFT keeps the one adapter of a model."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that was found.

    Attributes:
        spec: the adapter as the user named it.
        source: the files as they were named, a folder or a repository of the hub.
        folder: the folder that holds its files, of a repository the one that keeps its copies.
        commit: that of the hub; None for a local folder.
        kind: the kind of adapter, by PEFT's word for it, such as `LORA`.
        base_name: what its base is called in sentences.
        base: the files of its base.
    """

    spec: str
    source: Location
    folder: Path
    commit: str | None
    kind: str
    base_name: str
    base: Location

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer lies beside the adapter, as trainers leave it there."""
        if self.commit is None:
            return has_tokenizer(self.folder)
        return hub_file(self.source, "tokenizer.json") is not None

    def standing(self, loading: Loading) -> Standing:
        """Where it stands, once `auto` is decided."""
        if loading.adapter == "beside" or (loading.adapter == "auto" and loading.load_in):
            return "beside"
        return "merged"

    def provenance(self, loading: Loading, base: dict[str, Any]) -> dict[str, Any]:
        """What the manifest records: the adapter's own files, and under `base` its base.

        Args:
            loading: how the model is loaded.
            base: what the manifest would record of the base alone.
        """
        own = self.source.provenance(self.commit)
        standing = self.standing(loading)
        return {**own, "adapter": standing, "adapter_kind": self.kind, "base": base}

    def put_on(self, net: Any, loading: Loading) -> Any:
        """The base with the adapter: the same module, or what PEFT puts in its place.

        Args:
            net: the base as transformers loaded it.
            loading: whether the adapter is merged.

        Raises:
            UsageError: the package peft is missing.
            ModelError: the adapter does not fit the base, or is of a kind that has no place here.
        """
        with self._explained(), _silence():
            tuned = self._attached(net)
            found = tuned.load_adapter(str(self.folder), _NAME)
            if found.unexpected_keys:
                raise self._misfit(f"there is no place for {listed(sorted(found.unexpected_keys))}")
            if found.missing_keys:
                raise self._misfit(f"it lacks {listed(sorted(found.missing_keys))}")
            if self.standing(loading) == "beside":
                return tuned.base_model.model.eval()
            return self._merged(tuned)

    def shape_on(self, net: Any, loading: Loading) -> Any:
        """As `put_on` for a base without the values of its weights: no file is read."""
        if self.standing(loading) == "merged":
            return net
        with self._explained(), _silence():
            return self._attached(net).base_model.model.eval()

    def _attached(self, net: Any) -> Any:
        """PEFT's model around the base, with fresh values in the adapter."""
        require("peft", extra="peft", what="an adapter")
        from peft import PeftConfig, PeftModel

        config = PeftConfig.from_pretrained(str(self.folder))
        if config.is_prompt_learning:
            raise ModelError(
                f"{self.spec} is an adapter of kind {self.kind}, which puts tokens of its own into "
                "the context and changes no weight; only adapters of weights, such as LoRA, are "
                "read."
            )
        config.inference_mode = True
        return PeftModel(net, config)

    def _merged(self, tuned: Any) -> Any:
        try:
            return tuned.merge_and_unload().eval()
        except (NotImplementedError, AttributeError) as error:
            raise ModelError(
                f"{self.spec} is an adapter of kind {self.kind}, which PEFT cannot merge; use "
                "--adapter beside."
            ) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what PEFT raises over an adapter that belongs elsewhere into a ModelError."""
        try:
            yield
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            if "out of memory" in str(error).lower():
                raise
            lines = [line.strip().rstrip(".") for line in str(error).strip().split("\n")]
            # The first line of PyTorch's says what it was doing, the second what is wrong.
            raise self._misfit(lines[min(1, len(lines) - 1)]) from error

    def _misfit(self, problem: str) -> ModelError:
        return ModelError(
            f"the adapter {self.spec} does not fit {self.base_name}: {problem}; name its own base "
            f"in {_BASE} of its {ADAPTER_CONFIG}."
        )


def find_adapter(location: Location, spec: str) -> Adapter | None:
    """The adapter that a location holds, with its base; None if it holds a model or nothing.

    Args:
        location: what `--model` names.
        spec: the model as the user named it.

    Raises:
        ModelError: there are files of an adapter that cannot be read as one, or its base is not
            here; the sentence says what to do.
        OSError: the hub has no such repository.
    """
    if location.gguf is not None:
        return None
    folder = _folder_of(location, spec)
    if folder is None:
        return None
    config = _config(folder, spec)
    base = _base_spec(config, folder, spec)
    name = f"{config[_BASE]} (the base of {spec})"
    try:
        found = locate(MODEL_ALIASES.get(base, base), name)
        its_own = None if found.gguf else _folder_of(found, name)
    except ModelError as error:
        raise ModelError(
            f"{spec} is an adapter, and {_BASE} of its {ADAPTER_CONFIG} names no model that can be "
            f"had: {error}"
        ) from error
    if its_own is not None:
        raise ModelError(
            f"{name} is an adapter itself: merge it into its own base (merge_and_unload of PEFT)."
        )
    kind = str(config["peft_type"])
    commit = None if folder == Path(location.path) else hub_commit(location, ADAPTER_CONFIG)
    return Adapter(spec, location, folder, commit, kind, name, found)


def _folder_of(location: Location, spec: str) -> Path | None:
    """The folder with the files of an adapter; None where there are none."""
    folder = Path(location.path)
    if folder.is_dir():
        there = {name for name in os.listdir(folder) if name.startswith("adapter_")}
        weights = {ADAPTER_WEIGHTS, "adapter_model.bin"} & there
        if not weights and ADAPTER_CONFIG not in there:
            return None
        _refuse(folder, spec, weights, (folder / "config.json").is_file())
        return folder
    from transformers.utils import find_adapter_config_file

    config = find_adapter_config_file(location.path, **location.options)
    if config is None:
        return None
    weights = {ADAPTER_WEIGHTS} if hub_file(location, ADAPTER_WEIGHTS) else set()
    _refuse(Path(config).parent, spec, weights, hub_file(location, "config.json") is not None)
    return Path(config).parent


def _refuse(folder: Path, spec: str, weights: set[str], whole: bool) -> None:
    """Raises ModelError for files of an adapter that are no adapter by themselves."""
    if whole:
        raise ModelError(
            f"{spec} holds both a model (config.json) and an adapter, and it is not said which is "
            "meant: put the adapter into a folder of its own."
        )
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{spec} has the weights of an adapter ({min(weights)}) and no {ADAPTER_CONFIG}, which "
            "names its base: bring it, too."
        )
    if weights and ADAPTER_WEIGHTS not in weights:
        raise ModelError(f"{spec} is an adapter with its weights in {min(weights)}: {NO_PICKLES}")
    if not weights:
        raise ModelError(f"{spec} has an {ADAPTER_CONFIG} and no {ADAPTER_WEIGHTS}: bring it, too.")


def _config(folder: Path, spec: str) -> dict[str, Any]:
    """What `adapter_config.json` says; it names a base."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{ADAPTER_CONFIG} of {spec} cannot be read: {error}.") from error
    if not isinstance(config, dict) or not config.get("peft_type"):
        raise ModelError(f"{ADAPTER_CONFIG} of {spec} is none of PEFT: it names no peft_type.")
    if not isinstance(config.get(_BASE), str) or not config[_BASE]:
        raise ModelError(
            f"the adapter {spec} names no base: write it into {_BASE} of its {ADAPTER_CONFIG}."
        )
    return config


def _base_spec(config: dict[str, Any], folder: Path, spec: str) -> str:
    """The base, as `--model` takes it; a path may be relative to the adapter's folder."""
    base: str = config[_BASE]
    if base.startswith("config:"):
        raise ModelError(f"the base of {spec} is {base}, which has random weights.")
    beside = folder / os.path.expanduser(base)
    if os.path.isdir(beside) or (base.endswith(".gguf") and os.path.isfile(beside)):
        return str(beside)
    revision = config.get("revision")
    hub = "/" in base and not base.startswith((".", "/", "~")) and not os.path.isdir(base)
    return f"{base}@{revision}" if hub and revision and "@" not in base else base


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps the warnings of PEFT, which are for those who train, out of the output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
