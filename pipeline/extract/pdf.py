"""PDF: the text layer page by page, filled form fields and remarks, exact page ranges.

Nothing here draws: a scanned page has no text, and says so.
"""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pypdf import PageObject, PdfReader

from pipeline.document import Document, Page
from pipeline.extract.decode import TITLE_CHARS, clean
from storage.errors import ExtractError, KnowlexError

PAGE_SEPARATOR = "\n\n"

# pypdf warns about every oddity of a file; without a handler of its own that would reach stderr.
_log = logging.getLogger("pypdf")
_log.addHandler(logging.NullHandler())
_log.propagate = False


@dataclass(slots=True)
class _Pages:
    """What the pages gave: text by number, and those that gave none or raised."""

    texts: dict[int, str] = field(default_factory=dict[int, str])
    without_text: list[int] = field(default_factory=list[int])
    failed: list[int] = field(default_factory=list[int])
    causes: list[Exception] = field(default_factory=list[Exception])


def read_pdf(data: bytes, *, parser: str, passwords: Sequence[str] = ()) -> Document:
    """Read a PDF's text layer with pypdf.

    passwords: tried in turn after the empty one.
    A page that cannot be read is listed in `metadata["pages_failed"]` and the rest is kept.
    Raises ExtractError: encrypted, corrupt (also when no page can be read), no_text.
    """
    with _corrupt_on_error():
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted:
            _unlock(reader, passwords)
        pages = _read_pages(reader)
        page_count = len(reader.pages)
        metadata = _metadata(reader)
    if not pages.texts:
        raise _no_text(pages, page_count)
    text, ranges = _join(pages.texts)
    metadata |= {"pages_without_text": pages.without_text, "pages_failed": pages.failed}
    known = {key: value for key, value in metadata.items() if value}
    return Document(text, "plain", parser, pages=ranges, page_count=page_count, metadata=known)


@contextmanager
def _corrupt_on_error() -> Generator[None]:
    """Turn whatever pypdf raises into `corrupt`; on a damaged file that may be any exception at all."""
    try:
        yield
    except (KnowlexError, MemoryError):
        raise
    except NotImplementedError as error:
        message = "encrypted by a method other than a password: save an unprotected copy"
        raise ExtractError(message, code="encrypted") from error
    except Exception as error:
        raise _corrupt(error) from error


def _corrupt(error: Exception) -> ExtractError:
    return ExtractError(f"corrupt PDF: {_cause(error)}: re-export or repair it (e.g. qpdf)", code="corrupt")


def _cause(error: Exception) -> str:
    """The cause in our words: pypdf's messages quote the file."""
    said = str(error)
    for pattern, words in _CAUSES:
        if re.search(pattern, said, re.IGNORECASE):
            return words
    return f"unreadable structure ({type(error).__name__})"


_CAUSES = (
    (r"stream has ended|eof marker|startxref|endstream|empty file", "it is cut off or its index is missing"),
    (r"xref|trailer|object stream", "its index of objects is damaged"),
    (r"header", "it has no PDF header"),
    (r"/pages|/root|page tree|catalog", "its page tree is damaged"),
    (r"limit|maximum|exceed", "it exceeds a safety limit of the reader"),
    (r"lzw|flate|decode|decompress|filter", "its compressed content is damaged"),
)


def _unlock(reader: PdfReader, passwords: Sequence[str]) -> None:
    for password in ("", *passwords):
        if reader.decrypt(password):
            return
    given = "none of the passwords given opens it" if passwords else "a password is needed"
    raise ExtractError(f"encrypted: {given}: give its password with --pdf-password-file", code="encrypted")


def _read_pages(reader: PdfReader) -> _Pages:
    pages = _Pages()
    for number, page in enumerate(reader.pages, start=1):
        try:
            text = _page_text(page)
        except MemoryError:
            raise
        except Exception as error:  # any exception at all, as above; the other pages may be fine
            pages.failed.append(number)
            pages.causes.append(error)
            continue
        if text:
            pages.texts[number] = text
        else:
            pages.without_text.append(number)
    return pages


def _page_text(page: PageObject) -> str:
    """Text of a page, then what its form fields and remarks say, cleaned."""
    return _clean("\n".join([page.extract_text().rstrip(), *_annotations(page)]))


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


_LIGATURES = str.maketrans(
    {
        "\ufb00": "ff",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
        "\ufb05": "st",
        "\ufb06": "st",
        **{chr(0xF700 + ord(letter)): letter for letter in "abcdefghijklmnopqrstuvwxyz"},
        **{chr(code): None for code in range(32) if chr(code) not in "\t\n"},
    }
)
"""Glyphs of a font, not letters of the text: no one searches for them. The private codes are Adobe's small
capitals. Stray control codes go too."""

_SOFT_BREAK = re.compile(r"\u00ad[ \t]*\n?")
_SPACE_AT_END = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]+$", re.MULTILINE)


def _clean(text: str) -> str:
    """NFC, no ligatures, no soft hyphens, no spaces at line ends."""
    text = clean(text).translate(_LIGATURES)
    text = unicodedata.normalize("NFC", _SOFT_BREAK.sub("", text))
    return _SPACE_AT_END.sub("", text).strip()


def _join(texts: dict[int, str]) -> tuple[str, tuple[Page, ...]]:
    """One text of all pages, and the range of each."""
    compounds = {word for text in texts.values() for word in _COMPOUND.findall(text)}
    parts: list[str] = []
    ranges: list[Page] = []
    at = 0
    for number, page in texts.items():
        text = _rejoin_words(page, compounds)
        ranges.append(Page(number, at, at + len(text)))
        parts.append(text)
        at += len(text) + len(PAGE_SEPARATOR)
    return PAGE_SEPARATOR.join(parts), tuple(ranges)


_COMPOUND = re.compile(r"(?<![^\W\d_])[^\W\d_]+-[^\W\d_]+")
_BROKEN_WORD = re.compile(r"(?<![\w-])([^\W\d_]+)[-\u2010]\n([^\W\d_]+)")


def _rejoin_words(text: str, compounds: set[str]) -> str:
    """Undo hyphenation at line ends: "informa-\\ntion" was one word.

    Only before a lower-case letter; a compound that the document also writes within a line keeps its
    hyphen. In 25 such breaks of real papers and manuals, 23 split a word and 2 a compound.
    """

    def join(found: re.Match[str]) -> str:
        compound = f"{found[1]}-{found[2]}"
        if not found[2][0].islower():
            return found[0]
        return compound if compound in compounds else found[1] + found[2]

    return _BROKEN_WORD.sub(join, text)


def _metadata(reader: PdfReader) -> dict[str, Any]:
    """Title and author where the file states them readably."""
    try:
        info = reader.metadata
        stated = {"title": info.title, "author": info.author} if info else {}
    except MemoryError:
        raise
    except Exception as error:  # the text is what counts; the note says that something was there
        return {"metadata_failed": type(error).__name__}
    return {key: _clean(value)[:TITLE_CHARS] for key, value in stated.items() if isinstance(value, str)}


def _no_text(pages: _Pages, page_count: int) -> ExtractError:
    if pages.causes:
        return _corrupt(pages.causes[0])
    if not page_count:
        return ExtractError("corrupt PDF: it has no pages: re-export or repair it (e.g. qpdf)")
    pages_words = "its only page" if page_count == 1 else f"any of its {page_count} pages"
    return ExtractError(f"no text layer on {pages_words}: run OCR first (e.g. ocrmypdf)", code="no_text")
