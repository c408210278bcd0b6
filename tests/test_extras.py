"""A missing optional package is one sentence that says how to install it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tta_bench import extras
from tta_bench.errors import UsageError
from tta_bench.extras import require


def test_what_is_installed_is_not_asked_for() -> None:
    require("json", "pytest", extra="report", what="the report")


def test_missing_packages_are_named_together() -> None:
    with pytest.raises(UsageError, match="the report needs the packages no_such_a and no_such_b"):
        require("no_such_a", "json", "no_such_b", extra="report", what="the report")


def test_an_editable_install_stays_editable() -> None:
    with pytest.raises(UsageError, match=r"pip install -e '\.\[gguf\]'` in the checkout\.$"):
        require("no_such", extra="gguf", what="a GGUF model")


def test_an_installed_copy_is_told_the_name_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "tta_bench" / "extras.py"))
    assert extras.install_command("train") == "`pip install 'tta-bench[train]'`"
