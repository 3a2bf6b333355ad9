"""From the bytes of a file to its text.

`extract` picks the reader; each reader is a module of its own and is imported only when a file needs
it. `parser_version` names a reader without importing what it stands on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

from pipeline.detect import Kind
from pipeline.document import Attachment, Document
from pipeline.extract.source import Source
from storage.errors import ExtractError

PdfEngine = Literal["pypdf", "pypdfium2"]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Where a reader is, the libraries that shape what it gives, and our own share in it.

    optional: libraries that shape it, or how it is cut, where they are installed.
    rules: raise it whenever our code changes the text of a format.
    calls: readers that it hands parts of a file to; what shapes their texts shapes its own.
    """

    function: str
    libraries: tuple[str, ...] = ()
    rules: int = 1
    optional: tuple[str, ...] = ()
    calls: tuple[Kind, ...] = ()


_GRAMMARS = tuple(
    f"tree-sitter{language}"
    for language in (
        *("", "-bash", "-c", "-c-sharp", "-cpp", "-go", "-java", "-javascript", "-php", "-python", "-ruby", "-rust"),
        "-typescript",
    )
)

_READERS = {
    Kind.PDF: _Reader("pdf_engines.read_with_pdfium", ("pypdfium2", "pypdf"), rules=2),
    Kind.DOCX: _Reader("word.read_docx", ("python-docx",), rules=3, calls=(Kind.HTML, Kind.PPTX)),
    Kind.PPTX: _Reader("slides.read_pptx", ("python-docx",), rules=2),
    Kind.SPREADSHEET: _Reader("sheets.read_spreadsheet", ("python-calamine",), rules=2),
    Kind.OPENDOCUMENT: _Reader("opendocument.read_opendocument", ("lxml",), rules=2, calls=(Kind.PPTX,)),
    Kind.EPUB: _Reader("epub.read_epub", rules=3, calls=(Kind.HTML,)),
    Kind.RTF: _Reader("rtf.read_rtf", ("striprtf",), rules=2),
    Kind.MAIL: _Reader("mail.read_mail", rules=3, calls=(Kind.HTML,)),
    Kind.MAILBOX: _Reader("mail.read_mailbox", calls=(Kind.MAIL,)),
    Kind.OUTLOOK: _Reader("outlook.read_outlook", ("olefile", "python-oxmsg"), rules=2, calls=(Kind.MAIL, Kind.RTF)),
    Kind.WEB_ARCHIVE: _Reader("mail.read_web_archive", calls=(Kind.HTML,)),
    Kind.NOTEBOOK: _Reader("notebook.read_notebook", rules=2, calls=(Kind.HTML,)),
    Kind.HTML: _Reader("web.read_html", ("html-to-markdown", "selectolax"), rules=3),
    Kind.XML: _Reader("xml.read_xml", calls=(Kind.HTML,)),
    Kind.JSON: _Reader("json.read_json", rules=2),
    Kind.CSV: _Reader("csv.read_csv", rules=2),
    Kind.MARKDOWN: _Reader("text.read_markdown", rules=2),
    Kind.CODE: _Reader("code.read_code", rules=2, optional=_GRAMMARS),
    Kind.TEXT: _Reader("text.read_text", rules=3),
}
_PDF_WITH_PYPDF = _Reader("pdf_engines.read_with_pypdf", ("pypdf", "pypdfium2"), rules=2)

_ATTACHMENTS = {Kind.MAIL: "mail.mail_attachments", Kind.MAILBOX: "mail.mailbox_attachments"}
"""What finds the attachments of a format without reading its text, where that is a whole mailbox."""

_BLANK = b" \t\r\n\f\v\0"


def extract(
    data: bytes, *, kind: Kind, name: str, passwords: Sequence[str] = (), pdf_engine: PdfEngine = "pypdfium2"
) -> Document:
    """Read the text of a file.

    data: all of its bytes; kind: what `detect` made of them; name: its base name; passwords: tried in turn on
        an encrypted PDF; pdf_engine: what reads PDFs first.
    Raises ExtractError whose `code` is empty, corrupt, encrypted, no_text or too_large. Its message
    holds cause and remedy, neither the path nor anything of the content.
    """
    if not data.strip(_BLANK):
        raise _empty()
    reader = _reader(kind, pdf_engine)
    read: Callable[[Source], Document] = _load(reader.function)
    document = read(Source(data, name, parser_version(kind, pdf_engine=pdf_engine), passwords))
    if not document.text.strip():
        raise _empty()
    return document


def attachments(
    data: bytes, *, kind: Kind, name: str, passwords: Sequence[str] = (), pdf_engine: PdfEngine = "pypdfium2"
) -> tuple[Attachment, ...]:
    """Return the files that lie in a file, as `extract` names and orders them. Arguments and errors are its."""
    if kind not in _ATTACHMENTS:
        return extract(data, kind=kind, name=name, passwords=passwords, pdf_engine=pdf_engine).attachments
    find: Callable[[Source], tuple[Attachment, ...]] = _load(_ATTACHMENTS[kind])
    return find(Source(data, name, parser_version(kind)))


def _empty() -> ExtractError:
    return ExtractError("empty file: nothing to index; add text to it or exclude it", code="empty")


def _reader(kind: Kind, pdf_engine: PdfEngine) -> _Reader:
    return _PDF_WITH_PYPDF if kind is Kind.PDF and pdf_engine == "pypdf" else _READERS[kind]


def _load(function: str) -> Any:
    # The readers' libraries cost up to 0.2 s each to import, and most runs meet few formats.
    module, _, name = function.partition(".")
    return getattr(import_module(f"{__name__}.{module}"), name)


def _version(library: str) -> str:
    from importlib import metadata  # only here: texts need none, and parsers start sooner without it

    return metadata.version(library)


def _installed(library: str) -> str | None:
    try:
        return _version(library)
    except ModuleNotFoundError:  # which metadata's own error is
        return None


@cache
def parser_version(kind: Kind, *, pdf_engine: PdfEngine = "pypdfium2") -> str:
    """Name and version of everything that shapes a format's text, e.g. "pypdf 7.1.0, rules 1".

    Part of the settings fingerprint: a file is read again when it changes. Imports none of the readers.
    """
    reader = _reader(kind, pdf_engine)
    names = [f"{library} {_version(library)}" for library in _libraries(reader)]
    names += [f"{library} {found}" for library in reader.optional if (found := _installed(library))]
    own = f"rules {_rules(reader)}" if names else f"{kind} {_rules(reader)}"
    return ", ".join([*names, own])


def _libraries(reader: _Reader) -> list[str]:
    called = (library for kind in reader.calls for library in _libraries(_READERS[kind]))
    return list(dict.fromkeys((*reader.libraries, *called)))


def _rules(reader: _Reader) -> int:
    """A number that grows whenever the rules of a reader, or of one that it calls, are raised."""
    return reader.rules + sum(_rules(_READERS[kind]) - 1 for kind in reader.calls)
