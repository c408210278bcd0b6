"""A folder under a name that is no glob: `datasets` reads a path with `[`, `*` or `?` as one."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def under_plain_name(folder: Path) -> Iterator[Path]:
    """The folder itself, or a temporary one of the same layout with links to its files.

    Without it a folder called `st*r` would also give the files of `star` beside it. The layout is
    made of folders and only the files are links, because the library follows a link to a folder
    back to its name.
    """
    whole = folder.resolve()
    if not glob.has_magic(str(whole)):
        yield folder
        return
    with TemporaryDirectory() as home:
        root = Path(home).resolve() / "folder"
        for parent, _, names in os.walk(whole):
            copy = root / Path(parent).relative_to(whole)
            copy.mkdir()
            for name in names:
                (copy / name).symlink_to(Path(parent, name))
        yield root
