"""EPUB to Markdown: the chapters in reading order, each through the HTML reader.

What is missing or damaged in the package costs its own part alone: without a usable list of contents every
page of the archive is read, in the archive's order.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree

from pipeline.detect import Kind, detect
from pipeline.document import Document
from pipeline.extract.archive import unpack
from pipeline.extract.decode import TITLE_CHARS, clean, declared_encoding, decode
from pipeline.extract.source import Source
from pipeline.extract.web import convert_html, is_contents
from storage.errors import ExtractError

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_MAX_NOTED = 100
_PAGES = (".xhtml", ".html", ".htm", ".xht")


@dataclass(frozen=True, slots=True)
class _Book:
    """What the package says of a book.

    chapters: names of its pages in reading order. contents: name of the table of contents for programs, or "".
    with_contents: pages that hold a table of contents, and may hold more.
    """

    chapters: list[str]
    contents: str = ""
    with_contents: frozenset[str] = frozenset()
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


def read_epub(source: Source) -> Document:
    """Read an e-book; title, author and language from its package, `parts_failed` names what could not be read.

    Raises ExtractError: encrypted (DRM), corrupt, too_large, no_text.
    """
    archive = _Archive(source.data)
    book = _read_book(archive)
    if _locked(archive) & set(book.chapters):
        raise ExtractError("encrypted: its chapters are locked by DRM: get a copy without it", code="encrypted")
    texts = list(filter(None, _chapters(archive, book)))
    if not texts and archive.failed:
        raise ExtractError("corrupt EPUB: none of its chapters can be read: get it again from where it came")
    if not texts:
        raise ExtractError("no text in the book: if its pages are pictures, run OCR first", code="no_text")
    metadata = book.metadata | ({"parts_failed": archive.failed[:_MAX_NOTED]} if archive.failed else {})
    return Document("\n\n".join(texts), "markdown", source.parser, metadata=metadata)


class _Archive:
    """The parts of a book; those that are missing or cannot be read are noted in `failed`."""

    def __init__(self, data: bytes) -> None:
        """Raises ExtractError where the archive as a whole cannot be read, or is a bomb."""
        self.names: list[str] = []
        self.failed: list[str] = []
        self._data = data
        unpack(data, wanted=self._list)

    def _list(self, name: str) -> bool:
        self.names.append(name)
        return False

    def read(self, names: list[str]) -> dict[str, bytes]:
        """The contents of these parts, as far as they can be had."""
        try:
            parts = unpack(self._data, wanted=set(names).__contains__)
        except ExtractError as error:
            if error.code != "corrupt":
                raise
            parts = self._read_one_by_one(names)
        self.failed += (name for name in names if name not in parts)
        return parts

    def _read_one_by_one(self, names: list[str]) -> dict[str, bytes]:
        parts: dict[str, bytes] = {}
        for name in set(self.names).intersection(names):
            try:
                parts |= unpack(self._data, wanted=name.__eq__)
            except ExtractError as error:
                if error.code != "corrupt":
                    raise
        return parts

    def xml(self, name: str) -> Element | None:
        """The root of an XML part; None where there is none, or it is damaged.

        Raises ExtractError (corrupt) where it declares entities.
        """
        content = self.read([name]).get(name) if name in self.names else None
        if content is None:
            return None
        try:
            return _parse(content)
        except defusedxml.DefusedXmlException as error:
            raise ExtractError("corrupt EPUB: it declares XML entities: do not trust it") from error
        except (ParseError, ValueError, LookupError):  # the last two for an encoding that the parser lacks
            self.failed.append(name)
            return None


def _parse(content: bytes) -> Element:
    parse = cast("Callable[..., Element]", defusedxml.ElementTree.fromstring)
    return parse(content, forbid_dtd=False, forbid_entities=True, forbid_external=True)


def _all(root: Element | None, name: str) -> Iterator[Element]:
    """Elements of a local name anywhere below; packages differ in their namespaces."""
    for element in root.iter() if root is not None else ():
        if element.tag.rpartition("}")[2].lower() == name:
            yield element


def _read_book(archive: _Archive) -> _Book:
    package = _package_name(archive)
    root = archive.xml(package)
    if root is None and package not in archive.failed:
        archive.failed.append(package or _CONTAINER)
    items = {item.get("id", ""): item for item in _all(root, "item")}
    folder = posixpath.dirname(package)
    pages = [item for item in items.values() if "nav" in item.get("properties", "").split()]
    older = [item for item in items.values() if item.get("media-type") == "application/x-dtbncx+xml"]
    guide = [each for each in _all(root, "reference") if each.get("type") == "toc"]
    with_contents = frozenset(_path(folder, each.get("href", "")) for each in (*pages, *guide))
    contents = [_path(folder, item.get("href", "")) for item in (*pages, *older)]
    return _Book(_reading_order(archive, root, items, folder), next(iter(contents), ""), with_contents, _metadata(root))


def _reading_order(archive: _Archive, root: Element | None, items: dict[str, Element], folder: str) -> list[str]:
    spine = (items.get(each.get("idref", "")) for each in _all(root, "itemref"))
    pages = (item for item in spine if item is not None and not item.get("media-type", "").startswith(_NO_PAGES))
    chapters = [_path(folder, item.get("href", "")) for item in pages]
    chapters = chapters or [name for name in archive.names if name.lower().endswith(_PAGES)]
    return list(dict.fromkeys(chapters))


_NO_PAGES = ("image/", "application/x-dtbncx+xml")


def _package_name(archive: _Archive) -> str:
    named = (_path("", each.get("full-path", "")) for each in _all(archive.xml(_CONTAINER), "rootfile"))
    present = next((name for name in named if name in archive.names), "")
    return present or next((name for name in archive.names if name.lower().endswith(".opf")), "")


def _path(folder: str, reference: str) -> str:
    """Name in the archive of what a part in `folder` refers to."""
    return posixpath.normpath(posixpath.join(folder, unquote(reference.partition("#")[0])))


def _metadata(root: Element | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for key, name in (("title", "title"), ("author", "creator"), ("language", "language")):
        values = [" ".join(clean("".join(each.itertext())).split()) for each in _all(root, name)]
        shown = ", ".join(dict.fromkeys(filter(None, values if key == "author" else values[:1])))
        if shown:
            metadata[key] = shown[:TITLE_CHARS]
    return metadata


def _locked(archive: _Archive) -> set[str]:
    """Names of the parts that are encrypted; in a book without DRM only its fonts may be."""
    return {_path("", each.get("URI", "")) for each in _all(archive.xml(_ENCRYPTION), "cipherreference")}


def _chapters(archive: _Archive, book: _Book) -> Iterator[str]:
    labels = _labels(archive, book.contents)
    parts = archive.read(book.chapters)
    for name in book.chapters:
        content = parts.get(name, b"")
        if _is_page(content):
            html = decode(content, declared=declared_encoding(content)).text
            if name not in book.with_contents or not is_contents(html):
                yield _headed(convert_html(html).text, labels.get(name, ""))
        elif content:
            archive.failed.append(name)


def _is_page(content: bytes) -> bool:
    """Whether a part is markup: a damaged book may hold a picture or an archive in the place of a chapter."""
    return b"<" in content.replace(b"\0", b"") and detect(content, "chapter.html").kind is Kind.HTML


def _labels(archive: _Archive, contents: str) -> dict[str, str]:
    """What the table of contents calls each page: by the first entry that points to it."""
    root = archive.xml(contents)
    folder = posixpath.dirname(contents)
    labels: dict[str, str] = {}
    for point in _all(root, "navpoint"):
        target = next(_all(point, "content"), None)
        label = next(_all(point, "navlabel"), None)
        if target is not None and label is not None:
            labels.setdefault(_path(folder, target.get("src", "")), _text(label))
    for link in _all(root, "a"):
        labels.setdefault(_path(folder, link.get("href", "")), _text(link))
    return labels


def _text(element: Element) -> str:
    return " ".join(clean("".join(element.itertext())).split())[:TITLE_CHARS]


_HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)


def _headed(text: str, label: str) -> str:
    """A chapter under what the contents call it, where the chapter has no heading of its own.

    Many books set their headings as paragraphs; the same words on the first line then become the heading.
    """
    if not text or not label or _HEADING.search(text):
        return text
    first, _, rest = text.partition("\n")
    if " ".join(first.split()).casefold() == label.casefold():
        return f"# {first}\n{rest}".rstrip()
    return f"# {label}\n\n{text}"
