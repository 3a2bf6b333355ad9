"""The parts of an Office Open XML package and their relations, read without trusting any of them.

python-docx's own package reader refuses macro-enabled, strict and slightly damaged files that Word
opens, so only its hardened XML parser (no entities, no network) is used.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

from docx.oxml.ns import qn
from docx.oxml.parser import parse_xml

from pipeline.extract.archive import unpack
from storage.errors import ExtractError

_PARTS = (".xml", ".rels", ".htm", ".html", ".xhtml", ".txt")
_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Element(Protocol):
    """What is used of an lxml element; lxml has no types of its own."""

    @property
    def tag(self) -> object: ...
    @property
    def text(self) -> str | None: ...
    def get(self, key: str, /) -> str | None: ...
    def __iter__(self) -> Iterator[Element]: ...
    def iter(self, *tags: str) -> Iterator[Element]: ...


def w(name: str) -> str:
    """The full name of a WordprocessingML element or attribute."""
    return _W + name


_W = qn("w:p")[:-1]


def children(node: Element, *tags: str) -> Iterator[Element]:
    """Direct children with one of these full names."""
    return (each for each in node if each.tag in tags)


def child(node: Element, *path: str) -> Element | None:
    """The first child by each full name in turn, or None."""
    found: Element | None = node
    for tag in path:
        found = next(children(found, tag), None) if found is not None else None
    return found


def value(node: Element, name: str) -> str | None:
    """The `w:val` of a child `w:name`, or None without that child or attribute."""
    found = child(node, w(name))
    return None if found is None else found.get(w("val"))


@dataclass(frozen=True, slots=True)
class Relation:
    """A link from one part to another: last word of its type, and the part's name."""

    kind: str
    part: str


class Package:
    """The text parts of one package, parsed when asked for."""

    def __init__(self, data: bytes) -> None:
        """Raises ExtractError: encrypted, too_large, or corrupt when `data` is no zip archive."""
        _refuse_ole(data)
        parts = unpack(data, wanted=lambda name: name.lower().endswith(_PARTS))
        self._parts = {name.lower(): content for name, content in parts.items()}

    def root_part(self, kind: str, default: str) -> str:
        """Name of the part that the package itself relates to under a kind, or the usual one."""
        related = self.relations().values()
        return next((relation.part for relation in related if relation.kind == kind), default)

    def bytes_of(self, part: str) -> bytes | None:
        """Content of a part, or None when the package lacks it."""
        return self._parts.get(part.lower())

    def xml(self, part: str) -> Element | None:
        """Root of an XML part, or None when the package lacks it. Raises ExtractError (corrupt)."""
        content = self.bytes_of(part)
        return None if content is None else _parse(content)

    def relations(self, part: str = "") -> dict[str, Relation]:
        """Internal relations of a part by id; of the package itself by default."""
        folder, name = posixpath.split(part)
        root = self.xml(posixpath.join(folder, "_rels", f"{name}.rels"))
        related: dict[str, Relation] = {}
        for relation in root if root is not None else ():
            if relation.get("TargetMode") != "External":
                target = posixpath.normpath(posixpath.join("/", folder, relation.get("Target") or ""))
                kind = (relation.get("Type") or "").rpartition("/")[2]
                related[relation.get("Id") or ""] = Relation(kind, target.lstrip("/"))
        return related


def _refuse_ole(data: bytes) -> None:
    if not data.startswith(_OLE_MAGIC):
        return
    if "EncryptedPackage".encode("utf-16-le") in data:
        reason = "encrypted: save a copy without password, as only a PDF's can be given"
        raise ExtractError(reason, code="encrypted")
    raise ExtractError("corrupt DOCX: it is an old Word file under another name: save it as .docx")


def _parse(content: bytes) -> Element:
    if _DTD.search(content) or _DTD.search(content[:200_000].replace(b"\0", b"")):
        raise ExtractError("corrupt DOCX: it declares XML entities, which Word never writes: do not trust it")
    if _STRICT in content:
        for strict, transitional in _NAMESPACES:
            content = content.replace(strict, transitional)
    try:
        return cast(Element, parse_xml(content))
    except SyntaxError as error:  # lxml's XMLSyntaxError is one
        raise ExtractError("corrupt DOCX: a part of it is no valid XML: save it again in Word") from error


_DTD = re.compile(rb"<!(?:DOCTYPE|ENTITY)")
_STRICT = b"http://purl.oclc.org/ooxml/"
_OPEN_XML = b"http://schemas.openxmlformats.org/"
_NAMESPACES = (
    (_STRICT + b"wordprocessingml/main", _OPEN_XML + b"wordprocessingml/2006/main"),
    (_STRICT + b"officeDocument/relationships", _OPEN_XML + b"officeDocument/2006/relationships"),
    (_STRICT + b"officeDocument/math", _OPEN_XML + b"officeDocument/2006/math"),
)
"""ISO 29500's strict variant has namespaces of its own for the same elements."""
