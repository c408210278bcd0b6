"""Documents: from a spec, such as `builtin:pydoc` or a folder, to texts and to token ids."""

from tta_bench.documents.document import Document, TokenizedDocument
from tta_bench.documents.sources import dataset_names, load_documents
from tta_bench.documents.tokens import TokenizedDataset, tokenized

__all__ = [
    "Document",
    "TokenizedDataset",
    "TokenizedDocument",
    "dataset_names",
    "load_documents",
    "tokenized",
]
