"""Optional packages: checked before the work that needs them begins."""

from __future__ import annotations

from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

from tta_bench.errors import UsageError


def require(*modules: str, extra: str, what: str) -> None:
    """Checks that optional packages are installed.

    Args:
        modules: the packages, by the names under which they are imported.
        extra: the extra of tta-bench that brings them.
        what: what needs them, as the subject of the error's sentence, such as `the report`.

    Raises:
        UsageError: at least one is missing; the message says how to install the extra.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        names = f"package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
        raise UsageError(f"{what} needs the {names}; run {install_command(extra)}.")


def install_command(extra: str) -> str:
    """The `pip` command that adds an extra and leaves the installation as it is.

    A checkout stays editable. A copy is told the packages themselves: whence it came, and whether a
    registry has it under this name, is not known.
    """
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"`pip install -e '.[{extra}]'` in the checkout"
    packages = " ".join(f"'{package}'" for package in _packages(extra))
    return f"`pip install {packages}`"


def _packages(extra: str) -> list[str]:
    """What the extra brings, with versions: `plotly>=6.0`."""
    found = []
    for line in requires("tta-bench") or []:
        requirement, _, marker = line.partition(";")
        if f"extra == '{extra}'" in marker.replace('"', "'"):
            found.append(requirement.strip())
    return found
