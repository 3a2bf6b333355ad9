"""From the bytes of a file to its text.

`extract` picks the reader; each reader is a module of its own and is imported only when a file needs
it. `parser_version` names a reader without importing what it stands on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Literal

from pipeline.detect import Kind
from pipeline.document import Document
from storage.errors import ExtractError

PdfEngine = Literal["pypdf"]

_OWN_RULES = {Kind.PDF: 1, Kind.DOCX: 1, Kind.HTML: 1, Kind.MARKDOWN: 1, Kind.TEXT: 1}
"""Our share in what comes out: raise a format's number whenever our code changes its text."""

_LIBRARIES = {
    Kind.DOCX: ("python-docx",),
    Kind.HTML: ("html-to-markdown", "selectolax"),
}

_BLANK = b" \t\r\n\f\v\0"


def extract(
    data: bytes, *, kind: Kind, name: str, passwords: Sequence[str] = (), pdf_engine: PdfEngine = "pypdf"
) -> Document:
    """Read the text of a file.

    data: all of its bytes; kind: what `detect` made of them; name: its base name, for readers of formats
        whose bytes do not tell one dialect from another (none of today's needs it).
    passwords: tried in turn on an encrypted PDF.
    Raises ExtractError whose `code` is empty, corrupt, encrypted, no_text or too_large. Its message
    holds cause and remedy, neither the path nor anything of the content.
    """
    if not data.strip(_BLANK):
        raise _empty()
    document = _read(data, kind, parser_version(kind, pdf_engine=pdf_engine), passwords)
    if not document.text.strip():
        raise _empty()
    return document


def _empty() -> ExtractError:
    return ExtractError("empty file: nothing to index; add text to it or exclude it", code="empty")


# The readers' libraries cost up to 0.2 s each to import, and most runs meet few formats.
def _read(data: bytes, kind: Kind, parser: str, passwords: Sequence[str]) -> Document:
    match kind:
        case Kind.PDF:
            from pipeline.extract.pdf import read_pdf

            return read_pdf(data, parser=parser, passwords=passwords)
        case Kind.DOCX:
            from pipeline.extract.word import read_docx

            return read_docx(data, parser=parser)
        case Kind.HTML:
            from pipeline.extract.web import read_html

            return read_html(data, parser=parser)
        case Kind.MARKDOWN:
            from pipeline.extract.text import read_markdown

            return read_markdown(data, parser=parser)
        case Kind.TEXT:
            from pipeline.extract.text import read_text

            return read_text(data, parser=parser)


@cache
def parser_version(kind: Kind, *, pdf_engine: PdfEngine = "pypdf") -> str:
    """Name and version of everything that shapes a format's text, e.g. "pypdf 7.1.0, rules 1".

    Part of the settings fingerprint: a file is read again when it changes. Imports none of the readers.
    """
    libraries = (pdf_engine,) if kind is Kind.PDF else _LIBRARIES.get(kind, ())
    names = [f"{library} {version(library)}" for library in libraries]
    own = f"rules {_OWN_RULES[kind]}" if names else f"{kind} {_OWN_RULES[kind]}"
    return ", ".join([*names, own])
