"""The documents of a stored run, opened again: runs keep losses, neither token ids nor text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.documents.sources import open_source
from tta_bench.documents.tokens import Options, TokenizedDataset, encoded_texts, tokenized
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import DocumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Reopened:
    """The very documents that a run read, as token ids and as text."""

    spec: str
    tokenizer: Any
    options: Options
    documents: TokenizedDataset

    def ids(self, index: int) -> NDArray[np.int32]:
        """[n] token ids of the document of that place in the dataset."""
        return self.documents[index].token_ids

    def pieces(self, indices: set[int]) -> Iterator[tuple[int, list[str]]]:
        """The text of each token of the documents asked for, in the order of the dataset.

        The pieces of a document joined are the text its tokens cover. A character that several
        tokens share is the piece of the first that reaches its end; the others' are empty.
        """
        left = set(indices)
        source = open_source(self.spec, self.options.text_column)
        texts = encoded_texts(self.spec, source, self.tokenizer, self.options)
        for index, (document, encoding) in enumerate(texts):
            if not left:
                return
            if index in left:
                left.remove(index)
                yield index, self._pieces(document.text, encoding, self.ids(index))

    def _pieces(self, text: str, encoding: Any, ids: NDArray[np.int32]) -> list[str]:
        if not encoding.encodings:  # a tokenizer without offsets
            return [self.tokenizer.decode([token]) for token in ids.tolist()]
        pieces, reached = [], 0
        for _, stop in encoding.encodings[0].offsets[: len(ids)]:
            # From where the last one ended: offsets may leave out white space that was trimmed.
            pieces.append(text[reached:stop])
            reached = max(reached, stop)
        return pieces


def reopen(manifest: Mapping[str, Any]) -> Reopened:
    """Opens the dataset of a run again and makes sure that it is what the run read.

    Raises:
        BenchError: the dataset or the tokenizer is not to be had here, or holds other documents.
    """
    from tta_bench.model.load import load_tokenizer

    dataset, model = manifest["dataset"], manifest["model"]
    spec = _here(dataset.get("spec"))
    names = {name: manifest["protocol"].get(name) for name in Protocol.__dataclass_fields__}
    protocol = Protocol(**{name: value for name, value in names.items() if value is not None})
    options = Options(
        text_column=(manifest.get("config") or {}).get("text_column"),
        limit=dataset.get("limit"),
        max_tokens=dataset.get("max_tokens"),
        min_tokens=dataset.get("min_tokens") or 0,
        join=protocol.join,
        drop_final_newline=protocol.name == "llama.cpp",
    )
    tokenizer = load_tokenizer(_here(model.get("name")), model.get("commit"))
    documents = tokenized(spec, tokenizer, **vars(options))
    if documents.fingerprint != dataset.get("fingerprint"):
        raise DocumentError(
            f"{spec} holds other text here than when the run was made, or its tokenizer cuts it "
            "differently."
        )
    return Reopened(spec, tokenizer, options, documents)


def _here(spec: Any) -> str:
    """A spec of a manifest, which writes the home folder as `~`."""
    text = str(spec)
    return str(Path(text).expanduser()) if text.startswith("~/") else text
