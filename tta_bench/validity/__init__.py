"""Probes that hold a method to the rules of the game, on tiny random models."""

from tta_bench.validity.check import check, quick_checks
from tta_bench.validity.report import ProbeResult, ValidityReport

__all__ = ["ProbeResult", "ValidityReport", "check", "quick_checks"]
