"""What can be said of a method without importing it, read from its source.

Names, base classes and constants are followed through the file and through what it imports. What
cannot be followed is refused in a sentence, so that no list shows a guess; once a class is loaded,
the class itself is asked.
"""

from __future__ import annotations

import ast
import builtins
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tta_bench.contract.modules import Module, assigned
from tta_bench.errors import MethodError

_REGISTER = ("tta_bench.register", "tta_bench.contract.registry.register")


@dataclass(frozen=True)
class ParamInfo:
    """One hyper-parameter as its source declares it."""

    name: str
    type: str
    default: str
    help: str

    @property
    def choices(self) -> list[str]:
        """The values that a `Literal` in its type allows, in their order; none without one."""
        found = [
            part.slice
            for part in ast.walk(ast.parse(self.type, mode="eval"))
            if isinstance(part, ast.Subscript) and ast.unparse(part.value).endswith("Literal")
        ]
        return [
            str(value.value)
            for values in found
            for value in (values.elts if isinstance(values, ast.Tuple) else [values])
            if isinstance(value, ast.Constant)
        ]


@dataclass(frozen=True)
class MethodInfo:
    """A method as its source declares it."""

    name: str
    module: str
    class_name: str
    file: Path
    family: str
    summary: str
    params: tuple[ParamInfo, ...]


class _Class(NamedTuple):
    """A class and the module that defines it."""

    module: Module
    node: ast.ClassDef


class _Value(NamedTuple):
    """An expression and the module that it stands in."""

    module: Module
    node: ast.expr


class _Unreadable(Exception):
    """Source that cannot be followed; the message names it."""


def methods_of(module: Module) -> list[MethodInfo]:
    """The methods that a module registers.

    Raises:
        MethodError: a name, a family or parameters that cannot be read from the source.
    """
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            name = _registered_name(_Class(module, node))
            if name is not None:
                found.append(_described(_Class(module, node), name))
    return found


def method_at(module: Module, class_name: str, name: str) -> MethodInfo | None:
    """The method that a module defines or imports as `class_name`; None if there is none.

    Args:
        module: where to look.
        class_name: what the class is called there.
        name: of the method where the class registers none.
    """
    cls = _named(module, class_name)
    return _described(cls, _registered_name(cls) or name) if isinstance(cls, _Class) else None


def _described(cls: _Class, name: str) -> MethodInfo:
    node, file = cls.node, cls.module.file
    if cls.module.definitions.get(node.name) is not node:
        raise MethodError(f"{file}: move {node.name}, a method, to the top level of the file.")
    summary = (ast.get_docstring(node) or "").strip().split("\n")[0]
    part = "family"
    try:
        family = _text(_member(cls, "family"), default="none")
        part = "parameters"
        params = tuple(_params(_member(cls, "Params")).values())
    except (_Unreadable, RecursionError) as error:
        raise MethodError(
            f"{file}: the {part} of {node.name} cannot be read from the source, which has {error}; "
            "write them into the class, without computing them."
        ) from None
    return MethodInfo(name, cls.module.name, node.name, file, family, summary, params)


def _registered_name(cls: _Class) -> str | None:
    for decorator in cls.node.decorator_list:
        if isinstance(decorator, ast.Call) and _is_register(cls.module, decorator.func):
            arguments = [*decorator.args, *(keyword.value for keyword in decorator.keywords)]
            try:
                return _text(_Value(cls.module, arguments[0]) if arguments else None)
            except _Unreadable as error:
                raise MethodError(
                    f"{cls.module.file}: the name of {cls.node.name} cannot be read from the "
                    f'source, which has {error}; write @register("name").'
                ) from None
    return None


def _is_register(module: Module, function: ast.expr) -> bool:
    called = ast.unparse(function)
    for origin, name, alias in module.imports:
        if name == "*":
            written = {"register": f"{origin}.register"}
        elif name is None:
            written = {f"{alias or origin}.register": f"{origin}.register"}
        else:
            written = {str(alias): f"{origin}.{name}"}
            written[f"{alias}.register"] = f"{origin}.{name}.register"
        if written.get(called) in _REGISTER:
            return True
    return False


def _text(value: _Class | _Value | None, default: str | None = None) -> str:
    if value is None and default is not None:
        return default
    if isinstance(value, _Value):
        found = _followed(value.module, value.node)
        literal = found.node if isinstance(found, _Value) else None
        if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
            return literal.value
        raise _Unreadable(ast.unparse(value.node))
    raise _Unreadable("no text there")


def _named(module: Module, name: str, seen: frozenset[str] = frozenset()) -> _Class | _Value | None:
    """What a name of a module's top level stands for; imports are followed."""
    if name in module.definitions:
        node = module.definitions[name]
        return _Class(module, node) if isinstance(node, ast.ClassDef) else _Value(module, node)
    if module.name in seen:
        return None
    for origin, taken, called in module.imports:
        if taken == "*" or (taken is not None and called == name):
            other = module.find(origin)
            wanted = name if taken == "*" else taken
            found = None if other is None else _named(other, wanted, seen | {module.name})
            if found is not None:
                return found
    return None


def _module_called(module: Module, name: str) -> Module | None:
    """The module that `name`, such as `a`, `a.b` or an alias, stands for."""
    for origin, taken, called in module.imports:
        if taken is None and name == (called or origin):
            return module.find(origin)
        if taken not in (None, "*") and called == name:
            return module.find(f"{origin}.{taken}")
    return None


def _followed(module: Module, node: ast.expr) -> _Class | _Value | None:
    """The class or the literal that an expression stands for; None if that cannot be said."""
    if isinstance(node, ast.Subscript):  # Base[T]
        return _followed(module, node.value)
    if isinstance(node, ast.Name):
        found = _named(module, node.id)
        return _followed(found.module, found.node) if isinstance(found, _Value) else found
    if isinstance(node, ast.Attribute):
        other = _module_called(module, ast.unparse(node.value))
        if other is not None:
            return _followed(other, ast.Name(node.attr))
        owner = _followed(module, node.value)
        found = _member(owner, node.attr) if isinstance(owner, _Class) else None
        return _followed(found.module, found.node) if isinstance(found, _Value) else found
    return _Value(module, node)


def _bases(cls: _Class) -> list[_Class]:
    found = []
    for base in cls.node.bases:
        owner = _followed(cls.module, base)
        if isinstance(owner, _Class):
            found.append(owner)
        elif not _is_standard(cls.module, base):
            raise _Unreadable(f"the base class {ast.unparse(base)}")
    return found


def _is_standard(module: Module, base: ast.expr) -> bool:
    """Whether it is a class of Python's own, such as `ABC` or `Generic[T]`."""
    name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
    for origin, taken, called in module.imports:
        if name.split(".")[0] == (called or taken or origin).split(".")[0]:
            return origin.split(".")[0] in sys.stdlib_module_names
    return hasattr(builtins, name)


def _member(cls: _Class, name: str) -> _Class | _Value | None:
    """What a class, or the nearest of its bases, says under a name."""
    for owner in _lineage(cls):
        if isinstance(owner, _Unreadable):
            raise owner
        for item in reversed(owner.node.body):
            if isinstance(item, ast.ClassDef) and item.name == name:
                return _Class(owner.module, item)
            if name in assigned(item):
                return _Value(owner.module, assigned(item)[name])
    return None


def _lineage(cls: _Class) -> list[_Class | _Unreadable]:
    """A class and its bases as Python asks them: one that several of them share comes last.

    Where bases cannot be followed, that stands in their place: it matters only to who gets there.
    """
    found: list[_Class | _Unreadable] = [cls]
    try:
        bases = _bases(cls)
    except _Unreadable as error:
        return [cls, error]
    for base in bases:
        line = _lineage(base)
        found = [owner for owner in found if owner not in line] + line
    return found


def _params(found: _Class | _Value | None) -> dict[str, ParamInfo]:
    """The fields of a dataclass, those of its bases first."""
    if isinstance(found, _Value):
        value, found = found, _followed(found.module, found.node)
        if not isinstance(found, _Class):
            raise _Unreadable(ast.unparse(value.node))
    if found is None:
        return {}
    fields: dict[str, ParamInfo] = {}
    for base in reversed(_bases(found)):
        fields |= _params(base)
    for item in found.node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            kind = ast.unparse(item.annotation)
            if "ClassVar" not in kind:
                default, help_text = _default(found.module, item.value)
                name = item.target.id
                fields[name] = ParamInfo(name, kind, default, help_text)
    return fields


def _default(module: Module, value: ast.expr | None) -> tuple[str, str]:
    """The default of a field as `name:key=value` takes it, and the field's help."""
    help_text = ""
    if isinstance(value, ast.Call):  # field(default=..., metadata={"help": "..."})
        said = {keyword.arg: keyword.value for keyword in value.keywords}
        value = said.get("default", said.get("default_factory"))
        try:
            help_text = str(ast.literal_eval(said["metadata"]).get("help", ""))
        except (KeyError, ValueError, AttributeError):
            help_text = ""
    if value is None:
        return "", help_text
    found = _followed(module, value)
    node = found.node if isinstance(found, _Value) else value
    return _written(node), help_text


def _written(node: ast.expr) -> str:
    if isinstance(node, (ast.Tuple, ast.List)):
        return f"[{','.join(map(_written, node.elts))}]"
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool)):
        return str(node.value).lower()
    return ast.unparse(node).strip("'")
