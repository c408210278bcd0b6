"""The packages that a report needs beyond those of tta-bench itself."""

from __future__ import annotations

from importlib.util import find_spec

from tta_bench.errors import UsageError


def require(*modules: str) -> None:
    """Asks for packages before the work begins.

    Raises:
        UsageError: one is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise UsageError(
                f"the report needs the package {module}; run pip install 'tta-bench[report]'."
            )
