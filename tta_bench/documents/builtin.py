"""Documents that come with Python: topics of the language reference, and the standard library."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tta_bench.documents.document import Document
from tta_bench.documents.files import FileSource
from tta_bench.documents.textfile import is_text
from tta_bench.errors import DocumentError

BUILTIN = {
    "builtin:pydoc": "the language reference of the running Python, one document per topic",
    "builtin:stdlib": "the modules of 16 KiB or more in the standard library of the running Python",
}
_SHORTEST_MODULE = 16 * 1024  # bytes
# Not the library itself: installed packages, tests, applications, and the data of pydoc.
_LEFT_OUT = frozenset(
    ("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data")
)


@dataclass(frozen=True)
class TopicSource:
    """`builtin:pydoc`: the topics of the language reference, longest first."""

    def documents(self) -> Iterator[Document]:
        for name, text in self._topics():
            yield Document(name, text)

    def identity(self) -> list[list[str]]:
        return [[document.key, document.sha256] for document in self.documents()]

    def _topics(self) -> list[tuple[str, str]]:
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise DocumentError(
                "This Python was installed without pydoc_data, which contains builtin:pydoc; "
                "use builtin:stdlib or a local folder."
            ) from error
        return sorted(topics.items(), key=lambda item: (-len(item[1]), item[0]))


def builtin_source(spec: str) -> TopicSource | FileSource | None:
    """The source that a `builtin:` spec names; None if there is no such dataset."""
    if spec == "builtin:pydoc":
        return TopicSource()
    if spec == "builtin:stdlib":
        return _standard_library(Path(sysconfig.get_paths()["stdlib"]))
    return None


def _standard_library(root: Path) -> FileSource:
    sized = []
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        for name in names:
            path = Path(parent, name)
            # _sysconfigdata is generated when Python is built, so it differs between machines.
            if path.suffix != ".py" or name.startswith("_sysconfigdata") or not path.is_file():
                continue
            size = path.stat().st_size
            if size >= _SHORTEST_MODULE and is_text(path):
                sized.append((-size, path.relative_to(root).as_posix(), path))
    if not sized:
        raise DocumentError(
            "This Python was installed without the sources of its standard library; "
            "use builtin:pydoc or a local folder."
        )
    return FileSource(root, tuple(path for _, _, path in sorted(sized)), text_column=None)
