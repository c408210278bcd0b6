"""Lanes are strangers, and a reset lane remembers nothing."""

from __future__ import annotations

from collections.abc import Sequence

from tta_bench.documents import TokenizedDocument
from tta_bench.validity.lab import SAME, Found, Lab, compared
from tta_bench.validity.models import document
from tta_bench.validity.reader import CHUNK, Reader, Reading, largest_difference, where_first
from tta_bench.validity.tensors import changed, state


def neighbours(lab: Lab) -> Found:
    """Reads one document beside others, on two lanes and on eight."""
    text = document(3 * CHUNK, 31)
    beside = [document(3 * CHUNK, seed) for seed in (32, 33, 34)]
    found = [observe(lab, [text, other], 2)[0] for other in beside]
    found.append(observe(lab, [beside[0], text], 2)[1])
    found += [observe(lab, [text, *rest], 8)[0] for rest in (7 * beside[:1], _strangers(7))]
    return alike(
        [(found[0], other) for other in found[1:]],
        "A document's predictions do not depend on what is read in the next lanes.",
        "What is read in the next lane changes a document's predictions",
    )


def _strangers(count: int) -> list[TokenizedDocument]:
    return [document(3 * CHUNK, 130 + i) for i in range(count)]


def lanes(lab: Lab) -> Found:
    """Reads documents in one, two, four and eight lanes, in several orders."""
    lengths = [4, 2, 3, 1, 3, 2, 3, 2, 1]
    documents = [document(n * CHUNK, 40 + i) for i, n in enumerate(lengths)]
    base = observe(lab, documents, 1)
    order = range(len(documents))
    pairs: list[tuple[Reading, Reading]] = []
    for count, indices in ((2, order[::-1]), (4, order), (8, order), (1, [3, 0, 4, 1, 2])):
        found = observe(lab, [documents[i] for i in indices], count)
        pairs += [(base[i], reading) for i, reading in zip(indices, found, strict=True)]
    return alike(
        pairs,
        "One, two, four or eight lanes and any order of documents give the same predictions.",
        "Predictions depend on the number of lanes or on the order of documents",
    )


def observe(lab: Lab, documents: Sequence[TokenizedDocument], lanes: int) -> list[Reading]:
    """Readings of a fresh instance on so many lanes."""
    return Reader(lab.fresh(lanes)).observe(documents)


def alike(pairs: Sequence[tuple[Reading, Reading]], good: str, bad: str) -> Found:
    """Compares readings of the same document; a failure says where the first bad pair parts."""
    differences = [largest_difference([one.rows], [other.rows]) for one, other in pairs]
    worst = max(differences)
    wrong = [pair for pair, value in zip(pairs, differences, strict=True) if value > SAME]
    where = where_first(*wrong[0], SAME) if wrong else ""
    return compared(worst, good, f"{bad}: {where}.")


def reset(lab: Lab) -> Found:
    """Reads a document, another one, and the first one again after a reset."""
    text, other = document(3 * CHUNK, 35), document(4 * CHUNK, 36)
    method = lab.fresh()
    fresh_state = state(method)
    reader = Reader(method)
    (first,) = reader.read([text])
    reader.read([other])
    reader.reset(0)
    left = changed(fresh_state, state(method))
    (again,) = reader.read([text])
    difference = largest_difference([first], [again])
    if left:
        sentence = f"After reset {left[0]} is not what it is in a fresh instance."
        return "fail", difference, f"{len(left)} tensors", sentence
    return compared(
        difference,
        "After reset state and predictions are bit for bit those of a fresh instance.",
        "After reset predictions still depend on the document read before.",
        0.0,
    )
