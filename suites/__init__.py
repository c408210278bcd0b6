"""The built-in suites, YAML files; installed as the data package `tta_bench_suites`.

This file makes the folder a regular package: `importlib.resources` cannot read a namespace package
from an editable install.
"""
