"""The report: one HTML page of stored runs, and its figures as files."""

from tta_bench.report.build import Report, build_report

__all__ = ["Report", "build_report"]
