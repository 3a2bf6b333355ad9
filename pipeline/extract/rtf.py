"""RTF to Markdown: headings, lists with their labels, tables, notes, comments, text boxes.

One pass over the tokens, groups on a stack of our own, so that time grows with the size of the file alone
and nesting costs no recursion. striprtf lends its tables (which destinations hold no text, which character
set is which code page) but not its loop: its pattern for hyperlinks is cubic (26 kB: 3 s), binary data ends
the text, and it leaves out notes, text boxes, headings and every double-byte character whose second byte
is written as a letter.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from striprtf.striprtf import charset_map, destinations

from pipeline.document import Document
from pipeline.extract.blocks import Block, escaped, joined, paragraph
from pipeline.extract.decode import TITLE_CHARS, clean
from pipeline.extract.source import Source
from pipeline.extract.tables import table
from storage.errors import ExtractError

MAX_DEPTH = 20_000
"""Groups within groups; real documents stay under 100."""


def read_rtf(source: Source) -> Document:
    """Read a Rich Text document; `info` gives title, author and subject.

    A document that is cut off is read as far as it goes, as Word does, and says so in its metadata.
    Raises ExtractError: corrupt, no_text. There is no encrypted RTF: its passwords only forbid changes.
    """
    start = source.data.find(b"{\\rtf", 0, 1024)
    if start < 0:
        raise ExtractError("corrupt RTF: it does not begin as one: save it again in a word processor")
    walk = _Walk()
    walk.read(source.data, start)
    text = walk.text()
    if not text:
        raise ExtractError("no text in the document: if it holds pictures of text, run OCR first", code="no_text")
    return Document(text, "markdown", source.parser, metadata=walk.metadata)


@dataclass(slots=True)
class _Flow:
    """A text of its own: the body, a note, a header, a text box, a name in the style sheet.

    use: the destination it came from. pieces: of the paragraph at hand; label: of its list item.
    cell: paragraphs of the table cell at hand; row, rows: of the table at hand.
    boxes: what stands in text boxes anchored in the paragraph at hand.
    """

    use: str
    pieces: list[str] = field(default_factory=list[str])
    label: str = ""
    cell: list[str] = field(default_factory=list[str])
    row: list[str] = field(default_factory=list[str])
    rows: list[list[str]] = field(default_factory=list[list[str]])
    boxes: list[Block] = field(default_factory=list[Block])
    blocks: list[Block] = field(default_factory=list[Block])

    def end_paragraph(self, *, level: int, in_table: bool, depth: int) -> None:
        text, label, boxes = self.take(), self.label, self.boxes
        self.label, self.boxes = "", []
        if in_table:
            self.cell += [f"{label} {text}", *(box.text for box in boxes)]
            return
        self._end_table()
        if text:
            self.blocks.append(_formatted(text, label, level, depth))
        self.blocks += boxes

    def end_cell(self) -> None:
        self.end_paragraph(level=0, in_table=True, depth=0)
        self.row.append(" ".join(self.cell).strip())
        self.cell = []

    def end_row(self) -> None:
        self.rows.append(self.row)
        self.row = []

    def finish(self, *, level: int = 0) -> list[Block]:
        """All blocks; what was begun and not ended is ended here."""
        if self.cell:
            self.end_cell()
        if self.row:
            self.end_row()
        self.end_paragraph(level=level, in_table=False, depth=0)
        self._end_table()
        return self.blocks

    def take(self) -> str:
        """The text of the paragraph at hand, which ends there."""
        text = _tidy("".join(self.pieces))
        self.pieces = []
        return text

    def _end_table(self) -> None:
        """A table of one column only places things, so its cells are given as paragraphs."""
        if all(len(row) == 1 for row in self.rows):
            self.blocks += [paragraph(row[0]) for row in self.rows if row[0]]
        elif text := table(self.rows):
            self.blocks.append(Block(text))
        self.rows = []


class _State(NamedTuple):
    """What holds until the group ends.

    flow: where text goes; None drops it. fallback: how many characters stand in for a \\u escape.
    outline: 0 to 8 for a heading, 9 for body text. style: number of the paragraph style, or -1.
    """

    flow: _Flow | None
    font: int | None = None
    fallback: int = 1
    hidden: bool = False
    deleted: bool = False
    in_table: bool = False
    outline: int = 9
    style: int = -1
    depth: int = 0


class _Walk:
    """One pass through a document."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self._body = _Flow("body")
        self._state = _State(self._body)
        self._stack: list[_State] = []
        self._starred = False  # \* came: an unknown destination is to be dropped
        self._skip = 0  # characters left that only stand in for a \u escape
        self._pending = bytearray()  # characters not decoded yet
        self._codec = "cp1252"
        self._default_font: int | None = None
        self._fonts: dict[int, str] = {}
        self._styles: dict[int, int] = {}  # heading level by style
        self._notes: list[str] = []
        self._comments: list[str] = []
        self._comment_author = ""
        self._margins: dict[str, None] = {}

    def text(self) -> str:
        """The whole text: body, notes, comments, then headers and footers, each of these once."""
        body = joined(self._body.finish(level=self._level()))
        return "\n\n".join(filter(None, [body, *self._notes, *self._comments, *self._margins]))

    def read(self, data: bytes, start: int) -> None:
        for match in _tokens(data, start):
            word, digits, text, escapes, brace, symbol = match.groups()
            if text:
                self._add(text)
            elif escapes:
                self._add(bytes.fromhex(escapes.replace(b"\\'", b"").decode()))
            else:
                self._flush()
                if word:
                    self._on_word(word, digits)
                elif symbol:
                    self._on_symbol(symbol)
                else:
                    self._on_brace(brace)
                    if not self._stack:
                        return  # what follows the document is not part of it
        self._flush()
        self.metadata["parts_failed"] = ["end of the document"]
        while self._stack:
            self._on_brace(b"}")

    # characters

    def _add(self, raw: bytes) -> None:
        """Put characters aside until all of the run are there: one of them may be spread over two tokens."""
        if self._skip:
            raw, self._skip = raw[self._skip :], max(0, self._skip - len(raw))
        self._pending += raw

    def _flush(self) -> None:
        if self._pending:
            self._write(self._pending.decode(self._codec_in_use(), errors="replace"))
            self._pending.clear()

    def _codec_in_use(self) -> str:
        if self._state.font is not None:
            return self._fonts.get(self._state.font, self._codec)
        # Many programs call the default font Western (0) whatever the code page of the document.
        codec = self._fonts.get(self._default_font or 0, "cp1252")
        return self._codec if codec == "cp1252" else codec

    def _write(self, text: str) -> None:
        state = self._state
        if state.flow is not None and not state.hidden and not state.deleted:
            state.flow.pieces.append(text)

    def _on_symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._starred = True
        elif symbol in b"\r\n":
            self._end_paragraph()
        else:
            self._add_character(_SYMBOLS.get(symbol, ""))

    def _add_character(self, character: str) -> None:
        if self._skip:
            self._skip -= 1
        else:
            self._write(character)

    # groups

    def _on_brace(self, brace: bytes) -> None:
        self._starred, self._skip = False, 0
        if brace == b"{":
            if len(self._stack) >= MAX_DEPTH:
                raise ExtractError("corrupt RTF: its groups are nested too deep: save it again in a word processor")
            self._stack.append(self._state)
            return
        inner, self._state = self._state, self._stack.pop()
        outer = self._state.flow
        if inner.flow is None or outer is None:
            return
        if inner.flow is not outer:
            self._end_flow(inner.flow, outer)
        elif outer.use == "stylesheet" and inner.style >= 0:
            self._styles[inner.style] = _heading_level(outer.take(), inner.outline)

    def _begin(self, destination: str) -> None:
        """Send the text of this group to a flow of its own."""
        self._state = _State(_Flow(destination), self._state.font, self._state.fallback)

    def _end_flow(self, flow: _Flow, outer: _Flow) -> None:
        use = _DESTINATIONS[flow.use]
        if use == "name":
            if name := flow.take()[:TITLE_CHARS]:
                self.metadata[flow.use] = name
        elif use == "comment author":
            self._comment_author = flow.take()
        elif use == "label":
            outer.label = flow.take()
        elif use == "box":
            outer.boxes += flow.finish()
        elif use != "definitions":
            self._end_aside(use, [block.text for block in flow.finish()], outer)

    def _end_aside(self, use: str, texts: list[str], outer: _Flow) -> None:
        if use == "margin":  # no bare page numbers
            self._margins.update(dict.fromkeys(text for text in texts if any(map(str.isalpha, text))))
        elif texts and use == "note":
            mark = f"[^{len(self._notes) + 1}]"
            outer.pieces.append(mark)
            self._notes.append(f"{mark}: {' '.join(texts)}")
        elif texts:
            self._comments.append(f"Comment ({self._comment_author or 'unsigned'}): {' '.join(texts)}")

    # control words

    def _on_word(self, name: bytes, digits: bytes | None) -> None:
        starred, self._starred = self._starred, False
        word = _WORDS.get(name)
        if word is None and not starred:
            self._skip = 0
        elif word in _CHARACTERS:
            self._add_character(_CHARACTERS[word])
        else:
            self._skip = 0
            self._on_known_word(word or "", int(digits) if digits else None, starred=starred)

    def _on_known_word(self, word: str, number: int | None, *, starred: bool) -> None:
        if self._state.flow is None:
            # The same text once more, in Unicode, in place of what \upr drops: it belongs where that group stands.
            if word == "ud" and len(self._stack) > 1:
                self._state = self._state._replace(flow=self._stack[-1].flow or self._stack[-2].flow)
        elif word == "u":
            self._on_unicode(number or 0)
        elif word in _DESTINATIONS:
            self._begin(word)
        elif word in _NO_TEXT or (starred and word not in _TRANSPARENT):
            self._state = self._state._replace(flow=None)
        else:
            self._on_property(word, number)

    def _on_unicode(self, number: int) -> None:
        if -0x8000 <= number <= 0x10FFFF:
            self._write(chr(number if number >= 0 else number + 0x10000))
        self._skip = self._state.fallback

    def _on_property(self, word: str, number: int | None) -> None:
        if word in _PARAGRAPH_ENDS:
            self._end_paragraph()
        elif word in _TABLE_MARKS:
            self._on_table_mark(word)
        elif word in _ENCODINGS:
            self._codec = _known_codec(f"cp{number}" if word == "ansicpg" else _ENCODINGS[word])
        elif word == "deff":
            self._default_font = number
        elif word == "fcharset" and self._state.font is not None:
            self._fonts[self._state.font] = _CODE_PAGES.get(number or 0, self._codec)
        else:
            self._state = _changed(self._state, word, number)

    def _end_paragraph(self) -> None:
        state = self._state
        if state.flow is not None:
            state.flow.end_paragraph(level=self._level(), in_table=state.in_table, depth=state.depth)

    def _level(self) -> int:
        outline = self._state.outline
        return outline + 1 if outline < 9 else self._styles.get(self._state.style, 0)

    def _on_table_mark(self, word: str) -> None:
        flow = self._state.flow
        if flow is None:
            return
        if word == "cell":
            flow.end_cell()
        elif word == "row":
            flow.end_row()
        else:  # a table within a cell: its words alone
            flow.end_paragraph(level=0, in_table=True, depth=0)


_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})?[ ]?"  # a word and its number
    rb"|([^\\{}\r\n]+)"  # text
    rb"|((?:\\'[0-9a-fA-F]{2}){1,1000})"  # characters by their codes
    rb"|([{}])"
    rb"|\\([^a-zA-Z])",  # a symbol
    re.DOTALL,
)


def _tokens(data: bytes, start: int) -> Iterator[re.Match[bytes]]:
    """The tokens from `start` on; the bytes that `\\bin` announces are passed over."""
    at: int | None = start
    while at is not None:
        begin, at = at, None
        for match in _TOKEN.finditer(data, begin):
            yield match
            if match[1] == b"bin":
                at = match.end() + max(0, int(match[2] or 0))
                break


def _changed(state: _State, word: str, number: int | None) -> _State:
    """The state after a word that formats characters or paragraphs."""
    on = number != 0
    match word:
        case "f":
            return state._replace(font=number)
        case "uc":
            return state._replace(fallback=max(0, 1 if number is None else number))
        case "v" | "deleted":
            return state._replace(hidden=on) if word == "v" else state._replace(deleted=on)
        case "plain":
            return state._replace(font=None, hidden=False, deleted=False)
        case "pard":
            return state._replace(in_table=False, outline=9, style=-1, depth=0)
        case "intbl":
            return state._replace(in_table=on)
        case "outlinelevel":
            return state._replace(outline=min(max(0, number or 0), 9))
        case "s":
            return state._replace(style=number or 0)
        case "ilvl":
            return state._replace(depth=min(max(0, number or 0), 8))
        case _:
            return state


_DESTINATIONS = {
    **dict.fromkeys(("fonttbl", "stylesheet"), "definitions"),
    **dict.fromkeys(("title", "author", "subject"), "name"),
    **dict.fromkeys(("listtext", "pntext"), "label"),
    **dict.fromkeys(("shptxt", "dptxbxtext"), "box"),
    **dict.fromkeys(("header", "headerf", "headerl", "headerr", "footer", "footerf", "footerl", "footerr"), "margin"),
    "footnote": "note",
    "annotation": "comment",
    "atnauthor": "comment author",
}
"""Destinations that are a text of their own, and what becomes of it."""

_TRANSPARENT = {
    *("info", "object", "result", "shp", "shpgrp", "shpinst", "do"),
    *("mmath", "moMath", "moMathPara", "mr", "me", "mnum", "mden", "mdeg", "mfName", "mlim", "mf", "mfunc", "mrad"),
    *("mnary", "md", "macc", "mbar", "mbox", "mborderBox", "mgroupChr", "mm", "mmr", "meqArr", "mphant", "mlimlow"),
    *("mlimLow", "mlimupp", "mlimUpp", "msub", "msup", "msSub", "msSubSup", "msSup", "msPre"),
}
"""Destinations whose text belongs to what is around them; of formulas the plain characters are kept."""

_NO_TEXT = destinations - _TRANSPARENT | {"nonesttables"}

_CHARACTERS = {
    **dict.fromkeys(("line", "lbr", "softline"), "\n"),
    **dict.fromkeys(("emspace", "enspace", "qmspace"), " "),
    "tab": "\t",
    "emdash": "\u2014",
    "endash": "\u2013",
    "bullet": "\u2022",
    "lquote": "\u2018",
    "rquote": "\u2019",
    "ldblquote": "\u201c",
    "rdblquote": "\u201d",
    "zwj": "\u200d",
    "zwnj": "\u200c",
}
_SYMBOLS = {b"~": "\u00a0", b"_": "-", b"{": "{", b"}": "}", b"\\": "\\"}
_PARAGRAPH_ENDS = frozenset(("par", "sect", "page", "column"))
_TABLE_MARKS = frozenset(("cell", "row", "nestcell", "nestrow"))
_ENCODINGS = {"ansicpg": "", "mac": "mac_roman", "pc": "cp437", "pca": "cp850"}

_FORMATS = ("f", "uc", "v", "deleted", "plain", "pard", "intbl", "outlinelevel", "s", "ilvl")
_WORDS = {
    word.encode(): word
    for words in (
        *(_DESTINATIONS, _TRANSPARENT, _NO_TEXT, _CHARACTERS, _PARAGRAPH_ENDS, _TABLE_MARKS, _ENCODINGS, _FORMATS),
        ("u", "ud", "deff", "fcharset"),
    )
    for word in words
}
"""All words that mean something here; most of a file is none of them, and is passed over quickly."""


def _known_codec(name: str) -> str:
    """The codec of this name, or Western where Python has none."""
    try:
        return codecs.lookup(_MACINTOSH.get(name, name)).name
    except LookupError:
        return "cp1252"


_MACINTOSH = {
    **dict.fromkeys(("mac_japanese", "cp10001"), "cp932"),
    **dict.fromkeys(("mac_chinesetrad", "cp10002"), "cp950"),
    **dict.fromkeys(("mac_korean", "cp10003"), "cp949"),
    **dict.fromkeys(("mac_chinesesimp", "cp10008"), "cp936"),
    **dict.fromkeys(("mac_ce", "cp10029"), "mac_latin2"),
    **dict.fromkeys(("mac_ukrainian", "cp10007"), "mac_cyrillic"),
    "mac_rumanian": "mac_romanian",
    "cp10000": "mac_roman",
    "cp10006": "mac_greek",
    "cp10079": "mac_iceland",
    "cp10081": "mac_turkish",
}
"""Code pages of the Macintosh that Python knows under another name, or only by their Windows cousin."""

_CODE_PAGES = {number: _known_codec(name) for number, name in charset_map.items()}

_HEADING_NAME = re.compile(r"heading ?([1-9])\s*(?:[,;]|$)", re.IGNORECASE)


def _heading_level(style: str, outline: int) -> int:
    """Level of a paragraph style by its outline or its built-in (English) name; 0 for body text."""
    if outline < 9:
        return outline + 1
    if found := _HEADING_NAME.match(style):
        return int(found[1])
    return 1 if style.rstrip(";").lower() == "title" else 0


_TYPED = re.compile(r"([•·▪–\uf0b7]|\d{1,3}[.)])\t+(?=\S)")


def _formatted(text: str, label: str, level: int, depth: int) -> Block:
    """A paragraph as heading, list item or plain paragraph; only "3." is a number to Markdown."""
    if not label and (typed := _TYPED.match(text)):
        label, text = typed[1], text[typed.end() :]
    if level:
        return Block(f"{'#' * min(level, 6)} {' '.join(f'{label} {text}'.split())}")
    if not label:
        return paragraph(text)
    if re.fullmatch(r"\d{1,9}[.)]", label):
        return Block(f"{label} {escaped(text)}", depth)
    # A lone letter is a bullet, too: that is how fonts of symbols draw them.
    number = any(map(str.isalnum, label)) and not (len(label) == 1 and label.isalpha())
    return Block(f"- {label} {escaped(text)}" if number else f"- {escaped(text)}", depth)


_SPACES = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]*\n[ \t\u00a0]*")


def _tidy(text: str) -> str:
    """Cleaned, halves of a character (each a \\u escape) joined, no soft hyphens, no spaces around line breaks."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _SPACES.sub("\n", clean(whole).replace("\u00ad", "").replace("\ufeff", "")).strip()
