"""From a corpus to a folder that can be trained on without a network.

``prepared/`` then holds ``ids.npy`` and ``starts.npy`` (the documents' tokens, see
`streams.TokenArray`), ``heldout.jsonl`` (the held-out files in full), and ``prepared.json`` (what
went in, what was dropped, and xz's figures).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tta_bench.errors import DocumentError
from tta_bench.training.corpus import Texts, TrainingText
from tta_bench.training.recipe import Corpus, Source
from tta_bench.training.streams import TokenArray

Say = Callable[[str], None]


def prepare(
    corpus: Corpus, folder: Path, tokenizer: Tokenizer, prefix: int, say: Say = print
) -> Path:
    """Fills ``folder`` unless it already holds what this corpus prepares; returns it.

    ``tokenizer`` is the base's, and ``prefix`` the token that stands before each document.
    """
    summary_path = folder / "prepared.json"
    wanted = f"{corpus.digest}-{_digest(tokenizer)}"
    if summary_path.is_file():
        if json.loads(summary_path.read_text()).get("corpus") == wanted:
            say(f"prepared data found in {folder}")
            return folder
        summary_path.unlink()  # written last, so a stop half-way never looks finished
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
    """(domain, text) pairs as one token array, and the tokens of each domain."""
    counts: dict[str, int] = {}
    parts: list[np.ndarray] = []
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32
    for batch in _batches(texts, 256):  # batches bound the memory of the encodings
        encodings = tokenizer.encode_batch_fast(
            [text for _, text in batch], add_special_tokens=False
        )
        for (domain, _), encoding in zip(batch, encodings, strict=True):
            parts.append(np.array([prefix, *encoding.ids], dtype=kind))
            counts[domain] = counts.get(domain, 0) + len(encoding.ids)
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return TokenArray(np.concatenate(parts), starts), counts


def load_prepared(folder: Path) -> TokenArray:
    """The token array of a prepared folder, mapped into memory."""
    return TokenArray(np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "starts.npy"))


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
    """Size under ``xz -9`` of the domain's held-out files one after another (so xz may look across
    files, the model may not).
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
    from tta_bench.fetch.packages import record

    got = dataclasses.asdict(record(source.package))
    return {
        "domain": source.domain,
        "name": source.package,
        "version": got["version"],
        "sha256": got["sha256"],
    }
