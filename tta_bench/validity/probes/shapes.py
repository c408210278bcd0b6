"""The odd shapes that documents and models come in."""

from __future__ import annotations

from tta_bench.engine.protocol import Protocol
from tta_bench.validity.lab import CannotBuild, Found, Lab, compared
from tta_bench.validity.models import FAMILIES, document, tiny_model
from tta_bench.validity.probes.lanes import alike, observe
from tta_bench.validity.reader import CHUNK, Reader, largest_difference

ONE_TOKEN = Protocol(chunk=1)


def one_token_chunk(lab: Lab) -> Found:
    """Reads one token a step, and a document whose last chunk has one token."""
    length = CHUNK + 1
    lab.read([document(length, 71)], protocol=ONE_TOKEN)
    lab.read([document(length, 72)])
    return "pass", 0.0, f"{2 * length} tokens", "Chunks of one token are read like others."


def idle_lanes(lab: Lab) -> Found:
    """Reads one document in three lanes, and two that end at different times."""
    text, short = document(4 * CHUNK, 73), document(CHUNK, 74)
    (alone,) = observe(lab, [text], 1)
    (in_three,) = observe(lab, [text], 3)
    beside_short = observe(lab, [short, text], 2)[1]
    return alike(
        [(alone, in_three), (alone, beside_short)],
        "Lanes with nothing to read change nothing.",
        "Lanes with nothing to read change what the others predict",
    )


def mid_chunk(lab: Lab) -> Found:
    """Reads a document that ends in mid chunk, alone, beside a longer one, and continued."""
    text = document(3 * CHUNK, 75)
    end = 2 * CHUNK + CHUNK // 2
    short = type(text)(f"{text.key}-short", text.token_ids[:end], end, end, "short")
    (whole,), (alone,) = lab.read([text]), lab.read([short])
    padded, _ = lab.read([short, document(3 * CHUNK, 78)], lanes=2)
    return compared(
        largest_difference([whole[:end], padded], [alone, alone]),
        "A document that ends in mid chunk is predicted like the beginning of a longer one.",
        "Where a document ends, or the padding after it, changes what is predicted of it.",
    )


def families(lab: Lab) -> Found:
    """Reads two documents on a tiny model of every supported family."""
    documents = [document(2 * CHUNK, 76), document(CHUNK + 3, 77)]
    wrong: list[str] = []
    refused: list[str] = []
    for family in FAMILIES:
        try:
            Reader(lab.fresh(2, tiny_model(family))).read(documents)
        except CannotBuild as error:
            refused.append(f"{family}: {error}")
        except Exception as error:  # a method is foreign code
            wrong.append(f"{family}: {type(error).__name__}: {str(error).splitlines()[:1]}")
    good = len(FAMILIES) - len(wrong) - len(refused)
    figure = f"{good} of {len(FAMILIES)}"
    if wrong:
        return "fail", float(good), figure, f"{'; '.join(wrong[:2])}."
    if refused:
        return "pass", float(good), figure, f"Refused in words: {'; '.join(refused[:2])}"
    return "pass", float(good), figure, f"Runs on {', '.join(FAMILIES)}."
