"""Chunks of files: the passages that are searched.

A chunk and its entries in the text index and among the vectors come and go in one transaction. Chunks that
were added to a file are nowhere else: they are marked, stay behind those its parser makes whenever it is
read again, and go with the last name of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from storage import changes, paging, text_index, vectors
from storage.connection import Connection
from storage.errors import NotFoundError, UsageError
from storage.ids import new_id, now_text
from storage.paging import Page
from storage.passage_tokens import Tokens
from storage.sources import Source
from storage.vectors import Vector


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk ready to be stored: its text and place, its tokens, its model input's hash and its vector.

    repeated: how many characters at the start of the text stand earlier in the file, outside of that place.
    """

    content: str
    token_count: int
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    heading: str
    tokens: Tokens
    input_hash: bytes
    vector: Vector
    repeated: int = 0

    @property
    def identity(self) -> tuple[bytes, str]:
        """What makes two chunks of a file the same passage, wherever it moved to."""
        return content_hash(self.content), self.heading


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stored chunk: chunk_index is its place in the file, from 0; offsets count characters of the file's text.

    The range char_start:char_end of that text is `content[repeated:]`.
    """

    pk: int
    id: str
    file_pk: int
    chunk_index: int
    content: str
    token_count: int
    char_start: int
    char_end: int
    page_start: int | None
    page_end: int | None
    heading: str
    created_at: str
    repeated: int = 0


# Another program may write the same JSON in another way: what it says counts, not its bytes.
_IS_ADDED = "CASE WHEN json_valid(metadata) THEN json_type(metadata, '$.added') IS 'true' ELSE FALSE END"
IS_PARSED = "CASE WHEN json_valid(metadata) THEN json_remove(metadata, '$.repeated') = '{}' ELSE FALSE END"
"""SQL that tells whether a row of `file_chunks` can be made again from its file: one that holds more is never
deleted for that."""
REPEATED = (
    "CASE WHEN json_valid(metadata) THEN max(0, coalesce(CAST(metadata ->> '$.repeated' AS INTEGER), 0)) ELSE 0 END"
)
"""SQL for `Chunk.repeated` of a row of `file_chunks`."""

_COLUMNS = (
    "pk, id, file_id, chunk_index, content, token_count, char_start, char_end, page_start, page_end, heading,"
    f" created_at, {REPEATED}"
)


@dataclass(frozen=True, slots=True)
class Unembedded:
    """A chunk without a vector, which no parser makes again."""

    pk: int
    heading: str
    content: str


def content_hash(text: str) -> bytes:
    """Return the SHA-256 of a passage's text."""
    return hashlib.sha256(text.encode("utf8")).digest()


def of_file(db: Connection, file_pk: int) -> list[Chunk]:
    """Return all chunks of a file in their order; a duplicate has none, its owner has them."""
    return [
        Chunk(*row)
        for row in db.all(
            f"SELECT {_COLUMNS} FROM file_chunks WHERE file_id = :file ORDER BY chunk_index", file=file_pk
        )
    ]


def of_project(db: Connection, project_pk: int) -> list[int]:
    """Return the pks of all chunks of a project, file by file in the order these came and the chunks stand."""
    return [
        pk
        for (pk,) in db.all(
            "SELECT pk FROM file_chunks WHERE project_id = :project ORDER BY file_id, chunk_index", project=project_pk
        )
    ]


def content_hashes(db: Connection, pks: Collection[int]) -> dict[int, bytes]:
    """Return the SHA-256 of the texts of these chunks, by pk."""
    return dict(
        db.all(
            "SELECT pk, content_hash FROM file_chunks WHERE pk IN (SELECT value FROM carray(:pks))",
            pks=vectors.integers(pks),
        )
    )


def listed(
    db: Connection, file_pk: int, *, on_page: int | None = None, limit: int = 100, after: str | None = None
) -> Page[Chunk]:
    """Return chunks of a file in their order; a duplicate has none, its owner has them.

    on_page: only those that stand on this page of the document, in part at least.
    limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    index, pk = paging.start(after, (-1, 0), "chunks")
    rows = db.all(
        f"SELECT {_COLUMNS} FROM file_chunks WHERE file_id = :file AND (chunk_index, pk) > (:index, :pk)"
        " AND (:page IS NULL OR :page BETWEEN page_start AND page_end) ORDER BY chunk_index, pk LIMIT :limit",
        file=file_pk,
        index=index,
        pk=pk,
        page=on_page,
        limit=paging.probe(limit),
    )
    return paging.cut(rows, limit, lambda row: Chunk(*row), lambda chunk: (chunk.chunk_index, chunk.pk), "chunks")


def get(db: Connection, pk: int) -> Chunk:
    """Return a chunk by its primary key; raises NotFoundError."""
    row = db.one(f"SELECT {_COLUMNS} FROM file_chunks WHERE pk = :pk", pk=pk)
    if row is None:
        raise NotFoundError(f"chunk {pk}: no such chunk")
    return Chunk(*row)


def by_id(db: Connection, id: str) -> Chunk:
    """Return a chunk by the id that the doors show; raises NotFoundError."""
    row = db.one(f"SELECT {_COLUMNS} FROM file_chunks WHERE id = :id", id=id)
    if row is None:
        raise NotFoundError(f"{id}: no such chunk")
    return Chunk(*row)


def count(db: Connection, project_pk: int | None = None) -> int:
    """Return the number of chunks of a project, or of all."""
    if project_pk is None:
        return db.value("SELECT count(*) FROM file_chunks")
    return db.value("SELECT count(*) FROM file_chunks WHERE project_id = :project", project=project_pk)


def add(db: Connection, file_pk: int, model_pk: int, chunk: NewChunk) -> Chunk:
    """Append a chunk to a ready file; see `add_many`."""
    return add_many(db, file_pk, model_pk, [chunk])[0]


def add_many(db: Connection, file_pk: int, model_pk: int, new: Sequence[NewChunk]) -> list[Chunk]:
    """Append chunks to those of a ready file, in that order, and return them; all can be found at once.

    They stay when the file is read again, edited or not, behind the chunks then made, until they are removed or
    the last name of the file is deleted. Where a name is edited whose old bytes another still has, they stay
    with that one; where it becomes equal to another file, they go to that.
    Raises NotFoundError for an unknown file, UsageError for one that is not ready, or whose equal twin
    has the chunks, and for a vector that is not as wide as the model's; ModelSwitchedError for one of another model
    than the live one.
    """
    project_pk = _require_owner(db, file_pk)
    if new:
        vectors.require_live(db, model_pk)
    first = db.value("SELECT coalesce(max(chunk_index) + 1, 0) FROM file_chunks WHERE file_id = :file", file=file_pk)
    pks = [_insert(db, project_pk, file_pk, index, chunk, added=True) for index, chunk in enumerate(new, first)]
    if pks:
        _enter(db, project_pk, model_pk, list(zip(pks, new, strict=True)))
        _raise_count(db, file_pk, len(pks))
        changes.bump(db, project_pk)
    return [get(db, pk) for pk in pks]


def _require_owner(db: Connection, file_pk: int) -> int:
    """Return the project of a file that may get chunks."""
    row = db.one(
        "SELECT f.project_id, f.path, f.status, o.path FROM project_files f"
        " LEFT JOIN project_files o ON o.pk = f.duplicate_of WHERE f.pk = :pk",
        pk=file_pk,
    )
    if row is None:
        raise NotFoundError(f"file {file_pk}: no such file")
    project_pk, path, status, owner = row
    if owner is not None:
        raise UsageError(f"{path}: holds the same bytes as {owner}, which has the chunks; add them to that one")
    if status != "ready":
        raise UsageError(f"{path}: is {status}, not ready; add chunks when it is")
    return project_pk


def _raise_count(db: Connection, file_pk: int, by: int) -> None:
    """Count more chunks of a file, and of the names it serves."""
    db.run(
        "UPDATE project_files SET chunk_count = chunk_count + :by, updated_at = :now"
        " WHERE pk = :pk OR duplicate_of = :pk",
        pk=file_pk,
        by=by,
        now=now_text(),
    )


def replace(db: Connection, project_pk: int, file_pk: int, model_pk: int, new: Sequence[NewChunk]) -> int:
    """Make `new` the chunks of a file, in that order, and return how many had to be written.

    A chunk whose text and heading are as before keeps its row, its id and its entries in the indexes;
    only its place is brought up to date. Chunks that were added stay, behind the new ones.
    """
    kept, before = _match(db, file_pk, new), _in_order(db, file_pk)
    remove(db, project_pk, _outdated(db, file_pk, set(kept.values())))
    # Places are moved out of the way first: (file_id, chunk_index) is unique at every moment.
    db.run("UPDATE file_chunks SET chunk_index = -1 - chunk_index WHERE file_id = :file", file=file_pk)
    added: list[tuple[int, NewChunk]] = []
    for index, chunk in enumerate(new):
        if index in kept:
            _place(db, kept[index], index, chunk)
        else:
            added.append((_insert(db, project_pk, file_pk, index, chunk), chunk))
    _place_behind(db, file_pk, len(new))
    bare = [(kept[index], new[index]) for index in _without_vector(db, model_pk, project_pk, kept)]
    _enter(db, project_pk, model_pk, added, bare)
    if before and _in_order(db, file_pk) != before:
        text_index.reordered(db, Source.FILE, project_pk)
    return len(added)


def _in_order(db: Connection, file_pk: int) -> list[tuple[int]]:
    return db.all("SELECT pk FROM file_chunks WHERE file_id = :file ORDER BY chunk_index", file=file_pk)


def _outdated(db: Connection, file_pk: int, kept: Collection[int]) -> list[int]:
    """Return the chunks of a file that were made from it, and that are not to be kept."""
    rows = db.all(f"SELECT pk FROM file_chunks WHERE file_id = :file AND {IS_PARSED}", file=file_pk)
    return [pk for (pk,) in rows if pk not in kept]


def _place_behind(db: Connection, file_pk: int, first: int) -> None:
    """Number the chunks that have no place yet from `first` on, in the order they had."""
    rows = db.all(
        "SELECT pk FROM file_chunks WHERE file_id = :file AND chunk_index < 0 ORDER BY chunk_index DESC", file=file_pk
    )
    db.many(
        "UPDATE file_chunks SET chunk_index = :index WHERE pk = :pk",
        ({"index": index, "pk": pk} for index, (pk,) in enumerate(rows, first)),
    )


def _enter(
    db: Connection,
    project_pk: int,
    model_pk: int,
    added: Sequence[tuple[int, NewChunk]],
    bare: Sequence[tuple[int, NewChunk]] = (),
) -> None:
    """Put new chunks into the text index, and them and those without a vector (`bare`) among the vectors."""
    text_index.put(db, Source.FILE, project_pk, [(pk, chunk.tokens) for pk, chunk in added])
    rows = [(pk, chunk.input_hash, chunk.vector) for pk, chunk in (*added, *bare)]
    vectors.put(db, model_pk, project_pk, Source.FILE, rows)


def _match(db: Connection, file_pk: int, new: Sequence[NewChunk]) -> dict[int, int]:
    """Return, by index of `new`, the pk of the stored chunk that is the same passage."""
    stored: defaultdict[tuple[bytes, str], deque[int]] = defaultdict(deque)
    for pk, digest, heading in db.all(
        f"SELECT pk, content_hash, heading FROM file_chunks WHERE file_id = :file AND NOT {_IS_ADDED}"
        " ORDER BY chunk_index",
        file=file_pk,
    ):
        stored[bytes(digest), heading].append(pk)
    if not stored:
        return {}
    return {index: stored[chunk.identity].popleft() for index, chunk in enumerate(new) if stored[chunk.identity]}


def _without_vector(db: Connection, model_pk: int, project_pk: int, kept: dict[int, int]) -> list[int]:
    """Return the indexes of kept chunks that this model has no vector for yet."""
    return [
        index
        for index, pk in kept.items()
        if db.one(
            "SELECT 1 FROM vector_bits WHERE model = :model AND project = :project AND source = 'file' AND pk = :pk",
            model=model_pk,
            project=project_pk,
            pk=pk,
        )
        is None
    ]


def _place(db: Connection, pk: int, index: int, chunk: NewChunk) -> None:
    db.run(
        "UPDATE file_chunks SET chunk_index = :index, token_count = :tokens, char_start = :start, char_end = :end,"
        " page_start = :page_start, page_end = :page_end, metadata = :metadata WHERE pk = :pk",
        pk=pk,
        index=index,
        tokens=chunk.token_count,
        metadata=_metadata(chunk),
        **_span(chunk),
    )


def _insert(db: Connection, project_pk: int, file_pk: int, index: int, chunk: NewChunk, *, added: bool = False) -> int:
    db.run(
        "INSERT INTO file_chunks (id, project_id, file_id, chunk_index, content, content_hash, token_count,"
        " char_start, char_end, page_start, page_end, heading, metadata, created_at) VALUES (:id, :project, :file,"
        " :index, :content, :hash, :tokens, :start, :end, :page_start, :page_end, :heading, :metadata, :now)",
        id=new_id(),
        project=project_pk,
        file=file_pk,
        index=index,
        content=chunk.content,
        hash=content_hash(chunk.content),
        tokens=chunk.token_count,
        heading=chunk.heading,
        metadata=_metadata(chunk, added=added),
        now=now_text(),
        **_span(chunk),
    )
    return db.last_pk()


def _metadata(chunk: NewChunk, *, added: bool = False) -> str:
    """What is kept of a chunk in JSON: whether it was added, and what it repeats; only what is so."""
    facts = ({"added": True} if added else {}) | ({"repeated": chunk.repeated} if chunk.repeated else {})
    return json.dumps(facts, separators=(",", ":"))


def _span(chunk: NewChunk) -> dict[str, Any]:
    return {
        "start": chunk.char_start,
        "end": chunk.char_end,
        "page_start": chunk.page_start,
        "page_end": chunk.page_end,
    }


def remove(db: Connection, project_pk: int, pks: Sequence[int]) -> None:
    """Delete chunks together with their tokens and vectors."""
    if not pks:
        return
    text_index.delete(db, Source.FILE, pks)
    vectors.delete(db, project_pk, Source.FILE, pks)
    db.many("DELETE FROM file_chunks WHERE pk = :pk", ({"pk": pk} for pk in pks))


def delete_of(db: Connection, project_pk: int, file_pk: int) -> None:
    """Delete every chunk of a file."""
    remove(db, project_pk, [pk for (pk,) in db.all("SELECT pk FROM file_chunks WHERE file_id = :file", file=file_pk)])


def delete_parsed(db: Connection, project_pk: int, file_pk: int) -> None:
    """Delete the chunks that were made from a file; those that were added to it stay."""
    remove(db, project_pk, _outdated(db, file_pk, ()))
    _renumber(db, file_pk)


def move(db: Connection, owner_pk: int, heir_pk: int) -> None:
    """Give the chunks of one file to another of the same project; the indexes know chunks only, not files."""
    db.run("UPDATE file_chunks SET file_id = :heir WHERE file_id = :owner", owner=owner_pk, heir=heir_pk)


def unembedded(db: Connection, file_pk: int, model_pk: int) -> list[Unembedded]:
    """Return the chunks that were added to a file and have no vector of a model: reading the file makes none."""
    rows = db.all(
        f"SELECT c.pk, c.heading, c.content FROM file_chunks c WHERE c.file_id = :file AND NOT {IS_PARSED}"
        " AND NOT EXISTS (SELECT 1 FROM vector_bits v WHERE v.model = :model AND v.project = c.project_id"
        " AND v.source = 'file' AND v.pk = c.pk) ORDER BY c.chunk_index",
        file=file_pk,
        model=model_pk,
    )
    return [Unembedded(*row) for row in rows]


def extra(db: Connection, file_pk: int) -> int:
    """Return how many chunks a file has besides those its parser makes."""
    return db.value(f"SELECT count(*) FROM file_chunks WHERE file_id = :file AND NOT {IS_PARSED}", file=file_pk)


def hand_over(db: Connection, file_pk: int, heir_pk: int) -> int:
    """Give the chunks that were added to a file to another of the same project, behind its own; return how many."""
    handed = extra(db, file_pk)
    if handed:
        db.run(
            "UPDATE file_chunks SET file_id = :heir, chunk_index = chunk_index"
            " + (SELECT coalesce(max(chunk_index) + 1, 0) FROM file_chunks WHERE file_id = :heir)"
            f" WHERE file_id = :file AND NOT {IS_PARSED}",
            file=file_pk,
            heir=heir_pk,
        )
        _renumber(db, heir_pk)
        _raise_count(db, heir_pk, handed)
        project_pk = db.value("SELECT project_id FROM project_files WHERE pk = :heir", heir=heir_pk)
        text_index.reordered(db, Source.FILE, project_pk)
    return handed


def _renumber(db: Connection, file_pk: int) -> None:
    """Close the gaps between the places of a file's chunks."""
    db.run("UPDATE file_chunks SET chunk_index = -1 - chunk_index WHERE file_id = :file", file=file_pk)
    _place_behind(db, file_pk, 0)
