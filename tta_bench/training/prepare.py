"""Stage one: a recipe's packages become a folder that can be trained on without a network.

``prepared/`` then holds ``train.npy`` (uint16 token ids, documents wrapped in BOS and EOS, one
after another), ``heldout.jsonl`` (the held-out files in full), the tokenizer, and ``prepared.json``
(what went in, what was dropped, and xz's figures).
"""

from __future__ import annotations

import dataclasses
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tta_bench.errors import DocumentError
from tta_bench.training.corpus import Corpus, TrainingText
from tta_bench.training.recipe import Recipe, Source
from tta_bench.training.tokenizer import BOS, EOS, save_tokenizer, train_tokenizer

Say = Callable[[str], None]


def prepare(recipe: Recipe, folder: Path, say: Say = print) -> Path:
    """Fills ``folder`` unless it already holds what this recipe prepares; returns it."""
    summary_path = folder / "prepared.json"
    if summary_path.is_file():
        if json.loads(summary_path.read_text()).get("recipe") == recipe.prepare_hash:
            say(f"prepared data found in {folder}")
            return folder
        summary_path.unlink()  # written last, so a stop half-way never looks finished
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(recipe)
    documents: list[TrainingText] = []
    for document in corpus:
        if not documents or documents[-1].source != document.source:
            say(f"reading {document.source}")
        documents.append(document)
    train = [d for d in documents if not d.heldout]
    heldout = [d for d in documents if d.heldout]
    if not train:
        raise DocumentError(
            "Every document of the recipe is held out or dropped: nothing is left to train on."
        )

    sample = _sample(train, recipe.prepare.tokenizer_sample_mb)
    say(f"training the tokenizer on {sum(map(len, sample)) / 1e6:.0f} M characters")
    tokenizer = train_tokenizer(iter(sample), recipe.prepare.vocab_size)
    save_tokenizer(tokenizer, folder, int(recipe.model.get("max_position_embeddings", 1024)))
    say("tokenising")
    tokens, counts = _encode(tokenizer, train)
    np.save(folder / "train.npy", tokens)
    with open(folder / "heldout.jsonl", "w", encoding="utf-8") as out:
        for d in heldout:
            row = {"domain": d.domain, "key": d.key, "bytes": d.n_bytes, "text": d.text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    say("compressing the held-out text with xz for comparison")
    summary = {
        "recipe": recipe.prepare_hash,
        "packages": [_package(source) for source in recipe.prepare.sources],
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
        "dropped": dict(corpus.dropped),
        "dropped_evaluation_copies": corpus.dropped_evaluated,
    }
    summary_path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return folder


def _sample(documents: list[TrainingText], megabytes: float) -> list[str]:
    """Documents spread evenly over the corpus, each domain with an equal share of the sample."""
    chosen: list[str] = []
    domains = dict.fromkeys(d.domain for d in documents)
    for domain in domains:
        texts = [d.text for d in documents if d.domain == domain]
        total, room = sum(map(len, texts)), megabytes * 1e6 / len(domains)
        keep = min(1.0, room / max(total, 1))
        # Cutting each text keeps the mix of sources that whole documents, few and large, would
        # upset.
        chosen += [text[: max(1, int(len(text) * keep))] for text in texts]
    return chosen


def _encode(
    tokenizer: Tokenizer, documents: list[TrainingText]
) -> tuple[np.ndarray, dict[str, int]]:
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    counts: dict[str, int] = {}
    parts: list[np.ndarray] = []
    for start in range(0, len(documents), 256):  # batches bound the memory of the encodings
        batch = documents[start : start + 256]
        for document, encoding in zip(
            batch, tokenizer.encode_batch_fast([d.text for d in batch]), strict=True
        ):
            ids = np.array([bos, *encoding.ids, eos], dtype=np.uint16)
            counts[document.domain] = counts.get(document.domain, 0) + len(ids)
            parts.append(ids)
    return np.concatenate(parts), counts


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
    from tta_bench.documents.packages import record

    got = dataclasses.asdict(record(source.package))
    return {
        "domain": source.domain,
        "name": source.package,
        "version": got["version"],
        "sha256": got["sha256"],
    }
