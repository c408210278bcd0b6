"""Quality and its uncertainty: pure functions of stored rows and losses.

The document is the unit of statistics: tokens of one text depend on each other, and what a method
gains drifts over a text, so only documents are exchangeable.
"""

from tta_bench.statistics.clusters import clusters_of, never_reset
from tta_bench.statistics.curves import (
    Bucket,
    by_distance,
    by_frequency,
    by_kind,
    by_occurrence,
    by_position,
    earlier_occurrences,
    last_distances,
    log_edges,
)
from tta_bench.statistics.multiple import LEVEL, holm, holm_pairs, tiers
from tta_bench.statistics.paired import (
    ONE_DOCUMENT,
    Estimate,
    PairedDifference,
    clustered_ratio,
    paired_difference,
)
from tta_bench.statistics.quality import Quality, exp, quality
from tta_bench.statistics.resampling import (
    BOOTSTRAP_DOCUMENTS,
    EXACT_DOCUMENTS,
    RESAMPLES,
    bootstrap_interval,
    sign_flip_p,
)
from tta_bench.statistics.student import t_p_value, t_quantile

__all__ = [
    "BOOTSTRAP_DOCUMENTS",
    "EXACT_DOCUMENTS",
    "LEVEL",
    "ONE_DOCUMENT",
    "RESAMPLES",
    "Bucket",
    "Estimate",
    "PairedDifference",
    "Quality",
    "bootstrap_interval",
    "by_distance",
    "by_frequency",
    "by_kind",
    "by_occurrence",
    "by_position",
    "clustered_ratio",
    "clusters_of",
    "earlier_occurrences",
    "exp",
    "holm",
    "holm_pairs",
    "last_distances",
    "log_edges",
    "never_reset",
    "paired_difference",
    "quality",
    "sign_flip_p",
    "t_p_value",
    "t_quantile",
    "tiers",
]
