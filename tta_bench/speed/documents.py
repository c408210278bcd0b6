"""Documents of random tokens, all of one length, so that every lane is full in every step."""

from __future__ import annotations

import numpy as np

from tta_bench.documents import TokenizedDocument
from tta_bench.speed.plan import SEED, SpeedPlan


def synthetic_documents(
    plan: SpeedPlan, lanes: int, steps: int, vocab_size: int
) -> list[TokenizedDocument]:
    """One document of `steps` full chunks for each lane; its tokens depend on the lane alone.

    Without a prefix the first token is not scored, so that the document has one token more.
    """
    length = steps * plan.chunk + (plan.prefix_id is None)
    return [
        TokenizedDocument(f"random-{lane}", _tokens(lane, length, vocab_size), 0, 0, "")
        for lane in range(lanes)
    ]


def synthetic_tokens(plan: SpeedPlan, lanes: int, steps: int, vocab_size: int) -> np.ndarray:
    """Those documents as the model reads them, prefix included: [lanes, steps * chunk + 1] int64.

    Step i reads columns i*chunk .. (i+1)*chunk - 1 and predicts the same range one further.
    """
    documents = synthetic_documents(plan, lanes, steps, vocab_size)
    ids = np.stack([document.token_ids for document in documents]).astype(np.int64)
    if plan.prefix_id is None:
        return ids
    return np.concatenate([np.full((lanes, 1), plan.prefix_id), ids], axis=1)


def _tokens(lane: int, length: int, vocab_size: int) -> np.ndarray:
    random = np.random.default_rng([SEED, lane])
    return random.integers(vocab_size, size=length, dtype=np.int32)
