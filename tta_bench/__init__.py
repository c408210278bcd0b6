"""tta-bench: measures methods that let a language model keep learning while it reads.

The public API: all a plugin needs, and the commands as functions (docs/library.md). Names are
imported on first use, so that the command line can print help and lists without loading PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tta_bench.checkout import find_folders
from tta_bench.version import __version__

find_folders()

if TYPE_CHECKING:
    from tta_bench.contract.context import ContextMethod
    from tta_bench.contract.method import Method
    from tta_bench.contract.needs import Needs
    from tta_bench.contract.registry import register
    from tta_bench.documents import load_documents
    from tta_bench.errors import BenchError, MethodError, MetricError, UsageError
    from tta_bench.heads.slow_weights import SlowWeights
    from tta_bench.library.audit import audit
    from tta_bench.library.check import check
    from tta_bench.library.evaluate import evaluate
    from tta_bench.library.results import Results
    from tta_bench.library.train import train
    from tta_bench.library.tune import tune
    from tta_bench.metrics.metric import Metric
    from tta_bench.metrics.registry import register_metric
    from tta_bench.model.cache import LaneCache
    from tta_bench.model.compilation import compiled
    from tta_bench.model.language_model import LanguageModel
    from tta_bench.model.scores import LaneScores, Logits, Scores, token_nll
    from tta_bench.model.step_shape import StepShape
    from tta_bench.model.window import Window
    from tta_bench.store.frame import load_results

_HOME = {
    "BenchError": "errors",
    "ContextMethod": "contract.context",
    "LaneCache": "model.cache",
    "LaneScores": "model.scores",
    "LanguageModel": "model.language_model",
    "Logits": "model.scores",
    "Method": "contract.method",
    "MethodError": "errors",
    "Metric": "metrics.metric",
    "MetricError": "errors",
    "Needs": "contract.needs",
    "Results": "library.results",
    "Scores": "model.scores",
    "SlowWeights": "heads.slow_weights",
    "StepShape": "model.step_shape",
    "UsageError": "errors",
    "Window": "model.window",
    "audit": "library.audit",
    "check": "library.check",
    "compiled": "model.compilation",
    "evaluate": "library.evaluate",
    "load_documents": "documents",
    "load_results": "store.frame",
    "register": "contract.registry",
    "register_metric": "metrics.registry",
    "token_nll": "model.scores",
    "train": "library.train",
    "tune": "library.tune",
}

__all__ = [
    "BenchError",
    "ContextMethod",
    "LaneCache",
    "LaneScores",
    "LanguageModel",
    "Logits",
    "Method",
    "MethodError",
    "Metric",
    "MetricError",
    "Needs",
    "Results",
    "Scores",
    "SlowWeights",
    "StepShape",
    "UsageError",
    "Window",
    "__version__",
    "audit",
    "check",
    "compiled",
    "evaluate",
    "load_documents",
    "load_results",
    "register",
    "register_metric",
    "token_nll",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tta_bench' has no attribute {name!r}")
    return getattr(import_module(f"tta_bench.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
