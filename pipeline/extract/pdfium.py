"""PDF with pdfium, several times as fast as pypdf: the same text, cleaning, metadata and reasons of failure.

Every handle is closed before its parent, as pdfium demands. It is not safe between threads: one process each.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any

import pypdfium2  # pyright: ignore[reportMissingTypeStubs]
import pypdfium2.raw  # pyright: ignore[reportMissingTypeStubs]

from pipeline.document import Document
from pipeline.extract.pdf_text import CUT_OFF, corrupt, corrupt_on_error, document, locked, locked_otherwise, read_pages
from pipeline.extract.source import Source

# Neither has types. The second one is pdfium's own interface: strings end in a NUL, lengths count bytes.
_library: Any = pypdfium2
_raw: Any = pypdfium2.raw

# As for pypdf: what is odd about a file must not reach stderr.
_log = logging.getLogger("pypdfium2")
_log.addHandler(logging.NullHandler())
_log.propagate = False

_BROKEN_WORD = re.compile(r"(?<=\w)\ufffe(?=\w)")
"""pdfium puts this code for a hyphen at a line's end and the break after it, and for glyphs that stand for nothing."""

_LAM_ALEF = re.compile("[\u0622\u0623\u0625\u0627]\u0644")
"""Alef and lam: in this order two letters, in the other one glyph."""

_IDEOGRAPHS = re.compile("[\u3041-\u30fe\u4e00-\u9fff]{2}")
_PAIRS_LOOKED_AT = 20

_TEXT_FIELDS = (
    _raw.FPDF_FORMFIELD_TEXTFIELD,
    _raw.FPDF_FORMFIELD_COMBOBOX,
    _raw.FPDF_FORMFIELD_LISTBOX,
)


def read_pdf(source: Source) -> Document:
    """Read a PDF's text layer with pdfium.

    Passwords, notes on pages and failures are as in `pipeline.extract.pdf`; but pdfium skips damaged content
    in silence, so that a page fails only where it is not there at all, and unpacks whatever it is given.
    Raises ExtractError: encrypted, no_text, corrupt (also where lines run from top to bottom).
    """
    with corrupt_on_error(), _opened(source) as pdf:
        pages = read_pages(range(len(pdf)), partial(_page_text, pdf))
        stated = {
            "title": _string(_raw.FPDF_GetMetaText, pdf, b"Title\0"),
            "author": _string(_raw.FPDF_GetMetaText, pdf, b"Author\0"),
        }
    return document(pages, stated, source.parser)


@contextmanager
def _opened(source: Source) -> Generator[Any]:
    # The library's own opening of bytes leaks a document without pages.
    with _library.PdfDocument(_unlocked(source)) as pdf:
        with suppress(_library.PdfiumError):  # without it only what fields inherit from others is missing
            pdf.init_forms()
        yield pdf


def _unlocked(source: Source) -> Any:
    """Return pdfium's handle of the document, which reads the source's bytes as long as it is open."""
    failure = None
    for password in ("", *source.passwords):
        handle = _raw.FPDF_LoadMemDocument64(source.data, len(source.data), password.encode() + b"\0")
        if handle:
            return handle
        failure = _raw.FPDF_GetLastError()
        if failure != _raw.FPDF_ERR_PASSWORD:
            break
    if failure == _raw.FPDF_ERR_PASSWORD:
        raise locked(source.passwords)
    raise locked_otherwise() if failure == _raw.FPDF_ERR_SECURITY else corrupt(CUT_OFF)


def _page_text(pdf: Any, index: int) -> str:
    """Text of a page, then what its form fields and remarks say."""
    with closing(pdf[index]) as page:
        with closing(page.get_textpage()) as textpage:
            text = _characters(textpage)
        return "\n".join([text.rstrip(), *_annotations(page)])


def _characters(textpage: Any) -> str:
    # Not `get_text_range`, which recurses for each character that it skips, nor `get_text_bounded`, which
    # loses line breaks in figures.
    count = _raw.FPDFText_CountChars(textpage)
    buffer = (ctypes.c_ushort * (count + 1))()
    written = _raw.FPDFText_GetText(textpage, 0, count, buffer)
    text = _decoded(buffer, written - 1)
    if _runs_down(textpage, text):
        raise corrupt("its lines run from top to bottom")
    text = _LAM_ALEF.sub(partial(_in_order, textpage), text)
    return _BROKEN_WORD.sub("-\n", text).replace("\ufffe", "")


def _runs_down(textpage: Any, text: str) -> bool:
    """Tell whether most of a page is Japanese or Chinese in columns: pdfium turns their order round and drops some."""
    pairs = [pair.start() for pair in islice(_IDEOGRAPHS.finditer(text), _PAIRS_LOOKED_AT)]
    return 2 * sum(_next_is_below(textpage, at) for at in pairs) > len(pairs)


def _next_is_below(textpage: Any, at: int) -> bool:
    """Tell whether a character stands below the one before it, and that one upright."""
    (x, y), (next_x, next_y) = _origin(textpage, at), _origin(textpage, at + 1)
    is_upright = _raw.FPDFText_GetCharAngle(textpage, _raw.FPDFText_GetCharIndexFromTextIndex(textpage, at)) == 0
    return is_upright and 10 * abs(x - next_x) < y - next_y


def _in_order(textpage: Any, pair: re.Match[str]) -> str:
    """Return alef and lam as written: pdfium turns right-to-left lines round, and with them what is one glyph."""
    alef, lam = (_origin(textpage, at) for at in (pair.start(), pair.start() + 1))
    return pair[0][::-1] if alef == lam else pair[0]


def _origin(textpage: Any, at: int) -> tuple[float, float]:
    x, y = ctypes.c_double(), ctypes.c_double()
    _raw.FPDFText_GetCharOrigin(textpage, _raw.FPDFText_GetCharIndexFromTextIndex(textpage, at), x, y)
    return x.value, y.value


def _annotations(page: Any) -> Iterator[str]:
    """Values typed into form fields, and notes; neither is part of a page's own content."""
    for index in range(_raw.FPDFPage_GetAnnotCount(page)):
        annotation = _raw.FPDFPage_GetAnnot(page, index)
        try:
            value = _value(annotation, page.formenv)
        finally:
            _raw.FPDFPage_CloseAnnot(annotation)
        if value.strip():
            yield value


def _value(annotation: Any, form: Any) -> str:
    subtype = _raw.FPDFAnnot_GetSubtype(annotation)
    if subtype == _raw.FPDF_ANNOT_WIDGET:
        return _field_value(annotation, form)
    if subtype in (_raw.FPDF_ANNOT_LINK, _raw.FPDF_ANNOT_POPUP):
        return ""
    return _string(_raw.FPDFAnnot_GetStringValue, annotation, b"Contents\0")


def _field_value(annotation: Any, form: Any) -> str:
    """The value of a text or choice field, which a parent may hold; the form knows it, if there is one."""
    kind = _string(_raw.FPDFAnnot_GetStringValue, annotation, b"FT\0")
    value = _string(_raw.FPDFAnnot_GetStringValue, annotation, b"V\0")
    if kind in ("Tx", "Ch") and value:
        return value
    if form and _raw.FPDFAnnot_GetFormFieldType(form, annotation) in _TEXT_FIELDS:
        return _string(_raw.FPDFAnnot_GetFormFieldValue, form, annotation)
    return ""


def _string(function: Callable[..., int], *arguments: Any) -> str:
    """Return the string that a function of pdfium writes into a buffer; asked first, it tells the size."""
    size = function(*arguments, None, 0)
    buffer = (ctypes.c_ushort * (size // 2 + 1))()
    function(*arguments, buffer, size)
    return _decoded(buffer, size // 2 - 1)


def _decoded(buffer: Any, length: int) -> str:
    return bytes(buffer)[: 2 * max(length, 0)].decode("utf-16-le", "surrogatepass")
