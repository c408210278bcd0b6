"""Python modules as text: what they define and what they import, without running any of them."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from tta_bench.errors import MethodError


@dataclass(frozen=True)
class Module:
    """One parsed file.

    Attributes:
        name: what it is imported as.
        file: where it is.
        tree: its syntax tree.
        folder: where modules of no package are looked for first, as beside a plugin's file.
    """

    name: str
    file: Path
    tree: ast.Module
    folder: Path | None = None

    @cached_property
    def definitions(self) -> dict[str, ast.expr | ast.ClassDef]:
        """Classes and assigned values of the top level, by name."""
        found: dict[str, ast.expr | ast.ClassDef] = {}
        for node in _statements(self.tree.body):
            if isinstance(node, ast.ClassDef):
                found[node.name] = node
            else:
                found.update(assigned(node))
        return found

    @cached_property
    def imports(self) -> list[tuple[str, str | None, str | None]]:
        """Every import, wherever it stands: module, name taken from it, and what it is called here.

        `import a.b` is (a.b, None, None), `import a.b as c` (a.b, None, c), `from a import *`
        (a, *, None), and `import_module("a.b")` is `import a.b`.
        """
        found: list[tuple[str, str | None, str | None]] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(alias.name, None, alias.asname) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node.module or "", node.level)
                for alias in node.names:
                    called = None if alias.name == "*" else alias.asname or alias.name
                    found.append((base, alias.name, called))
            elif isinstance(node, ast.Call) and (text := _imported_by(node)):
                inner = text.lstrip(".")
                found.append((self._absolute(inner, len(text) - len(inner)), None, None))
        return found

    def find(self, name: str) -> Module | None:
        """Another module, as an import in this one would find it."""
        return find_module(name, self.folder)

    def _absolute(self, name: str, level: int) -> str:
        """A module's name without the `level` dots before it."""
        if not level:
            return name
        inside = self.file.name == "__init__.py"
        package = self.name if inside else self.name.rpartition(".")[0]
        kept = package.split(".")[: len(package.split(".")) - level + 1]
        return ".".join([*kept, *([name] if name else [])])


def parsed(name: str, file: Path, folder: Path | None = None) -> Module:
    """The module in a file.

    Raises:
        MethodError: it is not Python.
    """
    try:
        return _parsed(name, file, folder, file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise MethodError(f"{file} is not valid Python: {error}.") from error


@lru_cache(maxsize=512)
def _parsed(name: str, file: Path, folder: Path | None, text: str) -> Module:
    return Module(name, file, ast.parse(text), folder)


def find_module(name: str, folder: Path | None = None) -> Module | None:
    """A module by its name; None for what is built in, missing, or no Python source.

    Unlike `importlib.util.find_spec` it imports no package on the way.
    """
    top, *rest = name.split(".")
    if not top or top in sys.stdlib_module_names:
        return None
    places = [] if folder is None else [folder / top]
    places += installed(top)
    for place in places:
        file = _source(place.joinpath(*rest))
        if file is not None:
            return parsed(name, file, folder)
    return None


def installed(top: str) -> list[Path]:
    """Where an import finds a top-level module, without the ending of its file."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place).resolve() for place in spec.submodule_search_locations]
    return [Path(spec.origin).resolve().with_suffix("")] if spec.origin else []


def _source(place: Path) -> Path | None:
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those under its `if` and `try` included."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try)):
                yield from _statements(getattr(node, part, []))


def _imported_by(call: ast.Call) -> str | None:
    """The module that `importlib.import_module("...")` or `__import__("...")` names."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else call.func
    if isinstance(function, ast.Name):
        function = function.id
    if function not in ("import_module", "__import__") or not call.args:
        return None
    named = call.args[0]
    text = isinstance(named, ast.Constant) and isinstance(named.value, str)
    return named.value if text else None  # type: ignore[attr-defined]


def assigned(node: ast.stmt) -> dict[str, ast.expr]:
    """The values that an assignment gives to names."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        targets: list[ast.expr] = [node.target]
    elif isinstance(node, ast.Assign):
        targets = node.targets
    else:
        return {}
    assert node.value is not None
    return {target.id: node.value for target in targets if isinstance(target, ast.Name)}
