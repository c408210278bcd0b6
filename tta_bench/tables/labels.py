"""Names of methods as tables show them: paths among their parameters cut to their last parts."""

from __future__ import annotations

import re
from collections.abc import Sequence

CUT = "…/"
_PATH = re.compile(r"(?<==)(?:[A-Za-z]:)?[^,=]*/[^,=]+")


def labels_of(specs: Sequence[str]) -> list[str]:
    """A label for each spec; different specs have different labels.

    `fwl:weights=/data/runs/best.safetensors` becomes `fwl:weights=…/best.safetensors`, unless
    another spec would be called so as well: then as many parts of each path are kept as tell them
    apart.
    """
    longest = max((spec.count("/") for spec in specs), default=0)
    for parts in range(1, longest + 1):
        labels = [_cut(spec, parts) for spec in specs]
        if len(set(labels)) == len(set(specs)):
            return labels
    return list(specs)


def _cut(spec: str, parts: int) -> str:
    return _PATH.sub(lambda path: _last(path[0], parts), spec)


def _last(path: str, parts: int) -> str:
    names = path.rstrip("/").split("/")
    kept = "/".join(names[-parts:])
    return path if len(names) <= parts or len(CUT + kept) >= len(path) else CUT + kept
