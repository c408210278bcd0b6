"""What a method asks of the model and the protocol, known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """What must be there for a method to run; see `Method.needs`.

    Attributes:
        positions: the most tokens that one of its own windows holds; 0: it reads the protocol's
            windows alone. A window never holds more than a document does.
        hidden: whether it reads hidden states, so that the model must split into body and
            unembedding.
        weights: whether it changes the model's own weights or takes gradients through its blocks,
            so that they must be floats on one device; every method of the parameter family does,
            whatever it says here.
    """

    positions: int = 0
    hidden: bool = False
    weights: bool = False
