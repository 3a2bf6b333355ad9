"""What extraction hands to chunking: one text, where its pages lie, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Syntax = Literal["markdown", "plain", "code"]
PageUnit = Literal["page", "slide", "sheet"]


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its number from 1 and the half-open range of characters it fills in the text."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file within a file, as a mail has them: its name there, which is not to be trusted, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file.

    text: the whole text; every offset in Knowlex counts its characters (Python `str` indices).
        It holds no NUL and no lone surrogate; line ends are LF.
    syntax: how the structure is written: Markdown (headings, lists, tables, fences), plain text, or code.
    language: of code, by its usual name in lower case ("python"); else empty.
    pages: where the pages lie, in order, not overlapping; empty for a format without pages.
        Pages without text are left out, so `page_count` may be larger than their number.
    page_unit: what `pages` are: pages, slides or sheets.
    attachments: files within this one, in order; each becomes a file of its own, whose parent this is.
    parser: name and version of what read the file, part of a chunk set's identity.
    metadata: title, author, encoding, pages without text and the like; JSON values only.
    """

    text: str
    syntax: Syntax
    parser: str
    pages: tuple[Page, ...] = ()
    page_count: int | None = None
    page_unit: PageUnit = "page"
    language: str = ""
    attachments: tuple[Attachment, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document: `document.text[char_start:char_end] == text[repeated:]`, always.

    index: its place in the document, from 0.
    page_start, page_end: first and last page it touches, or None without pages.
    heading: the path of headings above it, joined by " > "; empty when there is none.
    token_count: tokens of the text alone (without heading and special tokens).
    repeated: how many characters at the start of the text repeat the head of the table that it begins in, with the
        line end after it; they stand earlier in the document. Offsets and pages are those of what follows.
    """

    index: int
    text: str
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    heading: str
    token_count: int
    repeated: int = 0
