"""Methods by name: the built-in ones in `methods/`, those of installed packages (entry-point group
`tta_bench.methods`), and those of files given as `--plugin FILE`.

Listing reads source files without importing them, so it never loads PyTorch; a class is imported
when it is first used, and from then on it alone says what it is.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from tta_bench.contract.listing import MethodInfo, method_at, methods_of
from tta_bench.contract.modules import Module, find_module, parsed
from tta_bench.contract.source import source_hash
from tta_bench.errors import MethodError, UsageError
from tta_bench.files import file_stamp
from tta_bench.plugin_file import PLUGIN_PREFIX, import_file, plugin_name

if TYPE_CHECKING:
    from tta_bench.contract.method import Method

ENTRY_POINT_GROUP = "tta_bench.methods"
BUILT_IN_PACKAGE = "tta_bench_methods"

C = TypeVar("C", bound=type)
_plugin_files: dict[str, Path] = {}
_held: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[C], C]:
    """Class decorator: makes a `Method` available as `--method name`.

    It is read from the source, so that listing methods imports none of them; at run time it checks
    the name and gives it to the class.

    Raises:
        MethodError: the name is not a plain word.
    """
    if not name or any(character in name for character in ":,=+ \t\n/"):
        raise MethodError(f"'{name}' cannot be a method's name: use letters, digits and dashes.")

    def named(cls: C) -> C:
        cls.name = name  # type: ignore[attr-defined]
        return cls

    return named


def available() -> dict[str, MethodInfo]:
    """Every method that can be named, sorted by name; imports none of them.

    Raises:
        MethodError: two files claim the same name, or one cannot be read.
    """
    found: dict[str, MethodInfo] = {}
    for info in [*_from_entry_points(), *_from_built_in_folder(), *_from_plugin_files()]:
        other = found.get(info.name)
        if other is not None and (other.file, other.class_name) != (info.file, info.class_name):
            raise MethodError(
                f"the method '{info.name}' is defined twice, in {other.file} and {info.file}; "
                "rename or uninstall one."
            )
        found[info.name] = info
    return dict(sorted(found.items()))


def load(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: no method has this name (with the closest known one).
        MethodError: its module cannot be imported, or it is not a complete method.
    """
    return _held[name] if name in _held else _loaded(name, _sources())


def _sources() -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Stamps of the folders that are imported from and of the plugins: with the same ones, a name
    that was found stands for the same class.
    """
    places = [Path(place) for place in sys.path] + list(_plugin_files.values())
    return tuple((str(place), file_stamp(place)) for place in places if place.exists())


@lru_cache(maxsize=256)  # a suite of hundreds of methods asks for each of them many times
def _loaded(name: str, sources: tuple[tuple[str, tuple[int, ...]], ...]) -> type[Method]:
    infos = available()
    if name not in infos:
        near = difflib.get_close_matches(name, infos, n=1, cutoff=0.5)
        known = ", ".join(infos)
        hint = (
            f"did you mean '{near[0]}'?"
            if near
            else f"known methods: {known}; or name its file with --plugin FILE."
        )
        raise UsageError(f"there is no method '{name}'; {hint}")
    info = infos[name]
    module = _import(info.module, info.file)
    cls = _checked(name, getattr(module, info.class_name))
    source_hash(cls)  # now, while the files are those that were imported
    return cls


def add_plugin(path: str | Path) -> list[str]:
    """Makes the methods of a Python file available; returns their names.

    Raises:
        UsageError: no such file.
        MethodError: it does not import, or registers no method.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise UsageError(f"there is no plugin file {path}.")
    module = _plugin(file)
    infos = methods_of(module)
    if not infos:
        _import(module.name, file)  # a failing import is the better news
        raise MethodError(
            f'{path} registers no method; put @register("name") above a class derived from Method.'
        )
    _plugin_files[str(file)] = file
    for info in infos:
        load(info.name)
    return [info.name for info in infos]


@contextmanager
def held_method(name: str, cls: type[Method]) -> Iterator[None]:
    """Makes a class that no file registers known by a name inside the block.

    Raises:
        UsageError: another method has the name.
        MethodError: it is not a complete method, or its source cannot be read.
    """
    known = available().get(name)
    if known is not None and known.file != _file_of(cls):
        raise UsageError(
            f"the name of the class {cls.__name__}, '{name}', is that of another method; give it "
            f'another with @register("name").'
        )
    _checked(name, cls)
    source_hash(cls)
    before = _held.get(name)
    if before is not None and before is not cls:
        raise UsageError(f"two classes are called '{name}'; give one another name by @register.")
    _held[name] = cls
    try:
        yield
    finally:
        if before is None:
            del _held[name]


def is_held(name: str) -> bool:
    """Whether a method is a class in memory, which no other process can find by its name."""
    return name in _held


def _file_of(cls: type) -> Path | None:
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (OSError, TypeError):
        return None


def plugin_files() -> tuple[str, ...]:
    """The files that were given to `add_plugin`."""
    return tuple(_plugin_files)


def _checked(name: str, cls: type) -> type[Method]:
    from tta_bench.contract.method import FAMILIES, Method

    if not issubclass(cls, Method):
        raise MethodError(f"method '{name}': {cls.__name__} must derive from tta_bench.Method.")
    if cls.score is Method.score:
        raise MethodError(
            f"method '{name}': {cls.__name__} lacks score(window); it must return the logits of "
            "the chunk."
        )
    if not dataclasses.is_dataclass(cls.Params):
        raise MethodError(f"method '{name}': put @dataclass above its class Params.")
    if cls.family not in FAMILIES:
        raise MethodError(
            f"method '{name}': family '{cls.family}' is unknown; use one of {', '.join(FAMILIES)}."
        )
    try:
        get_type_hints(cls.Params)
    except NameError as error:
        raise MethodError(f"method '{name}': a type in its class Params: {error}.") from error
    unknown = set(cls.off or {}) - {field.name for field in dataclasses.fields(cls.Params)}
    if unknown:
        raise MethodError(f"method '{name}': off names {min(unknown)!r}, which is no parameter.")
    return cls


def _import(module: str, file: Path) -> ModuleType:
    """The module of a method; a plugin's file is loaded by its path, once."""
    try:
        if module.startswith(PLUGIN_PREFIX):
            return import_file(module, file)
        return importlib.import_module(module)
    except MethodError:
        raise
    except Exception as error:
        raise MethodError(f"{file} cannot be imported: {type(error).__name__}: {error}.") from error


def _from_entry_points() -> list[MethodInfo]:
    infos = []
    folders = [Path(folder) for folder in sys.path]
    times = tuple((folder, folder.stat().st_mtime_ns) for folder in folders if folder.exists())
    for entry in _entry_points(times):
        module = find_module(entry.module)
        info = None if module is None else method_at(module, entry.attr, entry.name)
        if info is not None:
            infos.append(info)
    return infos


@lru_cache(maxsize=1)  # reading what hundreds of packages declare takes a tenth of a second
def _entry_points(changed: tuple[tuple[Path, int], ...]) -> EntryPoints:
    """What installed packages declare, read again once a folder of the search path has changed."""
    return entry_points(group=ENTRY_POINT_GROUP)


def _from_built_in_folder() -> list[MethodInfo]:
    package = find_module(BUILT_IN_PACKAGE)
    if package is None:
        return []
    folder = package.file.parent
    files = [file for file in sorted(folder.rglob("*.py")) if file.name != "__init__.py"]
    return list(_in_files(folder, tuple((file, file.stat().st_mtime_ns) for file in files)))


@lru_cache(maxsize=1)  # a suite names hundreds of methods, and each of them asks for all
def _in_files(folder: Path, changed: tuple[tuple[Path, int], ...]) -> tuple[MethodInfo, ...]:
    """The methods in files of the built-in folder, read again once one of them has changed."""
    infos: list[MethodInfo] = []
    for file, _ in changed:
        path = file.relative_to(folder).with_suffix("")
        infos += methods_of(parsed(".".join((BUILT_IN_PACKAGE, *path.parts)), file))
    return tuple(infos)


def _from_plugin_files() -> list[MethodInfo]:
    return [info for file in _plugin_files.values() for info in methods_of(_plugin(file))]


def _plugin(file: Path) -> Module:
    return parsed(plugin_name(file), file, file.parent)
