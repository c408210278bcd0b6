"""Single files of a repository of the hub, and the commit that they are of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tta_bench.model.locate import Location


def hub_file(location: Location, name: str) -> Path | None:
    """The local copy of a file, fetched where it is not there; None where it cannot be had."""
    from transformers.utils import cached_file

    found = cached_file(
        location.path,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **location.options,
    )
    return None if found is None else Path(found)


def hub_commit(location: Location, name: str) -> str | None:
    """The commit that a file of a repository is of; None where it cannot be had."""
    from transformers.utils.hub import extract_commit_hash

    found = hub_file(location, name)
    return None if found is None else extract_commit_hash(str(found), None)
