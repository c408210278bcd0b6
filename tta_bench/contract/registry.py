"""Finding methods by name: entry points, files dropped into `methods/`, and `--plugin FILE`.

Listing reads source files without importing them, so it never loads PyTorch; a class is imported
when it is first used.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from tta_bench.errors import MethodError, UsageError

if TYPE_CHECKING:
    from tta_bench.contract.method import Method

ENTRY_POINT_GROUP = "tta_bench.methods"
BUILT_IN_PACKAGE = "tta_bench_methods"
PLUGIN_PREFIX = "tta_bench_plugin_"

C = TypeVar("C", bound=type)
_plugin_files: dict[str, Path] = {}


@dataclass(frozen=True)
class ParamInfo:
    """One hyper-parameter as its source file declares it."""

    name: str
    type: str
    default: str
    help: str


@dataclass(frozen=True)
class MethodInfo:
    """What can be said of a method without importing it."""

    name: str
    module: str
    class_name: str
    file: Path
    family: str
    summary: str
    params: tuple[ParamInfo, ...]


def register(name: str) -> Callable[[C], C]:
    """Class decorator: makes a `Method` available as `--method name`.

    It is read from the source, so that listing methods imports none of them; at run time it checks
    the name and gives it to the class.

    Raises:
        MethodError: the name is not a plain word.
    """
    if not name or any(character in name for character in ":,= \t\n/"):
        raise MethodError(f"'{name}' cannot be a method's name: use letters, digits and dashes.")

    def named(cls: C) -> C:
        cls.name = name  # type: ignore[attr-defined]
        return cls

    return named


def available() -> dict[str, MethodInfo]:
    """Every method that can be named, sorted by name; imports none of them.

    Raises:
        MethodError: two installed packages claim the same name.
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
    infos = available()
    if name not in infos:
        near = difflib.get_close_matches(name, infos, n=1, cutoff=0.5)
        known = ", ".join(infos)
        hint = f"did you mean '{near[0]}'?" if near else f"known methods: {known}."
        raise UsageError(f"there is no method '{name}'; {hint}")
    info = infos[name]
    module = _import(info.module, info.file)
    return _checked(name, getattr(module, info.class_name))


def add_plugin(path: str | Path) -> list[str]:
    """Makes the methods of a Python file available; returns their names.

    Raises:
        UsageError: no such file.
        MethodError: it does not import, or registers no method.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise UsageError(f"there is no plugin file {path}.")
    infos = _describe_file(file, _plugin_module(file))
    if not infos:
        _import(_plugin_module(file), file)  # a failing import is the better news
        raise MethodError(
            f'{path} registers no method; put @register("name") above a class derived from Method.'
        )
    _plugin_files[str(file)] = file
    for info in infos:
        load(info.name)
    return [info.name for info in infos]


def source_hash(cls: type) -> str:
    """sha256 of the file that defines the class and of what it imports from its own package.

    It is part of a run's identity: another source may give other numbers.
    """
    digest = hashlib.sha256()
    for file in _source_files(cls):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _source_files(cls: type) -> list[Path]:
    package = cls.__module__.partition(".")[0]
    waiting, files = [cls.__module__], {}
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in files or module is None or name.partition(".")[0] != package:
            continue
        files[name] = Path(module.__file__ or "")
        waiting += _imported_names(files[name], module.__package__ or "")
    return sorted(files.values())


def _imported_names(file: Path, package: str) -> list[str]:
    """Modules that a file names in its imports, relative ones and submodules included."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


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
    return cls


def _import(module: str, file: Path) -> ModuleType:
    """The module of a method; a plugin's file is loaded by its path, once."""
    try:
        if not module.startswith(PLUGIN_PREFIX):
            return importlib.import_module(module)
        if module not in sys.modules:
            spec = importlib.util.spec_from_file_location(module, file)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[module] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[module])
        return sys.modules[module]
    except MethodError:
        raise
    except Exception as error:
        sys.modules.pop(module, None)
        raise MethodError(f"{file} cannot be imported: {type(error).__name__}: {error}.") from error


def _plugin_module(file: Path) -> str:
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    return f"{PLUGIN_PREFIX}{file.stem}_{digest}"


def _from_entry_points() -> list[MethodInfo]:
    infos = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        file = _module_file(entry.module)
        if file is None:
            continue
        described = {info.class_name: info for info in _describe_file(file, entry.module)}
        info = described.get(entry.attr)
        if info is not None:
            infos.append(info)
    return infos


def _from_built_in_folder() -> list[MethodInfo]:
    package = _module_file(BUILT_IN_PACKAGE)
    if package is None:
        return []
    infos = []
    for file in sorted(package.parent.rglob("*.py")):
        if file.name != "__init__.py":
            path = file.relative_to(package.parent).with_suffix("")
            infos += _describe_file(file, ".".join((BUILT_IN_PACKAGE, *path.parts)))
    return infos


def _from_plugin_files() -> list[MethodInfo]:
    return [
        info
        for file in _plugin_files.values()
        for info in _describe_file(file, _plugin_module(file))
    ]


def _module_file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin).resolve() if spec and spec.origin else None


def _describe_file(file: Path, module: str) -> list[MethodInfo]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise MethodError(f"{file} is not valid Python: {error}.") from error
    infos = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            name = _registered_name(node)
            if name is not None:
                infos.append(_describe_class(node, name, module, file))
    return infos


def _registered_name(node: ast.ClassDef) -> str | None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and decorator.args:
            function = decorator.func
            called = function.attr if isinstance(function, ast.Attribute) else None
            called = function.id if isinstance(function, ast.Name) else called
            argument = decorator.args[0]
            if called == "register" and isinstance(argument, ast.Constant):
                return str(argument.value)
    return None


def _describe_class(node: ast.ClassDef, name: str, module: str, file: Path) -> MethodInfo:
    family, params = "none", []
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
            targets = [target.id for target in item.targets if isinstance(target, ast.Name)]
            if "family" in targets:
                family = str(item.value.value)
        if isinstance(item, ast.ClassDef) and item.name == "Params":
            params = [_describe_param(field) for field in item.body if _is_field(field)]
    summary = (ast.get_docstring(node) or "").strip().split("\n")[0]
    return MethodInfo(name, module, node.name, file, family, summary, tuple(params))


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _describe_param(node: ast.stmt) -> ParamInfo:
    assert isinstance(node, ast.AnnAssign)
    assert isinstance(node.target, ast.Name)
    default, help_text = "", ""
    if isinstance(node.value, ast.Call):  # field(default=..., metadata={"help": "..."})
        for keyword in node.value.keywords:
            if keyword.arg in ("default", "default_factory"):
                default = ast.unparse(keyword.value)
            if keyword.arg == "metadata":
                try:
                    help_text = str(ast.literal_eval(keyword.value).get("help", ""))
                except ValueError:
                    help_text = ""
    elif node.value is not None:
        default = ast.unparse(node.value)
    return ParamInfo(node.target.id, ast.unparse(node.annotation), default.strip("'"), help_text)
