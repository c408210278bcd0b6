"""Lanes are strangers, and a reset lane remembers nothing."""

from __future__ import annotations

from tta_bench.validity.lab import Found, Lab, compared
from tta_bench.validity.models import document
from tta_bench.validity.reader import CHUNK, Reader, largest_difference
from tta_bench.validity.tensors import changed, state


def neighbours(lab: Lab) -> Found:
    """Reads one document beside others."""
    text = document(3 * CHUNK, 31)
    beside = [document(3 * CHUNK, 32), document(3 * CHUNK, 33), document(3 * CHUNK, 34)]
    found = [lab.read([text, other], lanes=2)[:1] for other in beside]
    found.append(lab.read([beside[0], text], lanes=2)[1:])
    worst = max(largest_difference(found[0], other) for other in found[1:])
    return compared(
        worst,
        "A document's predictions do not depend on what is read in the next lane.",
        "What is read in the next lane changes a document's predictions.",
    )


def lanes(lab: Lab) -> Found:
    """Reads documents in one, two and four lanes, in several orders."""
    lengths = [4, 2, 3, 1, 3]
    documents = [document(n * CHUNK, 40 + i) for i, n in enumerate(lengths)]
    base = lab.read(documents)
    worst = 0.0
    for count, order in ((2, [4, 3, 2, 1, 0]), (4, [0, 1, 2, 3, 4]), (1, [3, 0, 4, 1, 2])):
        found = lab.read([documents[i] for i in order], lanes=count)
        worst = max(worst, largest_difference([base[i] for i in order], found))
    return compared(
        worst,
        "One, two or four lanes and any order of documents give the same predictions.",
        "Predictions depend on the number of lanes or on the order of documents.",
    )


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
