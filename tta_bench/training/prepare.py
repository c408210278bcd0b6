"""From a corpus to a folder of tokens, which can be trained on without a network.

The folder contains `ids.npy` and `starts.npy` (the tokens, see `streams.TokenArray`),
`heldout.jsonl` (the held-out files in full) and `prepared.json` (what was included and dropped, and
how well xz compresses the held-out files).
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tta_bench.errors import DocumentError
from tta_bench.fetch.packages import package_record
from tta_bench.training.corpus import Texts, TrainingText
from tta_bench.training.recipe import Corpus, Source
from tta_bench.training.streams import TokenArray

Say = Callable[[str], None]


def prepare(
    corpus: Corpus, folder: Path, tokenizer: Tokenizer, prefix: int, say: Say = print
) -> Path:
    """Prepares a corpus, unless the folder already contains it.

    Args:
        corpus: the texts.
        folder: where the tokens are written.
        tokenizer: the tokenizer of the base model.
        prefix: id of the token that stands before each document.
        say: prints a line about the progress.

    Returns:
        The folder.

    Raises:
        DocumentError: a source cannot be read, or nothing is left to train on.
    """
    summary_path = folder / "prepared.json"
    wanted = f"{corpus.digest}-{_digest(tokenizer)}"
    if summary_path.is_file():
        if json.loads(summary_path.read_text()).get("corpus") == wanted:
            say(f"prepared data found in {folder}")
            return folder
        # It is written last, so that an interrupted preparation never looks complete.
        summary_path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    texts = Texts(corpus)
    documents: list[TrainingText] = []
    for document in texts:
        if not documents or documents[-1].source != document.source:
            say(f"reading {document.source}")
        documents.append(document)
    train = [d for d in documents if not d.heldout]
    heldout = [d for d in documents if d.heldout]
    if not train:
        raise DocumentError(
            "Every document of the corpus is held out or dropped: nothing is left to train on."
        )
    say("tokenising")
    tokens, counts = encode(tokenizer, ((d.domain, d.text) for d in train), prefix)
    np.save(folder / "ids.npy", tokens.ids)
    np.save(folder / "starts.npy", tokens.starts)
    with open(folder / "heldout.jsonl", "w", encoding="utf-8") as out:
        for d in heldout:
            row = {"domain": d.domain, "key": d.key, "bytes": d.n_bytes, "text": d.text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    say("compressing the held-out text with xz for comparison")
    summary = {
        "corpus": wanted,
        "packages": [_package(source) for source in corpus.sources],
        "train": {
            domain: {
                "documents": sum(d.domain == domain for d in train),
                "bytes": sum(d.n_bytes for d in train if d.domain == domain),
                "tokens": counts[domain],
            }
            for domain in counts
        },
        "heldout": {
            domain: _compressed([d for d in heldout if d.domain == domain])
            for domain in dict.fromkeys(d.domain for d in heldout)
        },
        "dropped": dict(texts.dropped),
        "dropped_evaluation_copies": texts.dropped_evaluated,
    }
    summary_path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return folder


def encode(
    tokenizer: Tokenizer, texts: Iterable[tuple[str, str]], prefix: int
) -> tuple[TokenArray, dict[str, int]]:
    """(domain, text) pairs as one token array, and the number of tokens in each domain."""
    counts: dict[str, int] = {}
    parts: list[np.ndarray] = []
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32
    for batch in _batches(texts, 256):  # batches limit the memory that encodings need
        encodings = tokenizer.encode_batch_fast(
            [text for _, text in batch], add_special_tokens=False
        )
        for (domain, _), encoding in zip(batch, encodings, strict=True):
            parts.append(np.array([prefix, *encoding.ids], dtype=kind))
            counts[domain] = counts.get(domain, 0) + len(encoding.ids)
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return TokenArray(np.concatenate(parts), starts), counts


def load_prepared(folder: Path) -> tuple[TokenArray, dict[str, Any]]:
    """The token array of a prepared folder, mapped into memory, and its `prepared.json`.

    Raises:
        DocumentError: the folder is none that `prepare` has finished.
    """
    if not (folder / "prepared.json").is_file():
        raise DocumentError(
            f"{folder} holds no prepared texts; tta-bench train --config RECIPE --prepare-only "
            "makes such a folder."
        )
    summary = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    ids = np.load(folder / "ids.npy", mmap_mode="r")
    return TokenArray(ids, np.load(folder / "starts.npy")), summary


def _batches(items: Iterable[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _digest(tokenizer: Tokenizer) -> str:
    words = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def _compressed(documents: list[TrainingText]) -> dict[str, Any]:
    """Size of the held-out files of a domain, compressed as one file with `xz -9`.

    xz can therefore use repetitions across files, which a model cannot.
    """
    data = "".join(d.text for d in documents).encode()
    packed = len(lzma.compress(data, preset=9))
    return {
        "documents": len(documents),
        "bytes": len(data),
        "xz_bytes": packed,
        "xz_bits_per_byte": 8 * packed / len(data),
    }


def _package(source: Source) -> dict[str, str]:
    if source.folder:
        return {"domain": source.domain, "name": source.folder, "version": "local", "sha256": ""}
    record = package_record(source.package)
    return {
        "domain": source.domain,
        "name": source.package,
        "version": record.version,
        "sha256": record.sha256,
    }
