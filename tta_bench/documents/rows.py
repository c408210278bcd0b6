"""Tables with one document per row: JSON Lines, CSV and Parquet, read in batches."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tta_bench.documents.document import Document
from tta_bench.documents.textfile import readable, text_lines
from tta_bench.errors import DocumentError

KEY_COLUMNS = ("key", "id", "name", "title")
_HEAD = 16  # rows from which the columns are chosen, and the batch size for Parquet
_LONGEST_CSV_FIELD = (
    1 << 28
)  # characters; the default limit of the csv module is shorter than a novel

Row = tuple[str, dict[str, Any]]  # the place of the row, such as "Line 7", and its columns


def table_documents(path: Path, name: str, text_column: str | None) -> Iterator[Document]:
    """The rows of a `.jsonl`, `.csv` or `.parquet` file; a row without a key is `name:row`."""
    if path.suffix.lower() == ".parquet":
        yield from _parquet_documents(path, name, text_column)
    else:
        rows = jsonl_rows(path) if path.suffix.lower() == ".jsonl" else csv_rows(path)
        yield from row_documents(rows, str(path), name, text_column)


def row_documents(
    rows: Iterable[Row], source: str, name: str, text_column: str | None
) -> Iterator[Document]:
    """Documents from rows.

    Args:
        rows: the rows of the table.
        source: name of the table in error messages.
        name: start of the keys of rows without a key: `name:row`, counted from 1.
        text_column: the column that contains the text; None to choose it.
    """
    rows = iter(rows)
    head = list(islice(rows, _HEAD))
    samples = [row for _, row in head]
    columns = list(dict.fromkeys(chain.from_iterable(samples)))
    strings = [c for c in columns if _holds_text([row.get(c) for row in samples])]
    text_name = choose_text_column(columns, strings, text_column, source) if head else ""
    key_name = _choose_key_column(samples, text_name)
    rows = chain(head, rows)
    del head, samples
    for number, (where, row) in enumerate(rows, 1):
        key = _key_of(row.get(key_name)) if key_name else ""
        yield Document(key or f"{name}:{number}", _text_of(row, text_name, f"{where} of {source}"))


def choose_text_column(
    columns: Sequence[str], strings: Sequence[str], wanted: str | None, source: str
) -> str:
    """The text column: the one asked for, else `text`, else the only column of strings.

    Raises:
        DocumentError: the column does not exist, or there is no single column of strings.
    """
    listed = ", ".join(columns)
    if wanted is not None:
        if wanted not in columns:
            raise DocumentError(
                f"{source} has no column {wanted!r} to read text from; its columns are {listed}."
            )
        return wanted
    if "text" in columns:
        return "text"
    if len(strings) != 1:
        found = "several columns" if strings else "no column"
        raise DocumentError(
            f"{source} has {found} of strings and none is called 'text'; "
            f"choose one with --text-column out of {listed}."
        )
    return strings[0]


def jsonl_rows(path: Path) -> Iterator[Row]:
    """The rows of a file with one JSON object per line; blank lines are skipped."""
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"Line {number} of {path} is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DocumentError(
                f"Line {number} of {path} is a {type(row).__name__}, not an object with columns."
            )
        yield f"Line {number}", row


def csv_rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV file whose first line names the columns; quoted fields may span lines.

    Columns are parted by commas, or by semicolons, tabs or bars if the header has no commas.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CSV_FIELD))
    lines = text_lines(path)
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), strict=True, delimiter=_delimiter(first))
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DocumentError(f"The header of {path} names a column twice: {', '.join(header)}.")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise DocumentError(
                    f"Line {reader.line_num} of {path} has {len(fields)} fields, "
                    f"but the header names {len(header)}."
                )
            yield f"Line {reader.line_num}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DocumentError(
            f"Line {reader.line_num} of {path} is not valid CSV: {error}."
        ) from error


def _delimiter(header: str) -> str:
    """What parts the columns of a CSV file: another character where no comma does."""
    for delimiter in ",;\t|":
        try:
            if len(next(csv.reader([header], delimiter=delimiter))) > 1:
                return delimiter
        except (StopIteration, csv.Error):  # the whole file is read next, and tells its line
            break
    return ","


def _parquet_documents(path: Path, name: str, text_column: str | None) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with readable(path):
        try:
            # pre_buffer would keep whole row groups in memory, often hundreds of megabytes.
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as table:
                columns = table.schema_arrow.names
                strings = [f.name for f in table.schema_arrow if _is_string(f.type)]
                text_name = choose_text_column(columns, strings, text_column, str(path))
                wanted = [text_name, *(c for c in KEY_COLUMNS if c in columns and c != text_name)]
                batches = table.iter_batches(batch_size=_HEAD, columns=wanted)
                rows = (
                    (f"Row {number}", row)
                    for number, row in enumerate(chain.from_iterable(map(_to_rows, batches)), 1)
                )
                yield from row_documents(rows, str(path), name, text_name)
        except pa.ArrowException as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise DocumentError(f"{path} is not a readable Parquet file: {reason}.") from error


def _to_rows(batch: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


def _is_string(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _holds_text(values: Sequence[Any]) -> bool:
    """Whether the values are strings and not all of them numbers.

    In CSV every value is a string, and other formats often store ids as strings.
    """
    present = [value for value in values if value is not None]
    return all(isinstance(value, str) for value in present) and not all(map(_is_number, present))


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _choose_key_column(samples: Sequence[dict[str, Any]], text_name: str) -> str | None:
    """The first of KEY_COLUMNS whose values in the first rows are all present and all different."""
    for name in KEY_COLUMNS:
        values = [_key_of(row.get(name)) for row in samples]
        if name != text_name and all(values) and len(set(values)) == len(values) > 0:
            return name
    return None


def _key_of(value: Any) -> str:
    """A string or integer as a key; the empty string for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).strip()


def _text_of(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise DocumentError(f"{where} has no column {column!r}; it has {', '.join(row)}.")
    text = row[column]
    if text is None:  # a null among texts is an empty document, which gets a skipped row
        return ""
    if not isinstance(text, str):
        raise DocumentError(
            f"{where} has a value of type {type(text).__name__} in column {column!r}, not text."
        )
    return encodable(text, where)


def encodable(text: str, where: str) -> str:
    """The text, if it can be written as UTF-8.

    Raises:
        DocumentError: it cannot; `where` begins the sentence.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"{where} contains half a surrogate pair at character {error.start}, which is not text."
        ) from error
    return text
