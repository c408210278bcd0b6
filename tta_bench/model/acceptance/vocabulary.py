"""Whether a model knows every token that its tokenizer may give it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tta_bench.model.findings import Finding

if TYPE_CHECKING:
    from tta_bench.model.language_model import LanguageModel


def unknown_ids(model: LanguageModel) -> Iterator[Finding]:
    """A finding where the tokenizer has ids beyond the model's; texts without them can be read."""
    known = model.readable_ids
    if model.tokenizer is None or len(model.tokenizer) <= known:
        return
    largest = max(model.tokenizer.get_vocab().values())
    if largest >= known:
        yield Finding(
            "token ids",
            "failed",
            f"knows ids below {known:,}, and its tokenizer has some up to {largest:,}",
            remark=f"the tokenizer has ids up to {largest:,} and the model knows those below "
            f"{known:,}: texts with others are refused.",
        )
