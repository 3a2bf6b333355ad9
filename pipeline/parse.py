"""From a path to chunks: read, hash, tell the kind, extract, cut. Pure work, no database.

It runs in a child process (workers.parser_child), as hostile files hang, crash and eat memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from pipeline.chunk import ChunkSettings, chunk
from pipeline.detect import detect
from pipeline.discover import read_file
from pipeline.document import Chunk
from pipeline.extract import extract
from storage import text_index
from storage.errors import ExtractError
from storage.files import Fingerprint
from storage.text_index import Tokens


@dataclass(frozen=True, slots=True)
class ParseSettings:
    """How files are read and cut.

    passwords are tried in turn on encrypted PDFs. max_file_bytes and max_chunks_per_file bound what
    one file may cost; over them it fails with the remedy.
    """

    chunks: ChunkSettings
    passwords: tuple[str, ...] = ()
    max_file_bytes: int = 200 * 2**20
    max_chunks_per_file: int = 20_000


@dataclass(frozen=True, slots=True)
class Parsed:
    """What parsing a file gave: its chunks, their search tokens, and what is known of the file.

    content_hash is of the very bytes that were parsed, fingerprint of the file as it was then.
    """

    content_hash: str
    fingerprint: Fingerprint
    mime_type: str
    parser: str
    page_count: int | None
    metadata: dict[str, Any]
    chunks: tuple[Chunk, ...]
    tokens: tuple[Tokens, ...]


def parse(path: bytes, name: str, tokenizer: Tokenizer, settings: ParseSettings) -> Parsed:
    """Read one file and cut it into chunks.

    Raises ExtractError where the bytes hold no readable text, TransientError where the file changes
    while it is read, OSError where it cannot be opened.
    """
    read = read_file(path, settings.max_file_bytes)
    detection = detect(read.data, name)
    if detection.kind is None:
        raise ExtractError(f"holds no text: {detection.reason}", code="unsupported")
    document = extract(read.data, kind=detection.kind, name=name, passwords=settings.passwords)
    chunks = chunk(document, tokenizer, settings.chunks)
    if not chunks:
        raise ExtractError("empty: no text in it; nothing to index", code="empty")
    _require_bounded(len(chunks), settings)
    return Parsed(
        content_hash=read.sha256,
        fingerprint=read.fingerprint,
        mime_type=detection.mime_type,
        parser=document.parser,
        page_count=document.page_count,
        metadata=document.metadata,
        chunks=tuple(chunks),
        tokens=tuple(text_index.tokens(c.text, c.heading) for c in chunks),
    )


def _require_bounded(count: int, settings: ParseSettings) -> None:
    if count > settings.max_chunks_per_file:
        raise ExtractError(
            f"{count} chunks, over max_chunks_per_file ({settings.max_chunks_per_file}): split it or raise the limit",
            code="too_many_chunks",
        )
