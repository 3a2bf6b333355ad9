"""What a hit is shown with: the text of a passage, where it stands, and what stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import NoneType
from typing import Any

from storage import files, parts, text_index
from storage.chunks import REPEATED
from storage.connection import Connection
from storage.content import kept_parts, text_of
from storage.errors import DamagedValueError
from storage.fields import not_kept_so
from storage.passage_tokens import tokens_of
from storage.sources import Source
from storage.text_query import Term
from storage.vectors import integers

_ABOUT_A_TOKEN = re.compile(r"[A-Za-z\u00c0-\u024f]{1,6}|\d{1,3}|\S")

Kind = type | tuple[type, ...]

_PAGE = (int, NoneType)
_CHUNK: tuple[Kind, ...] = (int, *[str] * 3, *[int] * 3, str, _PAGE, _PAGE, int, *[str] * 3, bytes, str, int, int)
_MEMORY: tuple[Kind, ...] = (int, *[str] * 3, int, str)
_MESSAGE: tuple[Kind, ...] = (int, *[str] * 4)
_PIECE: tuple[Kind, ...] = (int, str, *[int] * 4, str, _PAGE, _PAGE)
"""The kinds of what is read of each, column by column."""

_NAMES = (
    "(SELECT json_group_array(d.path ORDER BY d.pk) FROM project_files d"
    " WHERE d.duplicate_of = f.pk AND typeof(d.path) = 'text')"
)
"""SQL for the other paths of a file `f`."""

COMPARED_WORDS = 16
"""Words of a passage, the longest, by which its copies are looked up."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk of a file, a memory or a message, as it is shown.

    file, path: base name and whole path of the file; also: other paths with the same bytes.
    container: path of the file on disk that the file lies in, such as a mail; None for one that is on disk itself.
    char_start, char_end: the range of the text in the file's extracted text, in the memory or message; of a chunk
        without the `repeated` characters at its start, which stand earlier in the file (the head of its table).
    heading: headings above a chunk, title of a memory, title of a message's conversation.
    tokens: of the text, by the model's tokenizer for a chunk, estimated for the others.
    on_disk: path, in bytes, of the file on disk that this file is or lies in.
    importance: 1 to 10 for a memory; at: when it was last changed, UTC text.
    """

    source: Source
    pk: int
    id: str
    text: str
    heading: str
    char_start: int
    char_end: int
    tokens: int
    at: str
    page_start: int | None = None
    page_end: int | None = None
    file_pk: int | None = None
    file_id: str | None = None
    file: str | None = None
    path: str | None = None
    container: str | None = None
    also: tuple[str, ...] = ()
    chunk_index: int = 0
    repeated: int = 0
    importance: int | None = None
    on_disk: bytes | None = None


def load(db: Connection, source: Source, pks: Sequence[int], *, project_pk: int | None) -> dict[int, Passage]:
    """Return passages by pk, without those of another project than `project_pk` (None: of any).

    One that cannot be read, as the disk or another program changed it, is left out, too; `ids` has it.
    """
    if not pks:
        return {}
    try:
        found = _LOADERS[source](db, pks, project_pk)
    except DamagedValueError:
        found = _one_by_one(db, source, pks, project_pk)
    return {passage.pk: passage for passage in found}


def _one_by_one(db: Connection, source: Source, pks: Sequence[int], project_pk: int | None) -> Iterator[Passage]:
    """Yield those of these passages that can be read."""
    for pk in pks:
        with suppress(DamagedValueError):
            yield from _LOADERS[source](db, [pk], project_pk)


def ids(db: Connection, source: Source, pks: Sequence[int], *, project_pk: int | None) -> list[str]:
    """Return the ids of those of these passages that are there, in a project (None: in any), readable or not."""
    rows = {
        Source.FILE: "file_chunks p",
        Source.MEMORY: "project_memories p",
        Source.MESSAGE: "messages p JOIN conversations v ON v.pk = p.conversation_id",
    }[source]
    found = db.all(
        f"SELECT iif(typeof(p.id) = 'text', p.id, 'row ' || p.pk) FROM {rows}"
        " WHERE p.pk IN (SELECT value FROM carray(:pks)) AND (:project IS NULL OR project_id = :project)",
        pks=integers(pks),
        project=project_pk,
    )
    return [id for (id,) in found]


def _require_kinds(what: str, rows: Sequence[tuple[Any, ...]], kinds: Sequence[Kind]) -> None:
    """Raise DamagedValueError where a row holds a value of another kind than its columns do.

    The engine keeps any value in any column: bytes in place of a text would fail where they are first read.
    """
    for row in rows:
        if not all(map(isinstance, row, kinds)):
            raise not_kept_so(f"{what} {row[0]}", "a value of the wrong kind")


def _chunks(db: Connection, pks: Sequence[int], project_pk: int | None) -> list[Passage]:
    rows = db.all(
        "SELECT c.pk, c.id, c.content, c.heading, c.char_start, c.char_end, c.token_count, c.created_at,"
        " c.page_start, c.page_end, f.pk, f.id, f.filename, f.path, f.path_bytes,"
        f" {_NAMES}, c.chunk_index, c.repeated FROM (SELECT *, {REPEATED} AS repeated FROM file_chunks) c"
        " JOIN project_files f ON f.pk = c.file_id"
        " WHERE c.pk IN (SELECT value FROM carray(:pks)) AND (:project IS NULL OR c.project_id = :project)",
        pks=integers(pks),
        project=project_pk,
    )
    _require_kinds("chunk", rows, _CHUNK)
    return [
        Passage(
            Source.FILE,
            *row[:14],
            container=_container(row[14]),
            also=tuple(json.loads(row[15])),
            chunk_index=row[16],
            repeated=row[17],
            on_disk=parts.on_disk(row[14]),
        )
        for row in rows
    ]


PLACES = 101
"""Files, at most, whose paths are looked for of one text: boilerplate may stand in every file there is."""


def places(db: Connection, passage: Passage, *, project_pk: int | None) -> list[str | None]:
    """Return paths of files that hold a passage's text, to the letter, in the order they came, and of their copies.

    Of `PLACES` files at most. project_pk: the project whose files are named; None: of any. Of what is no chunk, there
    are none.
    """
    if passage.source is not Source.FILE:
        return []
    rows = db.all(
        f"SELECT f.path, {_NAMES}"
        " FROM carray(:pks) p CROSS JOIN file_chunks c ON c.pk = p.value JOIN project_files f ON f.pk = c.file_id"
        " WHERE c.content_hash = (SELECT content_hash FROM file_chunks WHERE pk = :pk)"
        " AND (:project IS NULL OR c.project_id = :project) AND typeof(f.path) = 'text'"
        " ORDER BY c.pk LIMIT :limit",
        pks=integers(_alike(db, passage, project_pk)),
        pk=passage.pk,
        project=project_pk,
        limit=PLACES,
    )
    return [path for own, others in rows for path in (own, *json.loads(others))]


def _alike(db: Connection, passage: Passage, project_pk: int | None) -> list[int]:
    """Return the chunks that hold the longest words of a passage, all of its copies among them.

    The text index finds them: content has no index of its own. A text without a letter or digit has no words.
    """
    words = sorted(set(tokens_of(passage.text).body.split()), key=len)[-COMPARED_WORDS:]
    where = text_index.part(db, Source.FILE, project_pk)
    return text_index.matching(db, where, [(Term((word,)),) for word in words]) or [passage.pk]


def _container(path: bytes) -> str | None:
    return files.shown(parts.on_disk(path)) if parts.is_part(path) else None


def _memories(db: Connection, pks: Sequence[int], project_pk: int | None) -> list[Passage]:
    rows = db.all(
        "SELECT pk, id, content, title, importance, updated_at FROM project_memories"
        " WHERE pk IN (SELECT value FROM carray(:pks)) AND (:project IS NULL OR project_id = :project)",
        pks=integers(pks),
        project=project_pk,
    )
    _require_kinds("memory", rows, _MEMORY)
    return [
        Passage(Source.MEMORY, pk, id, text, title, 0, len(text), estimate(text), at, importance=importance)
        for pk, id, text, title, importance, at in rows
    ]


def _messages(db: Connection, pks: Sequence[int], project_pk: int | None) -> list[Passage]:
    rows = db.all(
        "SELECT m.pk, m.id, m.content, v.title, m.created_at FROM messages m"
        " JOIN conversations v ON v.pk = m.conversation_id WHERE m.pk IN (SELECT value FROM carray(:pks))"
        " AND (:project IS NULL OR v.project_id = :project)",
        pks=integers(pks),
        project=project_pk,
    )
    _require_kinds("message", rows, _MESSAGE)
    return [
        Passage(Source.MESSAGE, pk, id, text, title, 0, len(text), estimate(text), at)
        for pk, id, content, title, at in rows
        if (text := _text(id, content)) is not None
    ]


def _text(id: str, content: str) -> str | None:
    """Return what a message says; None where its content is none."""
    try:
        return text_of(kept_parts(content, f"message {id}"))
    except DamagedValueError:
        return None


_LOADERS: dict[Source, Any] = {Source.FILE: _chunks, Source.MEMORY: _memories, Source.MESSAGE: _messages}


def memory_weights(db: Connection, pks: Sequence[int]) -> dict[int, tuple[int, str]]:
    """Return importance and time of the last change of memories, by pk."""
    if not pks:
        return {}
    rows = db.all(
        "SELECT pk, importance, updated_at FROM project_memories WHERE pk IN (SELECT value FROM carray(:pks))",
        pks=integers(pks),
    )
    return {pk: (importance, at) for pk, importance, at in rows}


def estimate(text: str) -> int:
    """Return about how many tokens a text has: one for 6 letters of a Latin word, 3 digits, any other character.

    Of the default model's tokens that is a sixth to a quarter too many in English, right within a twentieth in Chinese,
    Japanese, Russian and source code, and a third too few in German.
    """
    return len(_ABOUT_A_TOKEN.findall(text)) or 1


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk as a part of its file: index is its place among the chunks, from 0; the others are those of `Passage`."""

    index: int
    text: str
    repeated: int
    char_start: int
    char_end: int
    tokens: int
    heading: str
    page_start: int | None
    page_end: int | None


def pieces(
    db: Connection, file_pk: int, first: int, last: int, *, damaged: Callable[[str], object] | None = None
) -> list[Piece]:
    """Return the chunks of a file from one place to another, both included, in their order.

    damaged: is told the ids of those that cannot be read, which are left out.
    """
    try:
        return _pieces(db, file_pk, first, last)
    except DamagedValueError:
        rows = db.all(
            "SELECT pk, chunk_index FROM file_chunks WHERE file_id = :file AND chunk_index BETWEEN :first AND :last"
            " ORDER BY chunk_index",
            file=file_pk,
            first=first,
            last=last,
        )
    found: list[Piece] = []
    for pk, index in rows:
        try:
            found += _pieces(db, file_pk, index, index)
        except DamagedValueError:
            if damaged is not None:
                damaged(*ids(db, Source.FILE, [pk], project_pk=None))
    return found


def _pieces(db: Connection, file_pk: int, first: int, last: int) -> list[Piece]:
    rows = db.all(
        f"SELECT chunk_index, content, {REPEATED}, char_start, char_end, token_count, heading, page_start, page_end"
        " FROM file_chunks WHERE file_id = :file AND chunk_index BETWEEN :first AND :last ORDER BY chunk_index",
        file=file_pk,
        first=first,
        last=last,
    )
    _require_kinds("chunk", rows, _PIECE)
    return [Piece(*row) for row in rows]
