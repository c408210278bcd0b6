"""tta-bench: measures methods that let a language model keep learning while it reads.

The public API, all a plugin needs. Names are imported on first use, so that the command line
can print help and lists without loading PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tta_bench.errors import BenchError, MethodError, UsageError
    from tta_bench.load import load_results
    from tta_bench.method import Method, StepShape
    from tta_bench.model import LanguageModel
    from tta_bench.model.compilation import compiled
    from tta_bench.registry import register
    from tta_bench.scores import LaneScores, Logits, Scores
    from tta_bench.slow_weights import SlowWeights
    from tta_bench.window import Window

_HOME = {
    "BenchError": "errors",
    "LaneScores": "scores",
    "LanguageModel": "model",
    "Logits": "scores",
    "Method": "method",
    "MethodError": "errors",
    "Scores": "scores",
    "SlowWeights": "slow_weights",
    "StepShape": "method",
    "UsageError": "errors",
    "Window": "window",
    "compiled": "model.compilation",
    "load_results": "load",
    "register": "registry",
}

__all__ = [
    "BenchError",
    "LaneScores",
    "LanguageModel",
    "Logits",
    "Method",
    "MethodError",
    "Scores",
    "SlowWeights",
    "StepShape",
    "UsageError",
    "Window",
    "compiled",
    "load_results",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tta_bench' has no attribute {name!r}")
    return getattr(import_module(f"tta_bench.{_HOME[name]}"), name)
