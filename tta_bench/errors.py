"""Errors a user can cause: each message is one sentence that says what is wrong and what to do.

The command line prints the sentence and exits with `exit_code`; a traceback is shown with
`--debug` only.
"""

from __future__ import annotations


class BenchError(Exception):
    """Anything the user can mend."""

    exit_code = 2


class UsageError(BenchError):
    """A wrong argument: unknown name, ill-typed parameter, impossible combination."""


class ModelError(BenchError):
    """A model that cannot be found, loaded, or used as asked."""


class WeightlessError(ModelError):
    """A model whose code does not run without its weights."""


class DocumentError(BenchError):
    """A dataset that cannot be found, read, or decoded."""


class MethodError(BenchError):
    """A method (usually a user's plugin) that breaks its contract."""
