"""YAML files that people write: a mapping, and the line where each of its values stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_bench.errors import UsageError

if TYPE_CHECKING:
    from yaml import Node

_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$")
"""Numbers such as 1e-3, which YAML 1.1 takes for text, since they have no point."""


class Lines:
    """The lines of a file's values, looked up when asked for: a list of all would have no end where
    a few lines of aliases stand for gigabytes.
    """

    def __init__(self, root: Node):
        self._root = root

    def __call__(self, at: tuple[Any, ...]) -> int | None:
        """The line, from 1, of the value that these keys and list indices lead to, or of the
        innermost one on the way that the file has.
        """
        import yaml

        node, line = self._root, None
        for part in at:
            if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                node = node.value[part]
                line = node.start_mark.line + 1
                continue
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = [pair for pair in pairs if pair[0].value == str(part)]
            if not found:
                break
            key, node = found[-1]  # what `<<` merges stands before a mapping's own keys
            line = key.start_mark.line + 1
        return line


def read_yaml(path: Path, what: str) -> tuple[dict[str, Any], Lines]:
    """The mapping in a file, and the lines of its values.

    Args:
        path: the file.
        what: names it in an error.

    Raises:
        UsageError: it cannot be read, is not YAML, holds no mapping, or has a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and reads 1e-3 as a number."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    try:
        loader = Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is not None:
            _refuse_repeated_keys(node, what)
        raw = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}.") from error
    except yaml.MarkedYAMLError as error:
        place = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{what} is not valid YAML{place}: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: text that is not UTF-8, and dates and numbers that do not exist.
        problem = str(error).split("\n")[0]
        raise UsageError(f"{what} is not valid YAML: {problem}.") from error
    if node is None or not isinstance(raw, dict):
        raise UsageError(f"{what} must be a mapping of keys to values.")
    return raw, Lines(node)


def _refuse_repeated_keys(root: Node, what: str) -> None:
    """YAML would silently take the last."""
    import yaml

    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            waiting.append(value)
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    first = lines[key.value]
                    raise UsageError(
                        f"{what}, line {line}: '{key.value}' stands in line {first} already."
                    )
                lines[key.value] = line
