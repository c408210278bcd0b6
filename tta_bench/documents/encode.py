"""From a text to its encoding, and what is odd about the pair: control strings, lost text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tta_bench.format import plural

_NAMED = 3  # control strings that a note names


@dataclass(frozen=True)
class Oddities:
    """What a reader of a document's numbers must know about its tokens.

    Attributes:
        controls: the tokenizer's control strings, such as `<s>`, that the text holds.
        parsed: whether any of them became a control token.
        lossy: whether the tokens decode to another text.
        marked: whether the text begins with a byte-order mark.
    """

    controls: tuple[str, ...] = ()
    parsed: bool = False
    lossy: bool = False
    marked: bool = False


NOT_ODD = Oddities()


@dataclass
class Tally:
    """Oddities over all documents: how many have which."""

    documents: int = 0
    controls: int = 0
    parsed: int = 0
    lossy: int = 0
    marked: int = 0
    strings: list[str] = field(default_factory=list)  # the first few that were found

    def add(self, found: Oddities) -> None:
        """Counts one document more."""
        self.documents += 1
        self.controls += bool(found.controls)
        self.parsed += found.parsed
        self.lossy += found.lossy
        self.marked += found.marked
        new = [string for string in found.controls if string not in self.strings]
        self.strings += new[: _NAMED - len(self.strings)]

    def sentences(self, parse_controls: bool) -> list[str]:
        """One sentence for each kind of oddity that there is."""
        of = f"of {plural(self.documents, 'document')}"
        said = []
        if self.controls:
            if parse_controls:
                fate = "are read as control tokens, as the tool does whose protocol this is"
            elif self.parsed:
                fate = "become control tokens, since this tokenizer cannot read them as plain text"
            else:
                fate = "are read as plain text"
            said.append(
                f"control strings of the tokenizer ({', '.join(self.strings)}) in {self.controls} "
                f"{of} {fate}."
            )
        if self.lossy:
            said.append(
                f"the tokenizer loses text in {self.lossy} {of}, which its tokens do not decode to "
                "(unknown characters, case, white space): bits per byte count bytes that were "
                "never predicted, so they are too low."
            )
        if self.marked:
            said.append(
                f"a byte-order mark at the beginning of {self.marked} {of} is read as text like "
                "any other; save the files without it to leave it out."
            )
        return said


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, and whether control strings in a text become control tokens.

    With `special`, the tokens that the tokenizer itself puts around a text are there, too.

    Tokens that were added to a vocabulary without being special, such as `<think>`, are words like
    any other: models write them, and llama.cpp reads them so as well.
    """

    tokenizer: Any
    parse_controls: bool
    special: bool = False

    def encode(self, text: str) -> Any:
        """The encoding of a whole text.

        Never in pieces, since a tokenizer may merge across any boundary.
        """
        # Only where it matters: tokenizers written in Python split all added tokens with it.
        split = not self.parse_controls and bool(self._held(text))
        return self.tokenizer(
            text,
            add_special_tokens=self.special,
            **({"split_special_tokens": True} if split else {}),
            return_attention_mask=False,
            return_token_type_ids=False,
            # It would warn about documents longer than the model's context; those are expected.
            verbose=False,
        )

    def oddities(self, text: str, token_ids: list[int]) -> Oddities:
        """What is odd about a text, or the start of one, and its tokens."""
        held = self._held(text)
        # An unknown character gives the id of `<unk>` just as the string may.
        control_ids = {self._controls[string] for string in held} - {self.tokenizer.unk_token_id}
        return Oddities(
            controls=held,
            parsed=not control_ids.isdisjoint(token_ids),
            lossy=not _same(text, decode(self.tokenizer, token_ids)),
            marked=text.startswith("\ufeff"),
        )

    @cached_property
    def _controls(self) -> dict[str, int]:
        """The ids of the control strings."""
        added = self.tokenizer.added_tokens_decoder
        found = {token.content: id_ for id_, token in added.items() if token.special}
        known = self.tokenizer.all_special_tokens
        ids: Iterable[int] = self.tokenizer.convert_tokens_to_ids(known)
        return found | dict(zip(known, ids, strict=True))

    def _held(self, text: str) -> tuple[str, ...]:
        return tuple(string for string in self._controls if string in text)


def decode(tokenizer: Any, token_ids: list[int]) -> str:
    """The text that tokens stand for, control tokens included."""
    text: str = tokenizer.decode(
        token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


def _same(text: str, decoded: str) -> bool:
    """Whether nothing was lost; many tokenizers put a space before the text or drop one there."""
    return decoded in (text, f" {text}", text.removeprefix(" "))
