"""What both PDF readers share: the cleaning of a page's text, the joining of pages, the reasons of failure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.document import Document, Page
from pipeline.extract.decode import TITLE_CHARS, clean
from storage.errors import ExtractError, KnowlexError

PAGE_SEPARATOR = "\n\n"

MAX_FAILED_RUN = 1000
"""A page tree may claim a million pages that are not there: after so many failures in a row nothing more is read."""

_UNKNOWN = "\ufffd \t\n"

T = TypeVar("T")


@dataclass(slots=True)
class Pages:
    """What the pages gave: text by number, and those that gave none or raised.

    cause: what the first of those raised.
    """

    count: int = 0
    texts: dict[int, str] = field(default_factory=dict[int, str])
    without_text: list[int] = field(default_factory=list[int])
    failed: list[int] = field(default_factory=list[int])
    cause: Exception | None = None


def read_pages(pages: Iterable[T], text_of: Callable[[T], str]) -> Pages:
    """Return the cleaned text of each page; one that raises costs only itself, if it is no ExtractError.

    Characters that stand for unknown glyphs are no text if they stand alone.
    """
    read = Pages()
    for number, page in enumerate(pages, start=1):
        read.count = number
        try:
            text = clean_text(text_of(page))
        except (ExtractError, MemoryError):
            raise
        except Exception as error:  # on a damaged file any exception at all; the other pages may be fine
            read.failed.append(number)
            read.cause = read.cause or error
            if read.failed[-MAX_FAILED_RUN:][0] == number - MAX_FAILED_RUN + 1:
                break
            continue
        if text.strip(_UNKNOWN):
            read.texts[number] = text
        else:
            read.without_text.append(number)
    return read


def document(pages: Pages, stated: Mapping[str, Any], parser: str) -> Document:
    """Return the document that the pages make.

    stated: metadata by key, as the file has it; only texts are kept.
    Raises ExtractError without any text: no_text, or corrupt where a page could not be read.
    """
    if not pages.texts:
        raise _no_text(pages) from pages.cause
    text, ranges = _join(pages.texts)
    metadata: dict[str, Any] = {
        key: clean_text(value)[:TITLE_CHARS] for key, value in stated.items() if isinstance(value, str)
    }
    metadata |= {"pages_without_text": pages.without_text, "pages_failed": pages.failed}
    known = {key: value for key, value in metadata.items() if value}
    return Document(text, "plain", parser, pages=ranges, page_count=pages.count, metadata=known)


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


def clean_text(text: str) -> str:
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


@contextmanager
def corrupt_on_error() -> Generator[None]:
    """Turn whatever a library raises into `corrupt`; on a damaged file that may be any exception at all."""
    try:
        yield
    except (KnowlexError, MemoryError):
        raise
    except Exception as error:
        raise _corrupt(error) from error


def locked(passwords: Sequence[str]) -> ExtractError:
    """Return the error of a file that no password given opens."""
    if passwords:
        return ExtractError("encrypted: none of the passwords given opens it; give the right one", code="encrypted")
    return ExtractError("encrypted: a password is needed: give it with --pdf-password-file", code="encrypted")


def locked_otherwise() -> ExtractError:
    """Return the error of a file that takes no password but a key or a program of its own."""
    return ExtractError("encrypted by a method other than a password: save an unprotected copy", code="encrypted")


def _no_text(pages: Pages) -> ExtractError:
    if pages.cause:
        return _corrupt(pages.cause)
    if not pages.count:
        return corrupt("it has no pages")
    pages_words = "its only page" if pages.count == 1 else f"any of its {pages.count} pages"
    return ExtractError(f"no text layer on {pages_words}: run OCR first (e.g. ocrmypdf)", code="no_text")


def _corrupt(error: Exception) -> ExtractError:
    return corrupt(_cause(error))


def corrupt(cause: str) -> ExtractError:
    """Return the error of a damaged file."""
    return ExtractError(f"corrupt PDF: {cause}: re-export or repair it (e.g. qpdf)", code="corrupt")


def is_over_limit(error: ExtractError) -> bool:
    """Tell whether a library refused to unpack something, as that would take too much memory."""
    return re.search(_OVER_LIMIT, str(error.__cause__), re.IGNORECASE) is not None


def _cause(error: Exception) -> str:
    """The cause in our words: the libraries' messages quote the file."""
    said = str(error)
    for pattern, words in _CAUSES:
        if re.search(pattern, said, re.IGNORECASE):
            return words
    return f"unreadable structure ({type(error).__name__})"


CUT_OFF = "it is cut off or its index is missing"
TOO_MUCH = "it exceeds a safety limit of the reader"

_OVER_LIMIT = r"limit reached while decompressing|decoding work|output bytes"

_CAUSES = (
    (_OVER_LIMIT, TOO_MUCH),
    (r"stream has ended|eof marker|startxref|endstream|empty file", CUT_OFF),
    (r"xref|trailer|object stream", "its index of objects is damaged"),
    (r"header", "it has no PDF header"),
    (r"/pages|/root|page tree|catalog|load page", "its page tree is damaged"),
    (r"limit|maximum|exceed", TOO_MUCH),
    (r"lzw|flate|decode|decompress|filter", "its compressed content is damaged"),
)
