"""A class that stands in no file is told by what can change its numbers, as an edit of a cell."""

from __future__ import annotations

import linecache
import sys
from types import ModuleType
from typing import Any

import pytest

from tta_bench.contract.source import source_hash

CELLS = """
from dataclasses import dataclass
from tta_bench import Method

GAIN = 0.5
UNUSED = 1

def helper(x):
    return inner(x) * 2

def inner(x):
    return x + 1

class Base(Method):
    family = "output"

class Mine(Base):
    '''A docstring.'''

    @dataclass
    class Params:
        rate: float = 0.1

    def score(self, window):
        return helper(GAIN)
"""


@pytest.fixture
def hash_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    number = 0

    def hashed(cells: str) -> str:
        """As a kernel does it: what was typed is kept by the name of its cell."""
        nonlocal number
        number += 1
        name = f"<cell {number}>"
        module = ModuleType("typed_here")
        monkeypatch.setitem(sys.modules, "typed_here", module)
        monkeypatch.setitem(linecache.cache, name, (len(cells), None, cells.splitlines(True), name))
        exec(compile(cells, name, "exec"), vars(module))
        return source_hash(module.Mine)

    return hashed


def test_the_same_cells_are_the_same(hash_of):
    assert hash_of(CELLS) == hash_of("# another cell\n" + CELLS.replace("UNUSED = 1", "UNUSED = 2"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GAIN = 0.5", "GAIN = 0.25"),
        ("helper(GAIN)", "helper(GAIN + 0)"),
        ("x + 1", "x + 2"),
        ('family = "output"', 'family = "head"'),
        ("rate: float = 0.1", "rate: float = 0.2"),
        ("class Base(Method):", "class Base(Method):\n    def adapt(self, *_): pass\n"),
    ],
)
def test_an_edit_that_may_move_a_number_is_another_method(hash_of, old, new):
    assert hash_of(CELLS) != hash_of(CELLS.replace(old, new))
