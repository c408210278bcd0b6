"""Plugin files: Python files that are imported by their path, under a name of their own."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PLUGIN_PREFIX = "tta_bench_plugin_"


def plugin_name(file: Path) -> str:
    """The name under which a plugin file is imported, unique to its absolute path."""
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    return f"{PLUGIN_PREFIX}{file.stem}_{digest}"


def import_file(name: str, file: Path) -> ModuleType:
    """The module in a file, run once; what lies beside it can be imported, as by a script.

    Raises:
        Exception: whatever the file raises; it is then not kept as imported.
    """
    if name in sys.modules:
        return sys.modules[name]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def plugin_of(module: str) -> Path | None:
    """The plugin file that an imported module is; None if it is no plugin."""
    file = sys.modules[module].__file__ if module.startswith(PLUGIN_PREFIX) else None
    return None if file is None else Path(file)
