"""Tables: one object, rendered for the terminal, Markdown, LaTeX, CSV and JSON."""

from tta_bench.tables.documents import document_tables
from tta_bench.tables.row import summary_rows
from tta_bench.tables.summary import summary_tables
from tta_bench.tables.table import Column, Table

__all__ = ["Column", "Table", "document_tables", "summary_rows", "summary_tables"]
