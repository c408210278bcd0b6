"""Progress bars of libraries are off while a command runs."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from tta_bench.cli.main import app

NAMES = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_bars_of_libraries_are_off_unless_asked_for(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name) if before is None else monkeypatch.setenv(name, before)
    assert CliRunner().invoke(app, ["list", "models"]).exit_code == 0
    assert [os.environ[name] for name in NAMES] == [after, after]
