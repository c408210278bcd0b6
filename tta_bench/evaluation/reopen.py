"""The documents of a stored run, opened again: runs keep losses, neither token ids nor text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tta_bench.documents.encode import Encoder
from tta_bench.documents.sources import open_source
from tta_bench.documents.tokens import Options, TokenizedDataset, encoded_texts, tokenized
from tta_bench.errors import DocumentError
from tta_bench.evaluation.plan import setting_specs
from tta_bench.evaluation.recorded import recorded_suite
from tta_bench.oracle.name import is_oracle, is_planted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_BYTES = 4  # of a character in UTF-8


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
        if is_oracle(self.spec):  # its tokens are texts, and no text was cut into them
            for index in sorted(indices):
                yield index, self.tokenizer.batch_decode([[id_] for id_ in self.ids(index)])
            return
        if is_planted(self.spec):  # sentences stand between the tokens of its texts
            for index in sorted(indices):
                yield index, _decoded(self.tokenizer, self.ids(index).tolist())
            return
        for index, text, encoding in self._encoded(indices):
            yield index, self._pieces(text, encoding, self.ids(index))

    def places(self, indices: set[int]) -> Iterator[tuple[int, str, NDArray[np.int64]]]:
        """The text that the tokens of each document asked for cover, and their places in it.

        The places [n, 2] are where each token starts and ends, in characters; tokens that share a
        character share its place.

        Raises:
            DocumentError: the tokenizer does not tell them.
        """
        import numpy as np

        for index, text, encoding in self._encoded(indices):
            ids = self.ids(index)
            if not encoding.encodings:
                raise DocumentError(
                    f"the tokenizer of the runs on {self.spec} does not say where in a text its "
                    "tokens are; choose a model with a fast tokenizer."
                )
            offsets = encoding.encodings[0].offsets
            places = np.array(offsets[: len(ids)], dtype=np.int64).reshape(-1, 2)
            cut = len(ids) < len(offsets)
            yield index, text[: places[:, 1].max(initial=0)] if cut else text, places

    def _encoded(self, indices: set[int]) -> Iterator[tuple[int, str, Any]]:
        """The whole texts of the documents asked for, and their encodings."""
        left = set(indices)
        source = open_source(self.spec, self.options.text_column)
        encoder = Encoder(self.tokenizer, self.options.parse_controls)
        texts = encoded_texts(self.spec, source, encoder, self.options)
        for index, (document, encoding) in enumerate(texts):
            if not left:
                return
            if index in left:
                left.remove(index)
                yield index, document.text, encoding

    def _pieces(self, text: str, encoding: Any, ids: NDArray[np.int32]) -> list[str]:
        if not encoding.encodings:  # a tokenizer without offsets
            return _decoded(self.tokenizer, ids.tolist())
        pieces, reached = [], 0
        for _, stop in encoding.encodings[0].offsets[: len(ids)]:
            # From where the last one ended: offsets may leave out white space that was trimmed.
            pieces.append(text[reached:stop])
            reached = max(reached, stop)
        return pieces


def _decoded(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token by decoding alone: tokens are held back until they end a character."""
    pieces: list[str] = []
    held: list[int] = []
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        if (text and not text.endswith("\ufffd")) or len(held) == _MOST_BYTES:
            held = []
        else:
            text = ""
        pieces.append(text)
    return pieces


def reopen(manifest: Mapping[str, Any]) -> Reopened:
    """Opens the dataset of a run again and makes sure that it is what the run read.

    Raises:
        BenchError: the dataset or the tokenizer cannot be had here, or holds other documents.
    """
    from tta_bench.model.load import load_tokenizer

    (setting,) = setting_specs(recorded_suite(manifest, "the manifest"))
    tokenizer = load_tokenizer(setting.model, loading=setting.loading)
    documents = tokenized(setting.dataset, tokenizer, **vars(setting.document_options))
    if documents.fingerprint != manifest["dataset"].get("fingerprint"):
        raise DocumentError(
            f"{setting.dataset} holds other text here than when the run was made, or its tokenizer "
            "cuts it differently."
        )
    return Reopened(setting.dataset, tokenizer, setting.document_options, documents)
