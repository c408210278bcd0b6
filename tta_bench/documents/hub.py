"""Datasets of the Hugging Face Hub and local folders in its layout, streamed with `datasets`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta_bench.documents.document import Document
from tta_bench.documents.mirror import under_plain_name
from tta_bench.documents.rows import Row, row_documents
from tta_bench.documents.textfile import readable_sha256
from tta_bench.errors import DocumentError, UnreachableError
from tta_bench.fetch.network import host_answers

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DEFAULT_SPLITS = ("test", "validation", "train")  # the first that the dataset has is read
# Exceptions of the standard library, requests and httpx, by name: which of these libraries is used
# depends on the version.
_NO_NETWORK = frozenset(("ConnectionError", "ConnectError", "TimeoutException", "TimeoutError"))


@dataclass(frozen=True)
class HubSource:
    """`ID[:CONFIG][:SPLIT]`, where ID is a dataset of the hub or a local folder."""

    id: str
    config: str | None
    split: str | None
    text_column: str | None

    @property
    def name(self) -> str:
        return ":".join([self.id, *(part for part in (self.config, self.split) if part)])

    def documents(self) -> Iterator[Document]:
        with ExitStack() as stack:
            stack.enter_context(_explained(self.name, local=_is_folder(self.id)))
            id_ = self.id
            if _is_folder(id_):
                id_ = str(stack.enter_context(under_plain_name(Path(id_))))
            split, rows = self._open(id_)
            yield from row_documents(self._rows(rows), self.name, split, self.text_column)

    def identity(self) -> list[Any]:
        """The contents of a local folder, or just the name of a dataset of the hub."""
        folder = Path(self.id)
        if not _is_folder(self.id):
            return [self.id, self.config, self.split]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents = [[path.relative_to(folder).as_posix(), readable_sha256(path)] for path in files]
        return [contents, self.config, self.split]

    def _open(self, id_: str) -> tuple[str, Any]:
        """The name of the split and its rows."""
        splits, wanted = self._splits(id_)
        if wanted is None and len(splits) == 1:
            wanted = next(iter(splits))
        elif wanted is None:
            wanted = next((name for name in _DEFAULT_SPLITS if name in splits), None)
        if wanted not in splits:
            raise DocumentError(
                f"{self.name} names no split of the dataset: "
                f"write ID:CONFIG:SPLIT with one of {', '.join(map(str, splits))}."
            )
        return str(wanted), splits[wanted]

    def _splits(self, id_: str) -> tuple[Any, str | None]:
        """All splits and the name of the one asked for; `ID:NAME` may name a config or a split."""
        try:
            return _load_splits(id_, self.config), self.split
        except ValueError as error:
            if self.config is None or self.split is not None or "BuilderConfig" not in str(error):
                raise
            try:
                return _load_splits(id_, None), self.config
            except ValueError:
                raise error from None

    def _rows(self, rows: Any) -> Iterator[Row]:
        for number, row in enumerate(rows, 1):
            yield f"Row {number}", row


def parse_hub_spec(spec: str, text_column: str | None) -> HubSource | None:
    """Parses `ID[:CONFIG][:SPLIT]`; None if `ID` is neither a folder nor a possible dataset name.

    A folder's path may contain colons: the longest path that exists is the ID.
    """
    parts = spec.split(":")
    for stop in range(len(parts), 0, -1):
        id_ = ":".join(parts[:stop])
        rest = parts[stop:]
        if len(rest) <= 2 and (_is_folder(id_) or _HUB_ID.fullmatch(id_)):
            break
    else:
        return None
    if _is_folder(id_):
        id_ = str(Path(id_).expanduser())
    config, split = (*(part or None for part in rest), None, None)[:2]
    return HubSource(id_, config, split, text_column)


def _is_folder(name: str) -> bool:
    # Unlike Path, os.path accepts any text: names that are too long, or of unknown users.
    return os.path.isdir(os.path.expanduser(name))


def _load_splits(id_: str, config: str | None) -> Any:
    """All splits of a dataset as a mapping of streams; no rows are downloaded yet."""
    import datasets

    if (
        _is_folder(id_)
        or datasets.config.HF_HUB_OFFLINE
        or host_answers(datasets.config.HF_ENDPOINT)
    ):
        return datasets.load_dataset(id_, config, streaming=True)
    # Online, the library would retry for half a minute. Offline, it answers at once and still
    # finds datasets in its own cache.
    datasets.config.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(id_, config, streaming=True)
    finally:
        datasets.config.HF_HUB_OFFLINE = False


@contextmanager
def _explained(name: str, local: bool) -> Iterator[None]:
    """Turns what `datasets` and its dependencies raise into one sentence about the dataset."""
    try:
        yield
    except (DocumentError, GeneratorExit):
        raise
    except Exception as error:
        text = str(error).partition("Example of usage")[0]  # the example is Python code, not a spec
        reason = " ".join(text.split()).rstrip(".") or type(error).__name__
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError"}:
            raise UnreachableError(
                f"There is no dataset {name} on the Hugging Face Hub, or it is private",
                "check the id, or log in with `hf auth login`.",
            ) from error
        if kinds & _NO_NETWORK:
            raise UnreachableError(
                f"The dataset {name} is not on this machine and the Hugging Face Hub cannot be "
                "reached",
                "check the spelling and the network, or use a local file or folder, builtin:pydoc "
                "or builtin:stdlib.",
            ) from error
        if local:
            message = f"The dataset folder {name} cannot be read: {reason}."
        else:
            message = f"The dataset {name} cannot be loaded: {reason}."
        raise DocumentError(message) from error
