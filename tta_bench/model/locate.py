"""From `--model SPEC` to the files of a model: a folder, a GGUF file, or a name of the hub."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tta_bench.errors import ModelError, UsageError
from tta_bench.fetch.network import host_answers
from tta_bench.fetch.packages import fetch_package
from tta_bench.files import file_sha256, file_stamp
from tta_bench.model.sources import MODEL_ALIASES, MODEL_SOURCES

NO_PICKLES = (
    "weights are read from safetensors or GGUF only, because loading a pickle can run code; "
    "convert them, or choose a revision with safetensors."
)
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, as PEFT names them."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Location:
    """The files of one model.

    Attributes:
        source: kind of the source, as the manifest records it: `builtin`, `pypi`, `gguf`, `folder`
            or `hub`.
        path: the folder, or the id of a repository of the hub.
        options: arguments that make `from_pretrained` find the model there.
    """

    source: str
    path: str
    options: dict[str, Any]

    @property
    def gguf(self) -> Path | None:
        """The GGUF file; None if the weights are in safetensors."""
        name = self.options.get("gguf_file")
        return None if name is None else Path(self.path) / name

    @property
    def files(self) -> list[Path]:
        """The local files that decide what is loaded; none for a model of the hub."""
        if self.gguf is not None:
            return [self.gguf]
        folder = Path(self.path)
        if not folder.is_dir():
            return []
        if (folder / ADAPTER_CONFIG).is_file():
            return [folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS]
        # .bin files are never loaded, but the keys of stored runs include their hashes.
        weights = [f for end in ("safetensors", "bin") for f in folder.glob(f"*.{end}")]
        return [folder / "config.json", *sorted(weights)]

    def provenance(self, commit: str | None) -> dict[str, Any]:
        """What the manifest records: the source, and hashes of local files or the hub's commit.

        Args:
            commit: that of the hub from which files were read; None where none is known.
        """
        if self.gguf is not None:
            found: dict[str, Any] = {"file": self.gguf.name, "sha256": file_sha256(self.gguf)}
        elif self.files:
            found = {"sha256": {file.name: file_sha256(file) for file in self.files}}
        else:
            found = {
                "revision": self.options.get("revision", "main"),
                "commit": commit,
            }
        return {"source": self.source, **found}

    @contextmanager
    def held(self, spec: str) -> Iterator[None]:
        """Makes sure that what is hashed and loaded inside the block is the same.

        Args:
            spec: the model as the user named it.

        Raises:
            ModelError: a local file was changed in the meantime.
        """
        before = self._stamps()
        yield
        if self._stamps() != before:
            raise ModelError(
                f"{spec} was changed while it was being loaded: run the command again."
            )

    def _stamps(self) -> dict[Path, tuple[int, ...] | None]:
        return {file: file_stamp(file) if file.is_file() else None for file in self.files}


def locate(resolved: str, spec: str) -> Location:
    """Finds a model; packages are fetched, files of the hub are not.

    Args:
        resolved: the spec with its alias replaced; `config:` is not a place.
        spec: the model as the user named it.

    Raises:
        ModelError: there is no such model; the message says what to do.
    """
    resolved = os.path.expanduser(resolved)
    source = resolved.split(":")[0] if ":" in resolved else "hub"
    if resolved.startswith("builtin:"):
        return Location(source, str(built_in_folder(resolved.removeprefix("builtin:"))), {})
    if resolved.startswith("pypi:"):
        return _gguf_location(source, _gguf_of_package(resolved))
    if resolved.endswith(".gguf"):
        file = Path(resolved)
        if not os.path.isfile(file):  # unlike Path.is_file, it accepts any text as a name
            raise ModelError(f"there is no GGUF file {resolved}.")
        return _gguf_location("gguf", file)
    if os.path.isdir(resolved):
        _refuse_pickles(resolved, spec)
        return Location("folder", resolved, {})
    name, _, revision = resolved.partition("@")
    _check_hub_id(name, spec)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    # If the library knows that it is offline, it answers at once: from its cache or with an error.
    options["local_files_only"] = not _hub_answers()
    return Location(source, name, options)


def at_revision(spec: str, revision: str | None) -> str:
    """A model of the hub at a revision, NAME@REVISION; the spec itself where none is asked for.

    Raises:
        UsageError: it is no model of the hub, or names another revision already.
        ModelError: there is no such folder.
    """
    if revision is None:
        return spec
    resolved = os.path.expanduser(MODEL_ALIASES.get(spec, spec))
    if ":" in resolved or resolved.endswith(".gguf") or os.path.isdir(resolved):
        raise UsageError(
            f"--revision is for models of the Hugging Face Hub, and {spec} is none; leave it out."
        )
    name, _, own = spec.partition("@")
    _check_hub_id(name, spec)
    if own not in ("", revision):
        raise UsageError(f"{spec} names a revision of its own; leave out --revision {revision}.")
    return f"{name}@{revision}"


def built_in_folder(name: str) -> Path:
    """The folder of `builtin:NAME`.

    Raises:
        ModelError: there is no built-in model of that name.
    """
    folder = Path(str(resources.files("tta_bench") / "data" / name))
    if not (folder / "config.json").is_file():
        known = sorted(file.parent.name for file in folder.parent.glob("*/config.json"))
        names = ", ".join(f"builtin:{other}" for other in known)
        raise ModelError(f"there is no built-in model '{name}'; choose from {names}.")
    return folder


def _gguf_location(source: str, file: Path) -> Location:
    return Location(source, str(file.parent), {"gguf_file": file.name})


def _gguf_of_package(spec: str) -> Path:
    files = sorted(fetch_package(spec).rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError(
            f"{spec} contains {len(files)} GGUF files; a model package contains exactly one."
        )
    return files[0]


def _refuse_pickles(folder: str, spec: str) -> None:
    names = sorted(os.listdir(folder))
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise ModelError(f"{spec} has its weights in {pickles[0]}: {NO_PICKLES}")


def _check_hub_id(name: str, spec: str) -> None:
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return
    if "/" in name or name.startswith((".", "~")):
        raise ModelError(f"there is no model folder {spec}.")
    known = [*MODEL_ALIASES, *(form for form, _ in MODEL_SOURCES if form.islower())]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        raise ModelError(f"there is no model '{spec}'; did you mean '{near[0]}'?")


def _hub_answers() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and host_answers(constants.ENDPOINT)
