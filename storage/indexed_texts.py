"""Every text that the full-text index should hold, made anew from the rows: to compare, or to build it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from storage import text_index
from storage.connection import Connection
from storage.content import text_of
from storage.passage_tokens import Tokens, tokens_of
from storage.sources import Source
from storage.tokenize import TOKENIZER_VERSION

PAGE = 500

Row = tuple[int, int | None, Tokens]
"""pk, project (None: of no project) and tokens of one passage."""

_TABLES = {Source.FILE: "file_chunks", Source.MEMORY: "project_memories", Source.MESSAGE: "messages"}
_TEXTS = {
    Source.FILE: "SELECT pk, project_id, heading, content FROM file_chunks WHERE pk > :after ORDER BY pk LIMIT :page",
    Source.MEMORY: (
        "SELECT pk, project_id, title, content FROM project_memories WHERE pk > :after ORDER BY pk LIMIT :page"
    ),
    Source.MESSAGE: (
        "SELECT m.pk, v.project_id, '', m.content FROM messages m JOIN conversations v ON v.pk = m.conversation_id"
        " WHERE m.pk > :after ORDER BY m.pk LIMIT :page"
    ),
}


def pages(db: Connection, source: Source) -> Iterator[list[Row]]:
    """Yield all passages of a source, by pk, so many at a time that a page fits in memory."""
    after = 0
    while rows := db.all(_TEXTS[source], after=after, page=PAGE):
        yield [_row(source, *row) for row in rows]
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def rows(db: Connection, source: Source) -> Iterator[Row]:
    """Yield all passages of a source, by pk."""
    for page in pages(db, source):
        yield from page


def rebuild(db: Connection, source: Source) -> int:
    """Make the full text of a source anew from its rows, in this transaction; return how many passages it has."""
    text_index.clear(db, source)
    indexed = 0
    for page in pages(db, source):
        wanted = [row for row in page if source is not Source.MESSAGE or row[2].length]
        for project in {project for _, project, _ in wanted}:
            text_index.put(db, source, project, [(pk, tokens) for pk, owner, tokens in wanted if owner == project])
        indexed += len(wanted)
    db.run(
        "INSERT INTO text_versions (source, version) VALUES (:source, :version)"
        " ON CONFLICT (source) DO UPDATE SET version = excluded.version",
        source=source,
        version=TOKENIZER_VERSION,
    )
    return indexed


def note_empty(db: Connection) -> None:
    """Have what holds no text yet count as made by today's tokenizer: so a new database need not be made twice."""
    for source, table in _TABLES.items():
        db.run(
            "UPDATE text_versions SET version = :version WHERE source = :source"
            f" AND NOT EXISTS (SELECT 1 FROM {table})",
            version=TOKENIZER_VERSION,
            source=source,
        )


def newer(db: Connection) -> bool:
    """Tell whether a newer tokenizer than ours made some full text."""
    return bool(db.value("SELECT count(*) FROM text_versions WHERE version > :version", version=TOKENIZER_VERSION))


def outdated(db: Connection) -> list[Source]:
    """Return the sources whose full text another version of the tokenizer made."""
    current = {
        source
        for (source,) in db.all("SELECT source FROM text_versions WHERE version = :version", version=TOKENIZER_VERSION)
    }
    return [source for source in Source if source not in current]


def _row(source: Source, pk: int, project: int | None, heading: str, body: str) -> Row:
    text = message_text(body) if source is Source.MESSAGE else body
    return pk, project, tokens_of(text, heading)


def message_text(content: str) -> str:
    """Return what is searched of a message; of content that is no list of parts, which verify names, nothing."""
    try:
        parts: Any = json.loads(content)
        return text_of(parts)
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
