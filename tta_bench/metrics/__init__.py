"""Metrics: what is computed of a stored run and its baseline, and how a table shows it."""

from tta_bench.metrics.metric import Metric
from tta_bench.metrics.registry import add_plugin, available, named, register_metric

__all__ = ["Metric", "add_plugin", "available", "named", "register_metric"]
