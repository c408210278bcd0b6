"""The documents of a stored run, opened again: runs keep losses, neither token ids nor text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tta_bench.documents.sources import open_source
from tta_bench.documents.tokens import Options, TokenizedDataset, encoded_texts, tokenized
from tta_bench.errors import DocumentError
from tta_bench.evaluation.plan import setting_specs
from tta_bench.evaluation.recorded import recorded_suite

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
        BenchError: the dataset or the tokenizer cannot be had here, or holds other documents.
    """
    from tta_bench.model.load import load_tokenizer

    (setting,) = setting_specs(recorded_suite(manifest, "the manifest"))
    tokenizer = load_tokenizer(setting.model)
    documents = tokenized(setting.dataset, tokenizer, **vars(setting.document_options))
    if documents.fingerprint != manifest["dataset"].get("fingerprint"):
        raise DocumentError(
            f"{setting.dataset} holds other text here than when the run was made, or its tokenizer "
            "cuts it differently."
        )
    return Reopened(setting.dataset, tokenizer, setting.document_options, documents)
