"""`oracle:NAME:key=value,...` -> a stream."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import replace

from tta_bench.convert import Converter, split_commas
from tta_bench.errors import DocumentError, UsageError
from tta_bench.oracle.bursty import Bursty
from tta_bench.oracle.fixed import Copy, Nothing, Recall
from tta_bench.oracle.markov import Chain
from tta_bench.oracle.name import PREFIX
from tta_bench.oracle.stream import Stream
from tta_bench.oracle.switching import Switching
from tta_bench.oracle.tree import Tree

DOCUMENTS = 32
LENGTH = 4096
"""Documents, and tokens of each, that are read without `--limit` and `--max-tokens`."""

_DEFAULTS: dict[str, Stream] = {
    "unigram": Chain(symbols=64, alpha=0.5),
    "tree": Tree(),
    "switching": Switching(),
    "bursty": Bursty(),
    "copy": Copy(),
    "recall": Recall(),
    "nothing": Nothing(),
}
_MARKOV = re.compile(r"markov-(\d{1,2})")
NAMES = ("unigram", "markov-1", "markov-2", *list(_DEFAULTS)[1:])


def stream_of(spec: str) -> Stream:
    """The stream that a spec names.

    Raises:
        DocumentError: there is no such stream, or an option is unknown or out of range; the
            message says what to do.
    """
    name, _, rest = spec.removeprefix(PREFIX).partition(":")
    start = _start(spec, name)
    values: dict[str, str] = {}
    for entry in split_commas(rest):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or key in values:
            what = f"gives '{key}' twice" if equals else f"has '{entry}', which is not key=value"
            raise DocumentError(f"{spec} {what}; write {PREFIX}{name}:key=value,key=value.")
        values[key] = value
    convert = Converter(f"the stream '{PREFIX}{name}'", noun="option", text=True)
    try:
        if "order" in values and name != "switching":
            raise convert.error((), "the order is in the name: write markov-1, markov-2, ...")
        return _made(convert, lambda: replace(start, **convert.fields(type(start), values)))
    except UsageError as error:
        raise DocumentError(str(error)) from error


def _start(spec: str, name: str) -> Stream:
    """The stream of that name with its default options."""
    found = _MARKOV.fullmatch(name)
    if found:
        convert = Converter(f"the stream '{PREFIX}{name}'")
        try:
            return _made(convert, lambda: Chain(symbols=16, alpha=0.1, order=int(found[1])))
        except UsageError as error:
            raise DocumentError(str(error)) from error
    if name not in _DEFAULTS:
        known = ["markov-1", *_DEFAULTS]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{PREFIX}{near[0]}'?" if near else f"there are {', '.join(NAMES)}."
        raise DocumentError(f"There is no stream '{spec}'; {hint}")
    return _DEFAULTS[name]


def _made(convert: Converter, make: Callable[[], Stream]) -> Stream:
    try:
        return make()
    except ValueError as error:
        raise convert.error((), str(error)) from error
