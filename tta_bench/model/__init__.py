"""Language models: loading them, and the split into body and unembedding that methods build on."""

from tta_bench.model.cache import LaneCache
from tta_bench.model.language_model import LanguageModel

__all__ = ["LaneCache", "LanguageModel"]
