"""Errors that a user can fix: one sentence that says what is wrong and what to do.

The command line prints the sentence and exits with `exit_code`; only `--debug` shows a traceback.
"""

from __future__ import annotations


class BenchError(Exception):
    """An error that the user can fix."""

    exit_code = 2


class UsageError(BenchError):
    """A wrong argument: an unknown name, a value of the wrong type, an impossible combination."""


class ModelError(BenchError):
    """A model that cannot be found, loaded, or used as requested."""


class WeightlessError(ModelError):
    """A model whose code does not run without its weights."""


class DocumentError(BenchError):
    """A dataset or package that cannot be found, read or decoded."""


class StorageError(BenchError):
    """Files of a run that cannot be written or are gone, which ends everything, not one method."""


class MethodError(BenchError):
    """A method, usually a user's plugin, that breaks its contract."""


class MetricError(BenchError):
    """A metric, usually a user's plugin, that breaks its contract."""
