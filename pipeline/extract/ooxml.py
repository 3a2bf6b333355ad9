"""The parts of an Office Open XML package and their relations, read without trusting any of them.

python-docx's and python-pptx's own package readers refuse macro-enabled, strict and slightly damaged
files that Word and PowerPoint open, so only a hardened XML parser (no entities, no network) is used.
Also here: what the walks through such XML share, down to the Markdown blocks they give.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from docx.oxml.ns import qn
from docx.oxml.parser import parse_xml

from pipeline.extract.archive import unpack
from pipeline.extract.decode import TITLE_CHARS, clean
from storage.errors import ExtractError

_PARTS = (".xml", ".rels", ".htm", ".html", ".xhtml", ".txt")
_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Element(Protocol):
    """What is used of an lxml element; lxml has no types of its own."""

    @property
    def tag(self) -> object: ...
    @property
    def text(self) -> str | None: ...
    @property
    def tail(self) -> str | None: ...
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


class Parts:
    """The parts of a document that is a zip archive, parsed when asked for.

    failed: those of lesser weight that could not be read.
    """

    def __init__(
        self,
        parts: Mapping[str, bytes],
        *,
        format_name: str,
        program: str,
        parse: Callable[[bytes], object] = parse_xml,
    ) -> None:
        """format_name, program: what messages call such a document, and what it should be saved in again.

        parse: a parser that resolves no entities; it raises SyntaxError, as lxml's does.
        """
        self.failed: list[str] = []
        self._parts = {name.lower(): content for name, content in parts.items()}
        self._format_name, self._program = format_name, program
        self._parse = parse

    def bytes_of(self, part: str) -> bytes | None:
        """Content of a part, or None when the package lacks it."""
        return self._parts.get(part.lower())

    def xml(self, part: str) -> Element | None:
        """Root of an XML part, or None when the package lacks it. Raises ExtractError (corrupt)."""
        content = self.bytes_of(part)
        return None if content is None else self._parsed(content)

    def optional(self, part: str) -> Element | None:
        """Root of a part that the rest can be read without; a broken one is noted in `failed`."""
        try:
            return self.xml(part)
        except ExtractError:
            self.failed.append(part[:TITLE_CHARS])
            return None

    def _parsed(self, content: bytes) -> Element:
        if _DTD.search(content) or _DTD.search(content[:200_000].replace(b"\0", b"")):
            raise self._corrupt(f"it declares XML entities, which {self._program} never writes: do not trust it")
        if _STRICT in content:
            content = _STRICT_NAMESPACE.sub(rb"http://schemas.openxmlformats.org/\1/2006/\2", content)
        try:
            return cast(Element, self._parse(content))
        except SyntaxError as error:
            raise self._corrupt(f"a part of it is no valid XML: save it again in {self._program}") from error

    def _corrupt(self, reason: str) -> ExtractError:
        return ExtractError(f"corrupt {self._format_name}: {reason}")


class Package(Parts):
    """The text parts of one Office Open XML package."""

    def __init__(self, data: bytes, *, format_name: str = "DOCX", program: str = "Word") -> None:
        """Raises ExtractError: encrypted, too_large, or corrupt when `data` is no zip archive."""
        _refuse_ole(data, format_name, program)
        parts = unpack(data, wanted=lambda name: name.lower().endswith(_PARTS))
        super().__init__(parts, format_name=format_name, program=program)

    def root_part(self, kind: str, default: str) -> str:
        """Name of the part that the package itself relates to under a kind, or the usual one."""
        related = self.relations().values()
        return next((relation.part for relation in related if relation.kind == kind), default)

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


def _refuse_ole(data: bytes, format_name: str, program: str) -> None:
    if not data.startswith(_OLE_MAGIC):
        return
    if "EncryptedPackage".encode("utf-16-le") in data:
        reason = f"encrypted {format_name}: save a copy without password, as only a PDF's can be given"
        raise ExtractError(reason, code="encrypted")
    cause = f"it is an old {program} file under another name: save it as .{format_name.lower()}"
    raise ExtractError(f"corrupt {format_name}: {cause}")


_DTD = re.compile(rb"<!(?:DOCTYPE|ENTITY)")
_STRICT = b"http://purl.oclc.org/ooxml/"
_STRICT_NAMESPACE = re.compile(_STRICT + rb"(\w+)/(\w+)")
"""ISO 29500's strict variant has namespaces of its own for the same elements."""


def core_metadata(package: Package) -> dict[str, str]:
    """Title, author, subject and keywords of an Office document, and when it was made and changed, if stated."""
    root = package.optional(package.root_part("core-properties", "docProps/core.xml"))
    stated = {key: child(root, qn(tag)) for key, tag in _CORE.items()} if root is not None else {}
    texts = {key: tidy(found.text or "") for key, found in stated.items() if found is not None}
    return {key: text[:TITLE_CHARS] for key, text in texts.items() if text}


_CORE = {
    "title": "dc:title",
    "author": "dc:creator",
    "subject": "dc:subject",
    "keywords": "cp:keywords",
    "created": "dcterms:created",
    "modified": "dcterms:modified",
}


def alternative(node: Element) -> Element:
    """The one branch of alternate content to read: the first choice, else the fallback; both say the same."""
    return next((each for tag in ("Choice", "Fallback") for each in children(node, MC + tag)), node)


MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"


_SPACES = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]*\n[ \t\u00a0]*")


def tidy(text: str) -> str:
    """Cleaned, no soft hyphens, no spaces around line breaks."""
    return _SPACES.sub("\n", clean(text).replace("\u00ad", "")).strip()
