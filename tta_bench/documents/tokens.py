"""Tokenised documents, cached in Arrow files that are mapped into memory."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.documents.cache import Totals, open_cache, read_row, write_cache
from tta_bench.documents.document import (
    Document,
    TokenizedDocument,
    count_bytes,
    count_words,
)
from tta_bench.documents.encode import Encoder
from tta_bench.documents.limits import Limits
from tta_bench.documents.planted import Planter, Planting, parse_planted
from tta_bench.documents.sequence import turns_of
from tta_bench.documents.source import Source
from tta_bench.documents.sources import open_source, read_documents
from tta_bench.documents.textfile import readable_sha256
from tta_bench.documents.truncate import truncate_at_character
from tta_bench.errors import DocumentError
from tta_bench.fetch.packages import cache_folder
from tta_bench.oracle.name import is_oracle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VERSION = 3  # of the path from a document to its tokens; a new version makes old caches unused


@dataclass(frozen=True)
class Options:
    """Which documents of a dataset are read, and how much of each."""

    text_column: str | None = None
    limit: int | None = None  # number of documents
    max_tokens: int | None = None  # per document, from its start
    min_tokens: int = 0  # shorter documents are left out and do not count towards limit
    join: str | None = None  # if given, all documents become one, with this text between them
    drop_final_newline: bool = (
        False  # drop one newline at the end of each text, as llama-perplexity does
    )
    parse_controls: bool = False  # control strings in a text become control tokens

    def __post_init__(self) -> None:
        Limits(self.limit, self.max_tokens, self.min_tokens)  # which checks them


class TokenizedDataset:
    """The documents of a dataset as token ids; only those being read are in memory.

    Attributes:
        spec: the dataset, as the user named it.
        notes: what the user should hear of texts, tokens and how they were had, a sentence each.
        vocabulary: the tokens that symbols of an `oracle:` stream are drawn from; None of texts.
    """

    def __init__(
        self,
        spec: str,
        rows: Any,
        totals: Totals,
        notes: Sequence[str] = (),
        vocabulary: int | None = None,
    ) -> None:
        self.spec = spec
        self.notes = tuple(notes)
        self.vocabulary = vocabulary
        self._rows = rows  # a datasets.Dataset that returns Arrow tables
        self._totals = totals

    @property
    def fingerprint(self) -> str:
        """Hash of the texts and token ids of all documents, in order."""
        return self._totals.fingerprint

    @property
    def total_tokens(self) -> int:
        return self._totals.tokens

    @property
    def total_words(self) -> int:
        """Words of all documents, parted by white space."""
        import pyarrow.compute as pc

        return int(pc.sum(self._rows.data.column("n_words")).as_py() or 0)

    @property
    def max_tokens_per_document(self) -> int:
        """Tokens in the longest document."""
        return self._totals.longest

    @property
    def lengths(self) -> NDArray[np.integer]:
        """[documents] Number of tokens in each document."""
        import pyarrow.compute as pc

        ids = self._rows.data.column("token_ids")
        lengths: NDArray[np.integer] = pc.list_value_length(ids).to_numpy()
        return lengths

    @property
    def largest_id(self) -> int:
        """The largest token id of all documents; -1 if they have no tokens."""
        import pyarrow.compute as pc

        chunks = self._rows.data.column("token_ids").chunks
        found = (pc.max(chunk.flatten()).as_py() for chunk in chunks)
        return max((value for value in found if value is not None), default=-1)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenizedDocument:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return read_row(self._rows, index % len(self))

    def __iter__(self) -> Iterator[TokenizedDocument]:
        return (self[index] for index in range(len(self)))


def tokenized(
    spec: str,
    tokenizer: Any,
    *,
    text_column: str | None = None,
    limit: int | None = None,
    max_tokens: int | None = None,
    min_tokens: int = 0,
    join: str | None = None,
    drop_final_newline: bool = False,
    parse_controls: bool = False,
    cache_dir: Path | None = None,
) -> TokenizedDataset:
    """The documents of a dataset, tokenised without special tokens and cached.

    Each text is tokenised as a whole and then truncated to `max_tokens`. A control string in a
    text, such as `<s>`, is text like any other unless `parse_controls` is set. The key of the cache
    is a hash of the documents' contents, the tokenizer and the options. A damaged cache is made
    again, and so is said in the `notes` of the result.

    Args:
        spec: a dataset, in one of the forms of `dataset_names()`.
        tokenizer: a tokenizer of transformers.
        text_column: the column that contains the text in tables; None to choose it.
        limit: number of documents to read; None for all.
        max_tokens: tokens to keep of each document; None for all.
        min_tokens: leave out documents with fewer tokens.
        join: text to put between the documents, which makes them one document; None for separate
            documents.
        drop_final_newline: drop one newline at the end of each text.
        parse_controls: read control strings in a text as control tokens.
        cache_dir: the folder of the cache; None for the default one.

    Raises:
        DocumentError: the dataset cannot be found, read or cached, or changed while it was read.
        UsageError: an option is out of range.
    """
    options = Options(
        text_column, limit, max_tokens, min_tokens, join, drop_final_newline, parse_controls
    )
    home = (cache_folder() if cache_dir is None else Path(cache_dir)) / "tokenized"
    if is_oracle(spec):
        from tta_bench.documents.oracle import OracleDocuments

        if join is not None:
            raise DocumentError(f"{spec} holds token ids, and this protocol joins texts.")
        drawn = OracleDocuments(spec, tokenizer, Limits(limit, max_tokens, min_tokens))
        folder = home / _cache_name(drawn.identity(), tokenizer, options)
        rows, totals, notes = _cached(spec, folder, lambda: drawn)
        return TokenizedDataset(spec, rows, totals, notes, drawn.vocabulary)
    planting, texts = parse_planted(spec) or (None, spec)
    source = open_source(texts, text_column)
    identity = source.identity()

    def documents() -> Iterator[TokenizedDocument]:
        found = _tokenize_all(spec, source, tokenizer, options, planting)
        return _unless_changed(found, spec, source, identity)

    whole = identity if planting is None else [identity, *Planter.identity(planting)]
    folder = home / _cache_name(whole, tokenizer, options)
    rows, totals, notes = _cached(spec, folder, documents)
    return TokenizedDataset(spec, rows, totals, [*notes, *totals.tally.sentences(parse_controls)])


def _cached(
    spec: str, folder: Path, documents: Callable[[], Iterable[TokenizedDocument]]
) -> tuple[Any, Totals, list[str]]:
    """Rows and totals of a cache, which is made where it is not there or damaged, and what to say.

    Raises:
        DocumentError: it cannot be written, or changes under the reader.
    """
    notes: list[str] = []
    cached = open_cache(folder)
    if cached is None:
        if folder.exists():
            notes.append(f"the cache of token ids of {spec} was damaged; it is made again")
        write_cache(folder, documents())
        cached = open_cache(folder)
    if cached is None:
        raise DocumentError(f"The cache {folder} was changed while it was being read: try again.")
    return *cached, notes


def tokenizer_identity(tokenizer: Any) -> str:
    """Hash of a tokenizer's behaviour, independent of its name and origin."""
    if getattr(tokenizer, "is_fast", False):
        # The last call has set both of these, and the next call sets them again.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        state = tokenizer.backend_tokenizer.to_str()
    else:
        with tempfile.TemporaryDirectory() as scratch:
            files = sorted(tokenizer.save_vocabulary(scratch))
            state = [
                sorted(tokenizer.get_vocab().items()),
                *(readable_sha256(Path(f)) for f in files),
            ]
    special = bool(getattr(tokenizer, "split_special_tokens", False))
    return _hash([type(tokenizer).__name__, special, state])


def _cache_name(identity: Any, tokenizer: Any, options: Options) -> str:
    parts = [identity, tokenizer_identity(tokenizer), asdict(options)]
    return f"v{_VERSION}-{_hash(parts)[:32]}"


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _unless_changed(
    documents: Iterator[TokenizedDocument], spec: str, source: Source, identity: Any
) -> Iterator[TokenizedDocument]:
    """The documents; after the last one it is certain that they are those of that identity.

    Otherwise text that was saved between the hash and the reading would stand under the hash of
    the text before it.
    """
    yield from documents
    if source.identity() != identity:
        raise DocumentError(f"{spec} was changed while it was being read: run the command again.")


def _tokenize_all(
    spec: str, source: Source, tokenizer: Any, options: Options, planting: Planting | None
) -> Iterator[TokenizedDocument]:
    none, encoder = True, Encoder(tokenizer, options.parse_controls)
    planter = None if planting is None else Planter(planting, encoder)
    if planting is not None:  # a shorter text has no room between a sentence and its question
        options = replace(options, min_tokens=max(options.min_tokens, 2 * planting.least))
    for document, encoding in encoded_texts(spec, source, encoder, options):
        none = False
        if planter is None:
            yield _tokenize(encoder, document, encoding, options.max_tokens)
        else:
            cut = partial(_tokenize, encoder, document, encoding)
            yield from planter.pair(cut, options.max_tokens)
    if none:
        raise DocumentError(
            f"No document of {spec} has at least {options.min_tokens} tokens: lower --min-tokens."
        )


def encoded_texts(
    spec: str, source: Source, encoder: Encoder, options: Options
) -> Iterator[tuple[Document, Any]]:
    """One whole document at a time with its encoding; a single one if `join` is given."""
    chosen = _chosen(spec, source, encoder, options)
    if options.join is None:
        yield from chosen
        return
    text = options.join.join(document.text for document, _ in chosen)
    yield Document("joined", text), encoder.encode(text)


def _chosen(
    spec: str, source: Source, encoder: Encoder, options: Options
) -> Iterator[tuple[Document, Any]]:
    """The documents that are read, with their encodings (None where they are not needed)."""
    for part, of_part in turns_of(spec, source):
        yield from _chosen_of(part, of_part, encoder, options)


def _chosen_of(
    spec: str, source: Source, encoder: Encoder, options: Options
) -> Iterator[tuple[Document, Any]]:
    kept = 0
    for document in read_documents(spec, source):
        if options.drop_final_newline:
            document = replace(document, text=document.text.removesuffix("\n"))
        needed = options.join is None or options.min_tokens > 0
        encoding = encoder.encode(document.text) if needed else None
        if encoding is not None and len(encoding["input_ids"]) < options.min_tokens:
            continue
        yield document, encoding
        kept += 1
        if kept == options.limit:
            return


def _tokenize(
    encoder: Encoder, document: Document, encoding: Any, max_tokens: int | None
) -> TokenizedDocument:
    import numpy as np

    ids, text = np.asarray(encoding["input_ids"], dtype=np.int32), document.text
    if max_tokens is not None and len(ids) > max_tokens:
        offsets = encoding.encodings[0].offsets if encoding.encodings else None
        kept, end = truncate_at_character(encoder.tokenizer, text, ids, offsets, max_tokens)
        ids, text = ids[:kept], text[:end]
    return TokenizedDocument(
        document.key,
        ids,
        count_bytes(text),
        count_words(text),
        document.sha256,
        encoder.oddities(text, ids.tolist()),
    )
