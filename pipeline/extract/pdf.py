"""PDF with pypdf: the text layer page by page, filled form fields and remarks, exact page ranges.

Nothing here draws: a scanned page has no text, and says so.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from pypdf import PageObject, PdfReader

from pipeline.document import Document
from pipeline.extract.pdf_text import corrupt_on_error, document, locked, locked_otherwise, read_pages
from pipeline.extract.source import Source

# pypdf warns about every oddity of a file; without a handler of its own that would reach stderr.
_log = logging.getLogger("pypdf")
_log.addHandler(logging.NullHandler())
_log.propagate = False


def read_pdf(source: Source) -> Document:
    """Read a PDF's text layer with pypdf.

    The source's passwords are tried in turn after the empty one.
    A page that cannot be read is listed in `metadata["pages_failed"]` and the rest is kept.
    Raises ExtractError: encrypted, corrupt (also when no page can be read), no_text.
    """
    with corrupt_on_error():
        try:
            # Closed, as its objects refer to each other: they would fill the memory until they are collected.
            with io.BytesIO(source.data) as stream, PdfReader(stream, strict=False) as reader:
                if reader.is_encrypted:
                    _unlock(reader, source.passwords)
                pages = read_pages(reader.pages, _page_text)
                stated = _metadata(reader)
        except NotImplementedError as error:
            raise locked_otherwise() from error
    return document(pages, stated, source.parser)


def _unlock(reader: PdfReader, passwords: Sequence[str]) -> None:
    for password in ("", *passwords):
        if reader.decrypt(password):
            return
    raise locked(passwords)


def _page_text(page: PageObject) -> str:
    """Text of a page, then what its form fields and remarks say."""
    return "\n".join([page.extract_text().rstrip(), *_annotations(page)])


def _annotations(page: PageObject) -> Iterator[str]:
    """Values typed into form fields, and notes; neither is part of a page's own content."""
    for reference in page.annotations or ():
        annotation: Any = reference.get_object()
        subtype = annotation.get("/Subtype")
        if subtype == "/Widget":
            value = _field_value(annotation)
        elif subtype in ("/Link", "/Popup"):
            continue
        else:
            value = annotation.get("/Contents")
        if isinstance(value, str) and value.strip():
            yield value


def _field_value(annotation: Any) -> Any:
    """The value of a text or choice field, which a parent may hold."""
    node = annotation
    kind = value = None
    for _ in range(8):  # a damaged file may be its own ancestor
        kind, value = kind or node.get("/FT"), value or node.get("/V")
        if node.get("/Parent") is None:
            break
        node = node["/Parent"].get_object()
    return value if kind in ("/Tx", "/Ch") else None


def _metadata(reader: PdfReader) -> dict[str, Any]:
    """Title and author where the file states them readably."""
    try:
        info = reader.metadata
        return {"title": info.title, "author": info.author} if info else {}
    except MemoryError:
        raise
    except Exception as error:  # the text is what counts; the note says that something was there
        return {"metadata_failed": type(error).__name__}
