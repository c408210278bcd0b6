"""Protocols: which inputs are read and which tokens scored, as a plan of windows over a document.

Every tool that reports perplexity divides documents into windows in its own way, and that way moves
the number more than most methods do. A *span* (start, stop, scored) over the token sequence
describes a window: its inputs are `sequence[start:stop]`, and its last `scored` positions predict
`sequence[stop - scored + 1 : stop + 1]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from tta_bench.errors import UsageError

PROTOCOLS = {
    "stream": "documents apart, chunk by chunk, every token scored once (the default)",
    "lm-eval": "lm-evaluation-harness's loglikelihood_rolling: disjoint windows, the last one full",
    "hf-guide": "the Hugging Face perplexity guide: documents joined, windows of W every S tokens",
    "llama.cpp": "llama-perplexity: disjoint windows, the second half of each scored",
    "krause": "dynamic-eval-gpt-2: disjoint blocks, the first token of each unscored, tail dropped",
}
CONTEXT_MODES = ("none", "recompute", "cache")
RESETS = ("document", "never")
PROBE_TOKENS = 1024
"""Tokens of a text that are read as a probe, from its start."""


class Span(NamedTuple):
    """One window over a document's sequence (the prefix token, if any, is its element 0)."""

    start: int
    stop: int
    scored: int


@dataclass(frozen=True)
class Protocol:
    """Everything that moves the number apart from the model, the method and the text.

    Attributes:
        name: one of PROTOCOLS.
        chunk: C, tokens scored in one step (`stream` only).
        context: tokens left of the chunk that the model still sees (`stream` only).
        context_mode: how they are seen: `none`; `recompute` reads them again in every window;
            `cache` carries their keys and values.
        window: W, for the protocols of other tools.
        stride: S, for `hf-guide`.
        prefix: `bos`, `eos`, `none`, `auto` (BOS, else EOS, else none) or a token id.
        reset: forget at each `document`, or `never`.
    """

    name: str = "stream"
    chunk: int = 256
    context: int = 0
    context_mode: str = "none"
    window: int | None = None
    stride: int | None = None
    prefix: str = "auto"
    reset: str = "document"

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise UsageError(
                f"there is no protocol '{self.name}'; choose from {', '.join(PROTOCOLS)}."
            )
        if self.reset not in RESETS:
            raise UsageError(f"--reset must be document or never, not '{self.reset}'.")
        if self.name == "stream":
            self._check_stream()
        else:
            self._check_other_tool()

    def _check_stream(self) -> None:
        if self.window is not None or self.stride is not None:
            raise UsageError(
                "--window and --stride belong to --protocol lm-eval, hf-guide, llama.cpp or "
                "krause; the stream protocol takes --chunk and --context."
            )
        if self.context_mode not in CONTEXT_MODES:
            raise UsageError(
                f"--context-mode must be one of {', '.join(CONTEXT_MODES)}, not "
                f"'{self.context_mode}'."
            )
        if self.chunk < 1 or self.context < 0:
            raise UsageError("--chunk must be at least 1 and --context at least 0.")
        if (self.context == 0) != (self.context_mode == "none"):
            raise UsageError(
                f"--context {self.context} does not go with --context-mode {self.context_mode}; "
                "give a context above 0 with recompute or cache, or neither."
            )

    def _check_other_tool(self) -> None:
        if self.window is None or self.window < 2:
            raise UsageError(f"--protocol {self.name} needs --window of at least 2 tokens.")
        if self.scored_per_window < 1:
            raise UsageError(
                f"--protocol {self.name} scores nothing in a window of {self.window} tokens; "
                f"use --window of at least {self.window + 1}."
            )
        if self.chunk != Protocol.chunk:
            raise UsageError(f"--chunk does not go with --protocol {self.name}; use --window.")
        if self.stride is not None and self.name != "hf-guide":
            raise UsageError(f"--stride does not go with --protocol {self.name}.")
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise UsageError("--stride must be between 1 and --window.")
        if self.context or self.context_mode != "none":
            raise UsageError(f"--context does not go with --protocol {self.name}; use --window.")
        if self.prefix != "auto" and not self.uses_prefix:
            raise UsageError(f"--prefix does not go with --protocol {self.name}, which has none.")

    @property
    def join(self) -> str | None:
        """The text that joins all documents into one stream; None keeps them apart."""
        return {"hf-guide": "\n\n", "krause": ""}.get(self.name)

    @property
    def drop_final_newline(self) -> bool:
        """Whether one newline at the end of each text is left out."""
        return self.name == "llama.cpp"

    @property
    def parses_controls(self) -> bool:
        """Whether a control string in a text becomes a control token, as with the original tool."""
        return self.name in ("lm-eval", "hf-guide", "krause")

    @property
    def uses_prefix(self) -> bool:
        """Whether a prefix token stands before the document."""
        return self.name in ("stream", "lm-eval")

    @property
    def inputs_per_window(self) -> int:
        """The most inputs one window reads (in context mode `cache`, the context not included)."""
        if self.name == "stream":
            return self.chunk + (self.context if self.context_mode == "recompute" else 0)
        assert self.window is not None
        return self.window if self.name == "lm-eval" else self.window - 1

    @property
    def scored_per_window(self) -> int:
        """The most predictions one window scores."""
        if self.name == "stream":
            return self.chunk
        assert self.window is not None
        if self.name == "llama.cpp":
            return self.window - self.window // 2 - 1
        return self.inputs_per_window

    def plan(self, length: int) -> Iterator[Span]:
        """Windows over a sequence of `length` elements, the prefix token included."""
        if self.name == "stream":
            return self._stream(length)
        if self.name == "lm-eval":
            return self._lm_eval(length)
        if self.name == "hf-guide":
            return self._hf_guide(length)
        return self._disjoint(length)

    def _stream(self, length: int) -> Iterator[Span]:
        reread = self.context if self.context_mode == "recompute" else 0
        for first in range(0, length - 1, self.chunk):
            stop = min(first + self.chunk, length - 1)
            yield Span(max(0, first - reread), stop, stop - first)

    def _lm_eval(self, length: int) -> Iterator[Span]:
        assert self.window is not None
        scored = 0
        while scored < length - 1:
            stop = min(scored + self.window, length - 1)
            yield Span(max(0, stop - self.window), stop, stop - scored)
            scored = stop

    def _hf_guide(self, length: int) -> Iterator[Span]:
        assert self.window is not None
        previous = 0
        for begin in range(0, length, self.stride or self.window):
            end = min(begin + self.window, length)
            scored = min(end - previous, end - begin - 1)
            if scored > 0:
                yield Span(begin, end - 1, scored)
            previous = end
            if end == length:
                return

    def _disjoint(self, length: int) -> Iterator[Span]:
        assert self.window is not None
        for begin in range(0, length - self.window + 1, self.window):
            yield Span(begin, begin + self.window - 1, self.scored_per_window)

    def to_dict(self) -> dict[str, Any]:
        """Its fields, for the manifest and the key of a run.

        A protocol without chunks is stored with the chunk that runs of it have always been stored
        with, whatever the default is: another one would change their keys.
        """
        return asdict(self) | ({} if self.name == "stream" else {"chunk": 1024})
