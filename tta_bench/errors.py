"""Errors that a user can fix: one sentence that says what is wrong and what to do.

The command line prints the sentence and exits with `exit_code`; only `--debug` shows a traceback.
"""

from __future__ import annotations

import re


class BenchError(Exception):
    """An error that the user can fix: one sentence, whatever it quotes at its end."""

    exit_code = 2

    def __init__(self, sentence: str = ""):
        super().__init__(_one_stop(sentence))


class UsageError(BenchError):
    """A wrong argument: an unknown name, a value of the wrong type, an impossible combination."""


class ModelError(BenchError):
    """A model that cannot be found, loaded, or used as requested."""


class WeightlessError(ModelError):
    """A model whose code does not run without its weights."""


class DocumentError(BenchError):
    """A dataset or package that cannot be found, read or decoded."""


class UnreachableError(DocumentError):
    """A dataset that is not on this machine and cannot be fetched.

    Args:
        what: what is wrong, without a full stop.
        remedy: what to do.

    Attributes:
        what: as it was given, for one who knows a better remedy.
    """

    def __init__(self, what: str, remedy: str):
        super().__init__(f"{what}: {remedy}")
        self.what = what


class StorageError(BenchError):
    """Files of a run that cannot be written or are gone, which ends everything, not one method."""


class ChangedError(BenchError):
    """A file that changed while it was in use, which ends everything, not one method."""


class MethodError(BenchError):
    """A method, usually a user's plugin, that breaks its contract."""


class MetricError(BenchError):
    """A metric, usually a user's plugin, that breaks its contract."""


def _one_stop(sentence: str) -> str:
    """The sentence without what a quoted message leaves before the full stop: a blank, a colon."""
    return sentence if sentence.endswith("..") else re.sub(r"[\s:;,]+\.$", ".", sentence)
