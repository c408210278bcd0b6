"""Code that a model brings with it, which runs with --trust-remote-code."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any


def code_sha256(*parts: Any) -> str | None:
    """SHA-256 (hex) of the files that define parts of a model, as they were imported.

    It covers what those files import from beside them. Transformers imports copies in a folder of
    its own, so that an edit of the model's folder since does not show.

    Args:
        parts: objects whose classes such a file may define: the module, the configuration.

    Returns:
        None where all classes are those of transformers.
    """
    from transformers.dynamic_module_utils import get_relative_import_files
    from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

    modules = {cls.__module__ for part in parts for cls in type(part).__mro__}
    files: set[str] = set()
    for name in modules:
        if name.partition(".")[0] == TRANSFORMERS_DYNAMIC_MODULE_NAME:
            file = str(sys.modules[name].__file__)
            files |= {file, *get_relative_import_files(file)}
    if not files:
        return None
    # Not by their folders, which transformers names by versions and hashes of its own.
    contents = {(p.name, p.read_bytes()) for p in map(Path, files) if p.is_file()}
    digest = hashlib.sha256()
    for name, content in sorted(contents):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()
