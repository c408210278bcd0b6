"""Turns HTML, and help formats that resemble it, into the plain text that a reader sees."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_SKIPPED = {"script", "style", "head", "nav", "header", "footer", "svg", "form", "button", "info"}
_BLOCKS = {
    *("p", "div", "section", "article", "blockquote", "table", "ul", "ol", "dl", "dt", "dd"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "title", "hr", "figure", "steps", "note", "list"),
}
_LINES = {"br", "tr", "li", "item"}
_VERBATIM = {"pre", "screen", "code-block"}
_NAVIGATION = re.compile(
    r"navheader|navfooter|navbar|sphinxsidebar|related|header-panel|headerlink"
)


class _Reader(HTMLParser):
    """Collects the visible text of a page in `parts`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skip: list[str] = []  # open elements from the outermost skipped one inwards
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skip:
            if tag == self._skip[0]:
                self._skip.append(tag)
            return
        marks = " ".join(value or "" for name, value in attrs if name in ("class", "id"))
        if tag in _SKIPPED or (
            marks and tag in ("div", "a", "table") and _NAVIGATION.search(marks)
        ):
            self._skip.append(tag)
        elif tag in _VERBATIM:
            self._verbatim += 1
            self.parts.append("\n\n")
        elif tag in _BLOCKS:
            self.parts.append("\n\n")
        elif tag in _LINES:
            self.parts.append("\n- " if tag in ("li", "item") else "\n")
        elif tag in ("td", "th"):
            self.parts.append("  ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._skip and tag in _LINES | _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._skip:
            if tag == self._skip[0]:
                self._skip.pop()
        elif tag in _VERBATIM:
            self._verbatim = max(0, self._verbatim - 1)
            self.parts.append("\n\n")
        elif tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.parts.append(data if self._verbatim else re.sub(r"\s+", " ", data))


def html_to_text(html: str) -> str:
    """The visible text of a page: blocks separated by empty lines, without menus and scripts.

    Preformatted text (`pre`) keeps its lines and spaces.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = [line.rstrip() for line in "".join(reader.parts).split("\n")]
    # One space at the start of a line is left over from inline layout; more than one is the
    # indentation of preformatted text.
    lines = [line[1:] if re.match(r" \S", line) else line for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
