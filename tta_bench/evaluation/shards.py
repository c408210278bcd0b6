"""Shards: a dataset cut into lots of documents, by what is read alone and not by who reads it."""

from __future__ import annotations

import hashlib
import heapq
import json
from typing import TYPE_CHECKING, Any

from tta_bench.engine.lanes import asked_lanes
from tta_bench.model.device import pick_device

if TYPE_CHECKING:
    from tta_bench.evaluation.setting import Setting

GPU_LANES = 16
"""Lanes on a GPU where none are asked for; as many as fit would depend on the card."""

ROUNDS = 4
"""Documents for each of several lanes: lanes that end early take the next."""

LEAST_TOKENS = 512
"""Tokens of a shard, so that handing it over takes no time beside reading it."""


def planned_lanes(setting: Setting) -> int:
    """The lanes of every shard: those asked for, or a fixed number on a GPU."""
    spec, documents = setting.spec, len(setting.documents)
    asked = asked_lanes(spec.lanes, spec.protocol, pick_device(spec.device), documents)
    if asked is not None:
        return asked
    unmeasured = spec.isolate or spec.loading.device_map is not None
    return 1 if unmeasured else min(GPU_LANES, documents)


def shards(setting: Setting) -> list[tuple[int, ...]]:
    """The documents of each shard, by their indices; together all of the dataset.

    With one lane they follow the order of the dataset, with several the lengths, so that lanes end
    together. A method that is never reset reads all documents in one.
    """
    lanes, lengths = planned_lanes(setting), setting.documents.lengths
    order = list(range(len(lengths)))
    if setting.protocol.reset == "never":
        return [tuple(order)]
    if lanes > 1:
        order.sort(key=lambda index: -lengths[index])
    least = 1 if lanes == 1 else ROUNDS * lanes
    found: list[tuple[int, ...]] = []
    lot: list[int] = []
    tokens = 0
    for index in order:
        lot.append(index)
        tokens += int(lengths[index])
        if len(lot) >= least and tokens >= LEAST_TOKENS:
            found.append(tuple(lot))
            lot, tokens = [], 0
    return [*found, tuple(lot)] if lot else found


def dealt(setting: Setting, portions: int) -> list[list[tuple[int, ...]]]:
    """The shards of each of so many portions: the longest first, each to who has least so far.

    Where there are fewer shards than portions, the last of these have none.
    """
    lengths = setting.documents.lengths
    hands: list[list[tuple[int, ...]]] = [[] for _ in range(portions)]
    held = [(0, number) for number in range(portions)]
    sizes = {shard: int(lengths[list(shard)].sum()) for shard in shards(setting)}
    for shard in sorted(sizes, key=lambda shard: -sizes[shard]):
        tokens, number = heapq.heappop(held)
        hands[number].append(shard)
        heapq.heappush(held, (tokens + sizes[shard], number))
    return hands


def own_shards(setting: Setting) -> list[tuple[int, ...]]:
    """The shards that are read here: of a portion its own, else all."""
    portion = setting.spec.portion
    return shards(setting) if portion is None else dealt(setting, portion.of)[portion.number - 1]


def own_documents(setting: Setting) -> list[int]:
    """The documents that are read here, in the order of the dataset."""
    if setting.spec.portion is None:
        return list(range(len(setting.documents)))
    return sorted(index for shard in own_shards(setting) for index in shard)


def stamp(setting: Setting) -> dict[str, Any]:
    """What the manifest of a portion says: which it is, the documents of each, and the cut."""
    portion = setting.spec.portion
    assert portion is not None
    hands = dealt(setting, portion.of)
    cut = hashlib.sha256(json.dumps(hands).encode()).hexdigest()[:16]
    sizes = [sum(map(len, hand)) for hand in hands]
    return {"number": portion.number, "documents": sizes, "cut": cut}


def shards_left(setting: Setting, over: set[int]) -> list[tuple[int, ...]]:
    """The shards without what is stored, the longest first, so that workers end together.

    Of a shard with several lanes all is read again while a document is missing: losses may depend
    in their last bits on what shares a batch. So it is with documents that are read as one.
    """
    lengths = setting.documents.lengths
    whole = planned_lanes(setting) > 1 or setting.protocol.reset == "never"
    left = []
    for shard in own_shards(setting):
        missing = tuple(index for index in shard if index not in over)
        if missing:
            left.append(shard if whole else missing)
    return sorted(left, key=lambda shard: -int(lengths[list(shard)].sum()))
