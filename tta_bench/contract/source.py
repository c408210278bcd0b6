"""The identity of a method's source: the files whose change may change its numbers."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from tta_bench.contract.cells import cells_source
from tta_bench.contract.modules import Module, find_module, installed, parsed
from tta_bench.errors import MethodError
from tta_bench.plugin_file import PLUGIN_PREFIX

_HEADS = "tta_bench.heads"
_MENUS = ("tta_bench", _HEADS)
"""Packages that only name what their modules define, where an import from them is looked up."""
_TAKEN: dict[type, str] = {}
"""The hashes that were taken in this process."""


def source_hash(cls: type) -> str:
    """sha256 of a method's source; part of a run's identity.

    It covers the file that defines the class and what that imports, directly or not, from its own
    package (for a plugin: from the plugin's folder) and from `tta_bench.heads`. That of a stack is
    made of those of its parts. It is taken when the class is first asked for and stays: an edit
    since is not what this process runs. A class that stands in no file, as in a notebook, is told
    by what it is made of (`cells_source`).

    Raises:
        MethodError: a plugin imports another file than the one that lies beside it, or a class
            that stands in no file has no source that can be read.
    """
    if cls not in _TAKEN:
        found = source_files(cls)
        _refuse_shadowed(cls, found)
        digest = hashlib.sha256()
        for part in getattr(cls, "parts", ()):
            digest.update(source_hash(part).encode() + b"\0")
        for name, file in sorted(found.items()):
            digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
        if not found and not hasattr(cls, "parts"):
            digest.update(cells_source(cls).encode())
        _TAKEN[cls] = digest.hexdigest()
    return _TAKEN[cls]


def source_files(cls: type) -> dict[str, Path]:
    """The files that `source_hash` covers, by the names of their modules.

    Imports are followed in the source, so that the answer does not depend on what happens to be
    loaded.
    """
    name = cls.__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return {}
    folder = _plugin_folder(cls)
    package = name.partition(".")[0]
    waiting = [parsed(name, Path(file).resolve(), folder)]
    found: dict[str, Path] = {}
    while waiting:
        module = waiting.pop()
        # A plugin's own name holds a hash of where it lies.
        label = module.file.stem if module.name == name and folder else module.name
        if label in found:
            continue
        found[label] = module.file
        for wanted in imported_names(module):
            other = module.find(wanted)
            if other is not None and _covered(other, package, folder):
                waiting.append(other)
    return {label: file for label, file in found.items() if not _says_nothing(label, file)}


def imported_names(module: Module) -> set[str]:
    """Modules that are run by a module's imports: those named, and the packages around them."""
    names = set()
    for origin, taken, _ in module.imports:
        names |= {origin} if taken is None else {origin, f"{origin}.{taken}"}
        menu = find_module(origin) if origin in _MENUS else None
        for home, _, called in [] if menu is None else menu.imports:
            if taken in (None, "*", called):
                names.add(home)
    parts = [name.split(".") for name in names]
    around = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
    return around - set(_MENUS)


def _plugin_folder(cls: type) -> Path | None:
    """Where a plugin lies; None for a method of a package."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    plugin = cls.__module__.startswith(PLUGIN_PREFIX)
    return Path(file).resolve().parent if plugin and file else None


def _refuse_shadowed(cls: type, found: Mapping[str, Path]) -> None:
    """Raises MethodError where Python finds something else by the name of a file beside a plugin.

    All plugins share one space of names: the `helper.py` that was imported first is that of all.
    """
    folder = _plugin_folder(cls)
    own = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if folder is None or own is None:
        return
    for label, file in found.items():
        top = label.partition(".")[0]
        if top == _HEADS.partition(".")[0] or file == Path(own).resolve():
            continue
        places = installed(top)
        beside = (folder / top).resolve(), (folder / f"{top}.py").resolve().with_suffix("")
        if places and places[0] not in beside:
            raise MethodError(
                f"{own} imports {top} from beside it, but Python finds {places[0]} by that name; "
                f"rename {folder / top}."
            )


def _covered(module: Module, package: str, folder: Path | None) -> bool:
    if module.name == _HEADS or module.name.startswith(f"{_HEADS}."):
        return True
    if folder is None:
        return module.name.partition(".")[0] == package
    parts = module.name.split(".")
    beside = folder.joinpath(*parts)
    return module.file in (beside.with_name(f"{parts[-1]}.py"), beside / "__init__.py")


def _says_nothing(name: str, file: Path) -> bool:
    """Whether a package's own file is a docstring alone."""
    body = parsed(name, file).tree.body
    return file.name == "__init__.py" and all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body
    )
