"""Tables: one object, rendered for the terminal, Markdown, LaTeX, CSV and JSON."""

from tta_bench.tables.column import Column
from tta_bench.tables.documents import document_tables
from tta_bench.tables.labels import labels_of
from tta_bench.tables.row import summary_rows
from tta_bench.tables.summary import summary_tables
from tta_bench.tables.table import Table

__all__ = ["Column", "Table", "document_tables", "labels_of", "summary_rows", "summary_tables"]
