"""The identity of a method's source: the files whose change may change its numbers."""

from __future__ import annotations

import ast
import hashlib
import sys
from pathlib import Path

from tta_bench.contract.modules import Module, find_module, parsed
from tta_bench.plugin_file import PLUGIN_PREFIX

_HEADS = "tta_bench.heads"
_MENUS = ("tta_bench", _HEADS)
"""Packages that only name what their modules define, where an import from them is looked up."""


def source_hash(cls: type) -> str:
    """sha256 of a method's source; part of a run's identity.

    It covers the file that defines the class and what that imports, directly or not, from its own
    package (for a plugin: from the plugin's folder) and from `tta_bench.heads`.
    """
    digest = hashlib.sha256()
    for name, file in sorted(source_files(cls).items()):
        digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def source_files(cls: type) -> dict[str, Path]:
    """The files that `source_hash` covers, by the names of their modules.

    Imports are followed in the source, so that the answer does not depend on what happens to be
    loaded.
    """
    name = cls.__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return {}
    plugin = name.startswith(PLUGIN_PREFIX)
    folder = Path(file).resolve().parent if plugin else None
    package = name.partition(".")[0]
    waiting = [parsed(name, Path(file).resolve(), folder)]
    found: dict[str, Path] = {}
    while waiting:
        module = waiting.pop()
        # A plugin's own name holds a hash of where it lies.
        label = module.file.stem if module.name == name and plugin else module.name
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
