"""Methods are written against the public names alone, as a third party's are."""

import ast
from pathlib import Path

import pytest

import tta_bench
import tta_bench.heads

METHODS = Path(tta_bench.__file__).parent.parent / "methods"
FILES = sorted(METHODS.rglob("*.py"))
PUBLIC = {
    "tta_bench": set(tta_bench.__all__),
    "tta_bench.heads": set(getattr(tta_bench.heads, "__all__", ())),
}


def private_imports(tree: ast.Module) -> list[str]:
    """What a file imports of tta_bench that is not public."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [("." * node.level + (node.module or ""), alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            public = name is None or name in PUBLIC.get(module, ())
            if module.split(".")[0] == "tta_bench" and not (module in PUBLIC and public):
                found.append(f"{module}: {name}")
    return found


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(METHODS)) for f in FILES])
def test_a_method_imports_public_names_alone(file):
    assert private_imports(ast.parse(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "from tta_bench.documents import load_documents",
        "import tta_bench.engine.loop",
        "def f():\n    from tta_bench import engine",
    ],
)
def test_what_is_not_public_is_seen(line):
    assert private_imports(ast.parse(line))
    assert not private_imports(ast.parse("from tta_bench import Method, load_documents"))


def test_every_public_name_is_there():
    for name in tta_bench.__all__:
        assert getattr(tta_bench, name)
