"""That a built-in method passed the probes is remembered; nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tta_bench.contract import registry
from tta_bench.contract.choice import choose
from tta_bench.evaluation import probed as room
from tta_bench.evaluation.probed import Probed, probed
from tta_bench.validity.report import ProbeResult, ValidityReport

PLUGIN = """from tta_bench import Method, register

@register("from-a-file")
class FromAFile(Method):
    family = "output"

    def score(self, window):
        return self.below.score(window)
"""


class Probes:
    """Stands for the probes: counts its calls, and finds what it is told to."""

    def __init__(self, status: str = "pass"):
        self.calls, self.status = 0, status

    def __call__(self, cls: type, params: object, name: str) -> ValidityReport:
        self.calls += 1
        result = ProbeResult("future", self.status, None, "—", "It reads ahead.")
        return ValidityReport(name, (result,), 0.0, (), ("in a smaller size",))


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Probes:
    """Probes that count, and a cache that nothing is in."""
    found = Probes()
    monkeypatch.setenv("TTA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room, "quick_checks", found)
    another_process(monkeypatch)
    return found


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what this process knows."""
    monkeypatch.setattr(room, "_PROBED", {})
    room._surroundings.cache_clear()


@pytest.mark.parametrize("spec", ["neural-cache", "streaming-llm+ngram:order=3+neural-cache"])
def test_another_process_reads_what_was_found(probes, monkeypatch, spec):
    first = probed(choose(spec))
    another_process(monkeypatch)
    assert probed(choose(spec)) == first == Probed(True, (), None, ("in a smaller size",))
    assert probes.calls == 1


def test_other_values_are_probed(probes, monkeypatch):
    for spec in ("neural-cache", "neural-cache:weight=0.3", "neural-cache:weight=0.3+ngram"):
        probed(choose(spec))
    assert probes.calls == 3


@pytest.mark.parametrize("what", ["source_hash", "version", "_surroundings"])
def test_other_code_is_probed(probes, monkeypatch, what):
    probed(choose("neural-cache"))
    another_process(monkeypatch)
    values = {"source_hash": lambda cls: "other", "version": lambda package: "99"}
    monkeypatch.setattr(room, what, values.get(what, lambda: ("another bench",)))
    probed(choose("neural-cache"))
    assert probes.calls == 2


@pytest.mark.parametrize("status", ["fail", "skip"])
def test_what_did_not_pass_is_probed_again(probes, monkeypatch, status):
    probes.status = status
    first = probed(choose("neural-cache"))
    another_process(monkeypatch)
    assert probed(choose("neural-cache")) == first
    assert first.valid is not True
    assert probes.calls == 2


def test_a_plugin_is_probed_by_every_process(probes, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_plugin_files", {})
    (tmp_path / "plugin.py").write_text(PLUGIN)
    registry.add_plugin(tmp_path / "plugin.py")
    for spec in ("from-a-file", "streaming-llm+from-a-file"):
        another_process(monkeypatch)
        probed(choose(spec))
        another_process(monkeypatch)
        probed(choose(spec))
    assert probes.calls == 4


@pytest.mark.parametrize("text", ["", "{}", '{"notes": 3}', "\x00"])
def test_a_damaged_file_is_replaced(probes, monkeypatch, tmp_path, text):
    probed(choose("neural-cache"))
    (file,) = (tmp_path / "cache" / "probed").iterdir()
    whole = file.read_text()
    file.write_text(text)
    another_process(monkeypatch)
    assert probed(choose("neural-cache")).valid is True
    assert (probes.calls, file.read_text()) == (2, whole)


def test_without_a_cache_it_is_probed(probes, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert probed(choose("neural-cache")).valid is True
