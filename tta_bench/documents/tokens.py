"""Tokenised documents, cached in Arrow files that are mapped into memory."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.documents.cache import Totals, open_cache, write_cache
from tta_bench.documents.document import (
    Document,
    TokenizedDocument,
    count_bytes,
    count_words,
)
from tta_bench.documents.limits import Limits
from tta_bench.documents.sources import Source, open_source, read_documents
from tta_bench.documents.textfile import readable_sha256
from tta_bench.documents.truncate import truncate_at_character
from tta_bench.errors import DocumentError
from tta_bench.fetch.packages import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VERSION = 1  # of the path from a document to its tokens; a new version makes old caches unused


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

    def __post_init__(self) -> None:
        Limits(self.limit, self.max_tokens, self.min_tokens)  # which checks them


class TokenizedDataset:
    """The documents of a dataset as token ids; only those being read are in memory."""

    def __init__(self, spec: str, rows: Any, totals: Totals) -> None:
        self.spec = spec
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

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenizedDocument:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        row = self._rows[index % len(self)]
        # A view of the mapped file, not a copy.
        ids = row["token_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=True)
        return TokenizedDocument(
            key=row["key"][0].as_py(),
            token_ids=ids,
            n_bytes=row["n_bytes"][0].as_py(),
            n_words=row["n_words"][0].as_py(),
            sha256=row["sha256"][0].as_py(),
        )

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
    cache_dir: Path | None = None,
) -> TokenizedDataset:
    """The documents of a dataset, tokenised without special tokens and cached.

    Each text is tokenised as a whole and then truncated to `max_tokens`. The key of the cache is a
    hash of the documents' contents, the tokenizer and the options.

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
        cache_dir: the folder of the cache; None for the default one.

    Raises:
        DocumentError: the dataset cannot be found, read or cached.
        UsageError: an option is out of range.
    """
    options = Options(text_column, limit, max_tokens, min_tokens, join, drop_final_newline)
    source = open_source(spec, text_column)
    home = (cache_folder() if cache_dir is None else Path(cache_dir)) / "tokenized"
    folder = home / _cache_name(source, tokenizer, options)
    cached = open_cache(folder)
    if cached is None:
        write_cache(folder, _tokenize_all(spec, source, tokenizer, options))
        cached = open_cache(folder)
    if cached is None:
        raise DocumentError(f"The cache {folder} was changed while it was being read: try again.")
    return TokenizedDataset(spec, *cached)


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


def _cache_name(source: Source, tokenizer: Any, options: Options) -> str:
    parts = [source.identity(), tokenizer_identity(tokenizer), asdict(options)]
    return f"v{_VERSION}-{_hash(parts)[:32]}"


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _tokenize_all(
    spec: str, source: Source, tokenizer: Any, options: Options
) -> Iterator[TokenizedDocument]:
    none = True
    for document, encoding in encoded_texts(spec, source, tokenizer, options):
        none = False
        yield _tokenize(tokenizer, document, encoding, options.max_tokens)
    if none:
        raise DocumentError(
            f"No document of {spec} has at least {options.min_tokens} tokens: lower --min-tokens."
        )


def encoded_texts(
    spec: str, source: Source, tokenizer: Any, options: Options
) -> Iterator[tuple[Document, Any]]:
    """One whole document at a time with its encoding; a single one if `join` is given."""
    chosen = _chosen(spec, source, tokenizer, options)
    if options.join is None:
        yield from chosen
        return
    text = options.join.join(document.text for document, _ in chosen)
    yield Document("joined", text), _encode(tokenizer, text)


def _chosen(
    spec: str, source: Source, tokenizer: Any, options: Options
) -> Iterator[tuple[Document, Any]]:
    """The documents that are read, with their encodings (None where they are not needed)."""
    kept = 0
    for document in read_documents(spec, source):
        if options.drop_final_newline:
            document = replace(document, text=document.text.removesuffix("\n"))
        needed = options.join is None or options.min_tokens > 0
        encoding = _encode(tokenizer, document.text) if needed else None
        if encoding is not None and len(encoding["input_ids"]) < options.min_tokens:
            continue
        yield document, encoding
        kept += 1
        if kept == options.limit:
            return


def _encode(tokenizer: Any, text: str) -> Any:
    # Never in pieces, since a tokenizer may merge across any boundary. Not verbose, since it would
    # warn about documents longer than the model's context, which are expected here.
    return tokenizer(
        text,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )


def _tokenize(
    tokenizer: Any, document: Document, encoding: Any, max_tokens: int | None
) -> TokenizedDocument:
    import numpy as np

    ids, text = np.asarray(encoding["input_ids"], dtype=np.int32), document.text
    if max_tokens is not None and len(ids) > max_tokens:
        offsets = encoding.encodings[0].offsets if encoding.encodings else None
        kept, end = truncate_at_character(tokenizer, text, ids, offsets, max_tokens)
        ids, text = ids[:kept], text[:end]
    return TokenizedDocument(
        document.key, ids, count_bytes(text), count_words(text), document.sha256
    )
