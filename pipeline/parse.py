"""From a path to chunks: read, hash, tell the kind, extract, cut. Pure work, no database.

It runs in a child process (workers.parser_child), as hostile files hang, crash and eat memory.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer

from pipeline.attachments import Part, follow, parts_of
from pipeline.chunk import ChunkSettings, chunk, fewest_chunks
from pipeline.detect import detect
from pipeline.document import Chunk, Document
from pipeline.extract import PdfEngine, extract
from pipeline.regular_file import read_file
from storage import parts
from storage.errors import ExtractError
from storage.fingerprint import Fingerprint
from storage.passage_tokens import Tokens, tokens_of


@dataclass(frozen=True, slots=True)
class ParseSettings:
    """How files are read and cut.

    passwords are tried in turn on encrypted PDFs; pdf_engine reads them. max_file_bytes and
    max_chunks_per_file bound what one file may cost; over them it fails with the remedy. grammars: whether source
    code is cut by the grammar of its language, where that is installed.
    """

    chunks: ChunkSettings
    passwords: tuple[str, ...] = ()
    pdf_engine: PdfEngine = "pypdfium2"
    max_file_bytes: int = 200 * 2**20
    max_chunks_per_file: int = 20_000
    grammars: bool = True


@dataclass(frozen=True, slots=True)
class Parsed:
    """What parsing a file gave: its chunks, their search tokens, and what is known of the file.

    content_hash is of the very bytes that were parsed, fingerprint of the file (of the one on disk) as it was then.
    parts: the readable files within it.
    """

    content_hash: str
    fingerprint: Fingerprint
    mime_type: str
    parser: str
    page_count: int | None
    metadata: dict[str, Any]
    chunks: tuple[Chunk, ...]
    tokens: tuple[Tokens, ...]
    parts: tuple[Part, ...] = ()


def parse(path: bytes, name: str, tokenizer: Tokenizer, settings: ParseSettings) -> Parsed:
    """Read one file, or one within it, and cut it into chunks.

    path: as in project_files.path_bytes (see storage.parts); name: its base name.
    Raises ExtractError where the bytes hold no readable text, TransientError where the file changes
    while it is read, OSError where it cannot be opened.
    """
    way = parts.names(path)
    read = read_file(parts.on_disk(path), settings.max_file_bytes)
    data, content_hash = read.data, read.sha256
    if way:
        outermost = os.fsdecode(os.path.basename(parts.on_disk(path)))
        data = follow(data, outermost, way, passwords=settings.passwords, pdf_engine=settings.pdf_engine)
        content_hash = hashlib.sha256(data).hexdigest()
    detection = detect(data, name)
    if detection.kind is None:
        raise ExtractError(f"holds no text: {detection.reason}", code="unsupported")
    document = extract(
        data, kind=detection.kind, name=name, passwords=settings.passwords, pdf_engine=settings.pdf_engine
    )
    if not settings.grammars:
        document = _without_grammar(document)
    _require_bounded(fewest_chunks(document.text, settings.chunks), settings, "at least ")
    inner, skipped = parts_of(document, depth=len(way))
    chunks = chunk(document, tokenizer, settings.chunks)
    if not chunks:
        raise ExtractError("empty: no text in it; nothing to index", code="empty")
    _require_bounded(len(chunks), settings)
    return Parsed(
        content_hash=content_hash,
        fingerprint=read.fingerprint,
        mime_type=detection.mime_type,
        parser=document.parser,
        page_count=document.page_count,
        metadata=_metadata(document, skipped),
        chunks=tuple(chunks),
        tokens=tuple(tokens_of(c.text, c.heading) for c in chunks),
        parts=inner,
    )


def _without_grammar(document: Document) -> Document:
    """Source code as of a language that there is no grammar for."""
    if not document.language:
        return document
    return replace(document, language="", metadata=document.metadata | {"grammar": "none: parsing with it failed"})


def _metadata(document: Document, skipped: list[dict[str, Any]]) -> dict[str, Any]:
    extra: dict[str, Any] = {"attachments_skipped": skipped} if skipped else {}
    if document.pages and document.page_unit != "page":
        extra["page_unit"] = document.page_unit
    return document.metadata | extra


def _require_bounded(count: int, settings: ParseSettings, about: str = "") -> None:
    if count > settings.max_chunks_per_file:
        raise ExtractError(
            f"{about}{count} chunks, over max_chunks_per_file ({settings.max_chunks_per_file}): split it or raise the"
            " limit",
            code="too_many_chunks",
        )
