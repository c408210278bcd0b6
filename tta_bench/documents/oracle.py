"""`oracle:` streams as documents: symbols become single tokens of the model's own vocabulary.

They are token ids from the start. The text that such tokens decode to would often be tokenised into
other ones, so no bytes or words are counted, and bits per byte are a dash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_bench.documents.document import TokenizedDocument
from tta_bench.documents.limits import Limits
from tta_bench.errors import DocumentError
from tta_bench.oracle.alphabet import draw_alphabet
from tta_bench.oracle.best import symbols_sha256
from tta_bench.oracle.spec import DOCUMENTS, LENGTH, stream_of

_VERSION = 1  # of the draws; a new version makes old caches unused


def drawable_tokens(tokenizer: Any) -> NDArray[np.int64]:
    """[E] The ids that symbols are drawn from, rising.

    Tokens that were added to a vocabulary, special ones among them, are left out, and so is every
    token that is no text on its own, such as a byte of a character.
    """
    left_out = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    ids = sorted(set(tokenizer.get_vocab().values()) - left_out)
    texts = tokenizer.batch_decode([[id_] for id_ in ids], clean_up_tokenization_spaces=False)
    kept = [id_ for id_, text in zip(ids, texts, strict=True) if text and "\ufffd" not in text]
    return np.array(kept, np.int64)


class OracleDocuments:
    """The documents of an `oracle:` spec for one tokenizer.

    Attributes:
        vocabulary: how many tokens symbols are drawn from.

    Raises:
        DocumentError: there is no such stream, or the tokenizer has too few tokens for it.
    """

    def __init__(self, spec: str, tokenizer: Any, limits: Limits):
        self.stream = stream_of(spec)
        self.count = limits.limit or DOCUMENTS
        self.length = limits.max_tokens or LENGTH
        self._tokens = drawable_tokens(tokenizer)
        self.vocabulary = len(self._tokens)
        try:
            draw_alphabet(self.stream, 0, self.vocabulary)
        except ValueError as error:
            raise DocumentError(f"{spec} does not fit the model's tokenizer: {error}") from error
        self.name = spec.split(":")[1]
        if self.length < limits.min_tokens:
            raise DocumentError(
                f"No document of {spec} has at least {limits.min_tokens} tokens: lower "
                "--min-tokens or raise --max-tokens."
            )

    def identity(self) -> list[Any]:
        """What the documents depend on beside the tokenizer, as JSON."""
        return ["oracle", _VERSION, self.name, repr(self.stream), self.count, self.length]

    def __iter__(self) -> Iterator[TokenizedDocument]:
        for number in range(self.count):
            symbols = self.stream.draw(number, self.length)
            alphabet = self._tokens[draw_alphabet(self.stream, number, self.vocabulary)]
            ids = alphabet[symbols].astype(np.int32)
            yield TokenizedDocument(f"{self.name}/{number}", ids, 0, 0, symbols_sha256(symbols))
