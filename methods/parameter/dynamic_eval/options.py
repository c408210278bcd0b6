"""The hyper-parameters of dynamic evaluation, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tta_bench_methods.parameter.dynamic_eval.rules import RULES
from tta_bench_methods.parameter.dynamic_eval.token_weights import Weighting


@dataclass
class Options:
    """Hyper-parameters of dynamic evaluation."""

    optimizer: Literal["sgd", "adam", "adamw", "rms18", "rms19", "rms-gpt2"] = field(
        default="adam", metadata={"help": "update rule"}
    )
    lr: float | None = field(
        default=None, metadata={"help": "learning rate; none: the rule's own default"}
    )
    subset: str = field(
        default="all",
        metadata={
            "help": "all, body, mlp, down, query, last-K, blocks-A-B, norm, bias, head or lora"
        },
    )
    clip: float | None = field(default=None, metadata={"help": "largest gradient norm of a step"})
    prior: float | None = field(
        default=None,
        metadata={"help": "pull back to the pretrained weights (adamw, rms18, rms19)"},
    )
    interval: int | None = field(
        default=None, metadata={"help": "tokens between steps; none: every chunk"}
    )
    rank: int = field(default=8, metadata={"help": "rank r of lora"})
    targets: tuple[str, ...] = field(
        default=("mlp",), metadata={"help": "modules lora adapts, by part of their names"}
    )
    stats: str | None = field(
        default=None,
        metadata={"help": "dataset for the statistics of the rms rules and tf-idf"},
    )
    stats_blocks: int = field(
        default=200, metadata={"help": "blocks of 512 tokens read for the statistics"}
    )
    steps: int = field(default=1, metadata={"help": "gradient steps on each chunk"})
    momentum: float = field(default=0.0, metadata={"help": "momentum of sgd"})
    weights: Weighting = field(
        default="uniform", metadata={"help": "what a token's loss is weighed by"}
    )
    warm: str | None = field(
        default=None, metadata={"help": "dataset on which A of lora is warmed; none: A is random"}
    )
    warm_chunks: int = field(default=64, metadata={"help": "chunks of 256 tokens read to warm it"})

    def __post_init__(self) -> None:
        needs_stats = RULES[self.optimizer].needs_statistics
        if needs_stats and self.stats is None:
            raise ValueError(
                f"optimizer={self.optimizer} needs gradient statistics; add stats=DATASET, "
                "text other than what is evaluated."
            )
        if self.prior is not None and RULES[self.optimizer].prior is None:
            raise ValueError(f"prior does not go with optimizer={self.optimizer}.")
        if needs_stats and self.subset == "lora":
            raise ValueError("lora has no pretrained gradients: use sgd, adam or adamw.")
        if self.lr is not None and self.lr < 0:
            raise ValueError("lr must be at least 0.")
        if self.interval is not None and self.interval < 1:
            raise ValueError("interval must be at least 1 token.")
        if self.weights == "tf-idf" and self.stats is None:
            raise ValueError(
                "weights=tf-idf needs document frequencies; add stats=DATASET, text other than "
                "what is evaluated."
            )
        if self.steps < 1:
            raise ValueError("steps must be at least 1.")
        if self.steps > 1 and self.interval is not None:
            raise ValueError("steps are taken on each chunk: leave interval out.")
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum must be at least 0 and below 1.")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum does not go with optimizer={self.optimizer}; use sgd.")
        if self.warm is not None and self.subset != "lora":
            raise ValueError("warm is for subset=lora.")
        if self.warm_chunks < 1:
            raise ValueError("warm_chunks must be at least 1.")
        if self.rank < 1 or self.stats_blocks < 1:
            raise ValueError("rank and stats_blocks must be at least 1.")
