"""The report: one HTML page of stored runs, and its figures as files."""

from tta_bench.report.build import build_report
from tta_bench.report.content import Report

__all__ = ["Report", "build_report"]
