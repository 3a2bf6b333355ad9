"""PDF: the engine chosen, and behind it the other one, which is asked where the first finds no text.

pdfium takes a tenth of the time and parts words that pypdf joins. pypdf notices damage that pdfium skips in
silence, and opens some files that pdfium refuses. What pdfium unpacks has no limit but the parser's own
memory and time: it ends the process there, and with it that file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import cast

from pipeline.document import Document
from pipeline.extract.pdf_text import is_over_limit
from pipeline.extract.source import Source
from storage.errors import ExtractError

_MODULES = {"pypdfium2": "pdfium", "pypdf": "pdf"}


def read_with_pdfium(source: Source) -> Document:
    """Read a PDF's text layer with pdfium, or with pypdf where pdfium finds no text.

    The source's passwords are tried in turn after the empty one.
    `metadata["engine"]` names the second engine where that one read the file.
    Raises ExtractError: encrypted, corrupt, no_text.
    """
    return _read(source, "pypdfium2", "pypdf")


def read_with_pypdf(source: Source) -> Document:
    """Read as `read_with_pdfium` does, the other way about; what pypdf refuses to unpack is not given to pdfium."""
    return _read(source, "pypdf", "pypdfium2")


def _read(source: Source, first: str, second: str) -> Document:
    verdicts: dict[str, ExtractError] = {}
    for engine in (first, second):
        try:
            found = _reader(engine)(source)
        except ExtractError as error:
            if is_over_limit(error):
                raise
            verdicts[engine] = error
        else:
            return found if engine == first else replace(found, metadata=found.metadata | {"engine": engine})
    raise _truer(verdicts["pypdfium2"], verdicts["pypdf"])


def _reader(engine: str) -> Callable[[Source], Document]:
    # Of two libraries of 10 and 28 MB most files need one.
    module = import_module(f"pipeline.extract.{_MODULES[engine]}")
    return cast("Callable[[Source], Document]", module.read_pdf)


def _truer(pdfium: ExtractError, pypdf: ExtractError) -> ExtractError:
    """Return pypdf's verdict, as it tells damage from emptiness, unless it is mistaken about a lock.

    A locked attachment does not lock the file, and a damaged file may hide its lock from pypdf.
    """
    pdfium_knows = (pdfium.code, pypdf.code) in (("no_text", "encrypted"), ("encrypted", "corrupt"))
    return pdfium if pdfium_knows else pypdf
