"""A missing optional package is one sentence that says how to install it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tta_bench import extras
from tta_bench.errors import UsageError
from tta_bench.extras import require

CHECKOUT = Path(__file__).resolve().parent.parent


def test_what_is_installed_is_not_asked_for() -> None:
    require("json", "pytest", extra="report", what="the report")


def test_missing_packages_are_named_together() -> None:
    with pytest.raises(UsageError, match="the report needs the packages no_such_a and no_such_b"):
        require("no_such_a", "json", "no_such_b", extra="report", what="the report")


def test_an_editable_install_stays_editable() -> None:
    with pytest.raises(UsageError, match=r"pip install -e '\.\[gguf\]'` in the checkout\.$"):
        require("no_such", extra="gguf", what="a GGUF model")


def test_an_installed_copy_is_told_the_packages_and_not_to_replace_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "tta_bench" / "extras.py"))
    assert extras.install_command("train") == (
        "`pip install 'accelerate>=1.10' 'matplotlib>=3.10'`"
    )


def test_no_page_replaces_an_editable_install_by_a_copy() -> None:
    pages = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *CHECKOUT.glob("docs/*.md")]
    commands = [
        command
        for page in pages
        for command in re.findall(r"pip install [^`\n]*", page.read_text(encoding="utf-8"))
        if "'.[" in command
    ]
    assert commands
    assert all("-e '.[" in command for command in commands), commands


def test_the_demo_brings_what_the_report_needs() -> None:
    text = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    rule = text[text.index("$(VENV)/.installed:") :].split("\n\n")[0]
    assert re.search(r"--editable '\.\[.*\breport\b.*\]'", rule)
