"""Files within files: their names, and the way to the bytes of one of them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.detect import detect
from pipeline.document import Attachment, Document
from pipeline.extract import PdfEngine, attachments
from storage.errors import TransientError

MAX_DEPTH = 4
"""How many files deep an attachment may lie; a mail in a mail in a mail is two."""

NAME_CHARS = 120


@dataclass(frozen=True, slots=True)
class Part:
    """A readable file within a file: its name there, unique among its siblings, and what it is.

    size in bytes; content_hash: SHA-256 (hex) of its bytes.
    """

    name: str
    size: int
    content_hash: str
    mime_type: str


def parts_of(document: Document, *, depth: int) -> tuple[tuple[Part, ...], list[dict[str, Any]]]:
    """Return the attachments that a reader exists for, and name and reason of each that is passed over.

    depth: how deep the document itself lies in others, 0 for a file on disk.
    """
    parts: list[Part] = []
    skipped: list[dict[str, Any]] = []
    for name, data in _named(document.attachments):
        detection = detect(data, name)
        if depth >= MAX_DEPTH:
            skipped.append({"name": name, "reason": f"lies more than {MAX_DEPTH} files deep"})
        elif detection.kind is None or not data:
            skipped.append({"name": name, "reason": detection.reason or "empty"})
        else:
            parts.append(Part(name, len(data), hashlib.sha256(data).hexdigest(), detection.mime_type))
    return tuple(parts), skipped


def follow(
    data: bytes, name: str, way: Sequence[str], *, passwords: Sequence[str] = (), pdf_engine: PdfEngine = "pypdfium2"
) -> bytes:
    """Return the bytes of the file that lies in another one under the names of `way`, one within the other.

    data, name: of the outermost file. Raises ExtractError where a file on the way cannot be read, TransientError
    where it holds no such file (any more).
    """
    for step in way:
        kind = detect(data, name).kind
        inner = attachments(data, kind=kind, name=name, passwords=passwords, pdf_engine=pdf_engine) if kind else ()
        found = dict(_named(inner)).get(step)
        if found is None:
            raise TransientError("the file it lies in was changed meanwhile: run ingest again", code="changing")
        data, name = found, step
    return data


def _named(attached: Iterable[Attachment]) -> Iterator[tuple[str, bytes]]:
    """Yield each attachment with a name that no other has and no path can hide in."""
    taken: set[str] = set()
    for attachment in attached:
        name = _unique(clean_name(attachment.name), taken)
        taken.add(name)
        yield name, attachment.data


def clean_name(name: str) -> str:
    """Return the base name of an untrusted file name, printable and of at most NAME_CHARS characters."""
    base = re.split(r"[/\\]", unicodedata.normalize("NFC", name).strip())[-1]
    base = "".join(c for c in base if c.isprintable() and not "\ud800" <= c <= "\udfff").strip(" .")
    stem, dot, extension = base.rpartition(".")
    if len(base) > NAME_CHARS and dot and len(extension) < 12:
        base = stem[: NAME_CHARS - len(extension) - 1] + dot + extension
    return base[:NAME_CHARS] or "unnamed"


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    stem, dot, extension = name.rpartition(".")
    stem, ending = (stem, dot + extension) if dot else (name, "")
    number = 2
    while (numbered := f"{stem} ({number}){ending}") in taken:
        number += 1
    return numbered
