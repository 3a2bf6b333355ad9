"""Faults planted into Knowlex itself, to show that a harness would see them.

Each changes one function where its callers look it up, in this process alone; a test undoes it with
`monkeypatch`, a child process (`faults.child --mutant NAME`) ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

Patch = Callable[[Any, str, Any], None]
"""Sets an attribute of a module or class: `setattr`, or `monkeypatch.setattr`."""

MUTANTS: dict[str, Callable[[Patch], None]] = {}


def mutant(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Make a mutant known by the name of its function, with hyphens."""
    MUTANTS[plant.__name__.replace("_", "-")] = plant
    return plant


def plant(name: str, patch: Patch = setattr) -> None:
    """Plant a mutant by name."""
    MUTANTS[name](patch)


@mutant
def synchronous_off(patch: Patch) -> None:
    """Commits that do not wait for the disk."""
    from storage import connection

    patch(connection, "PRAGMAS", connection.PRAGMAS.replace("synchronous = FULL", "synchronous = OFF"))


@mutant
def missing_fence(patch: Patch) -> None:
    """Steps that do not ask whether the lease still stands."""
    from storage import queue

    patch(queue, "require_lease", lambda db, claim: None)


@mutant
def split_transaction(patch: Patch) -> None:
    """Files whose chunks are committed before the rest of them."""
    from storage import chunks

    whole = chunks.replace

    def split(db: Any, *arguments: Any) -> int:
        written = whole(db, *arguments)
        db.script("COMMIT; BEGIN IMMEDIATE")
        return written

    patch(chunks, "replace", split)


@mutant
def lost_lease(patch: Patch) -> None:
    """Workers that never look whether another one is lost."""
    from storage import queue

    patch(queue, "lost", lambda db, *, now_ms, is_dead: False)


@mutant
def kept_lease(patch: Patch) -> None:
    """Workers that end without giving back what they hold."""
    from storage import queue

    patch(queue, "give_back", lambda db, owner: 0)


@mutant
def attempts_not_counted(patch: Patch) -> None:
    """Attempts that failed, and that nobody remembers."""
    from storage import queue

    try_later = queue.try_later

    def forgetful(db: Any, claim: Any, **more: Any) -> None:
        try_later(db, claim, **more)
        db.run("UPDATE project_files SET attempts = 0 WHERE pk = :pk", pk=claim.pk)

    patch(queue, "try_later", forgetful)


@mutant
def lost_worker_counted(patch: Patch) -> None:
    """Files that pay for the loss of a worker."""
    from storage import queue

    give_back = queue.give_back

    def strict(db: Any, owner: str) -> int:
        db.run("UPDATE project_files SET attempts = attempts + 1 WHERE lease_owner = :owner", owner=owner)
        return give_back(db, owner)

    patch(queue, "give_back", strict)


@mutant
def oldest_project_first(patch: Patch) -> None:
    """Claims that keep to the project that has waited longest, until it has no more files."""
    from storage import queue

    claim = queue.claim

    def unfair(db: Any, owner: str, *, project_pk: int | None = None, **more: Any) -> Any:
        oldest = "SELECT project_id FROM project_files WHERE status = 'pending' AND waiting_for IS NULL ORDER BY pk"
        return claim(db, owner, project_pk=project_pk or db.value(f"{oldest} LIMIT 1"), **more)

    patch(queue, "claim", unfair)


@mutant
def searches_that_write(patch: Patch) -> None:
    """Searches that end in an error where another one has the write lock."""
    from knowlex import Knowlex

    def noted(kb: Knowlex, *_: Any, **__: Any) -> None:
        with kb.database.write(timeout_ms=0):
            pass

    patch(Knowlex, "_note_search", noted)


@mutant
def unsound_vectors_accepted(patch: Patch) -> None:
    """An encoder that stores what a model gives, whatever it is."""
    import numpy as np

    from storage import vectors

    def credulous(values: Any, *, dim: int | None = None) -> list[vectors.Vector]:
        with np.errstate(all="ignore"):
            half = np.asarray(values, np.float64).astype("<f2")
        return [vectors.Vector(row.tobytes(), np.packbits(row > 0).tobytes()) for row in half]

    patch(vectors, "encode", credulous)


@mutant
def no_vacuum(patch: Patch) -> None:
    """Maintenance that gives nothing back to the disk."""
    from storage import maintain

    patch(maintain, "_give_back_or_write_anew", lambda database: "")


@mutant
def unquoted_tokens(patch: Patch) -> None:
    """Questions whose words FTS5 reads as its own language."""
    from storage import message_search, text_index, text_query

    def raw(question: str) -> list[text_query.Term]:
        return [text_query.Term((word,)) for word in question.split()]

    for module in (text_index, message_search):
        patch(module, "terms", raw)
    patch(text_query.Term, "expression", property(lambda term: " ".join(term.tokens)))


@mutant
def pairs_not_indexed(patch: Patch) -> None:
    """Runs of Chinese, Japanese and Korean that are indexed as one word each."""
    from storage import passage_tokens
    from storage.words import UNSPACED, words_of

    index_tokens = passage_tokens.index_tokens

    def coarse(text: str) -> str:
        return " ".join(word if UNSPACED.match(word) else index_tokens(word) for word in words_of(text))

    patch(passage_tokens, "index_tokens", coarse)


@mutant
def raw_copy_backup(patch: Patch) -> None:
    """Backups that copy the bytes of the file, and not its log."""
    import shutil

    from storage import backup

    patch(backup, "copy", lambda connection, target, **_: shutil.copyfile(connection.path, target))


@mutant
def no_backup(patch: Patch) -> None:
    """Backups that are told to be made, and are not there."""
    from storage import backup

    make = backup.make

    def forgetful(database: Any, target: Any) -> Any:
        made = make(database, target)
        made.path.unlink()
        return made

    patch(backup, "make", forgetful)


@mutant
def rename_restore(patch: Patch) -> None:
    """Restores that put a file in the place of the database."""
    import os

    from storage import backup

    def renamed(path: Any, source: Any) -> backup.Restored:
        os.replace(source, path)
        return backup.Restored(path, *backup.examine(path), None)

    patch(backup, "restore", renamed)


@mutant
def no_secure_delete(patch: Patch) -> None:
    """Deletions that leave what they free as it is."""
    from storage.connection import Connection

    every = Connection.all

    def careless(db: Connection, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        return every(db, "PRAGMA secure_delete = OFF" if "secure_delete" in sql else sql, **values)

    patch(Connection, "all", careless)


@mutant
def not_written_anew(patch: Patch) -> None:
    """A file that keeps what earlier programs left in it."""
    from storage import compaction, maintain

    for module in (compaction, maintain):
        patch(module, "write_anew", lambda database: "")


@mutant
def log_not_truncated(patch: Patch) -> None:
    """A write-ahead log that keeps what went through it."""
    from storage import compaction, maintain

    for module in (compaction, maintain):
        patch(module, "fold_log", lambda database, *, wait_ms: True)


@mutant
def copies_not_looked_at(patch: Patch) -> None:
    """Erasures that forget the copies beside the database."""
    from storage import clearing

    patch(clearing, "copies", lambda database: [])


@mutant
def walker_opens_all(patch: Patch) -> None:
    """A walk over a folder that does not know the database's own files."""
    from workers import scan

    patch(scan, "own_files", lambda database: ())


@mutant
def second_engine(patch: Patch) -> None:
    """Python's own SQLite, which looks into every database that is opened."""
    import sqlite3

    from storage import database

    connect = database.connect

    def looked_into(path: Any, **options: Any) -> Any:
        sqlite3.connect(path).close()
        return connect(path, **options)

    patch(database, "connect", looked_into)


@mutant
def deferred_begin(patch: Patch) -> None:
    """Transactions that take the write lock at their first write."""
    from storage import migrations

    immediate = migrations.immediate

    @contextmanager
    def deferred(connection: Any) -> Generator[None]:
        with immediate(_Deferred(connection)):
            yield

    patch(migrations, "immediate", deferred)


class _Deferred:
    """A connection that begins as asked, but deferred."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def script(self, sql: str) -> None:
        self._connection.script(sql.replace("BEGIN IMMEDIATE", "BEGIN"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@mutant
def impatient(patch: Patch) -> None:
    """Connections that do not wait for a lock."""
    from storage import connection

    patch(connection, "BUSY_TIMEOUT_MS", 0)


@mutant
def long_hold_back(patch: Patch) -> None:
    """Writers that leave the lock to others for so long that they come to nothing themselves."""
    import time

    from storage.turns import Turns

    patch(Turns, "_hold_back", lambda self: time.sleep(1.5))


@mutant
def no_checkpoints(patch: Patch) -> None:
    """A log that is never folded into the file."""
    from storage import connection

    patch(connection, "PRAGMAS", f"{connection.PRAGMAS}PRAGMA wal_autocheckpoint = 0;")


@mutant
def no_pauses(patch: Patch) -> None:
    """Writers that go on at full speed though a reader makes the log long."""
    from storage import database

    patch(database.Database, "_pause", lambda self, before: None)


@mutant
def foreign_keys_off(patch: Patch) -> None:
    """A guard that was forgotten."""
    from storage import connection

    patch(connection, "PRAGMAS", connection.PRAGMAS.replace("PRAGMA foreign_keys = ON;", ""))


@mutant
def unsynced_files(patch: Patch) -> None:
    """Files and folders whose writing Python does not wait for."""
    import os

    patch(os, "fsync", lambda descriptor: None)


@mutant
def unsynced_names(patch: Patch) -> None:
    """Renames and deletions that do not wait for the disk."""
    from storage import scratch

    patch(scratch, "sync_folder", lambda folder: None)


@mutant
def deaf_commits(patch: Patch) -> None:
    """Commits that failed and are taken for done."""
    from storage.connection import Connection
    from storage.errors import DatabaseError

    script = Connection.script

    def deaf(self: Connection, sql: str) -> None:
        try:
            script(self, sql)
        except DatabaseError:
            if sql != "COMMIT":
                raise
            if self.raw.in_transaction:
                script(self, "ROLLBACK")

    patch(Connection, "script", deaf)


@mutant
def memory_not_limited(patch: Patch) -> None:
    """Parsers that may take all the memory there is."""
    from workers import parser_child

    patch(parser_child, "_limit_memory", lambda limit_bytes: None)


@mutant
def time_not_limited(patch: Patch) -> None:
    """Parsers that nobody ends."""
    from dataclasses import replace

    from workers import parser

    begin = parser.Parser.__init__

    def patient(self: Any, limits: Any, **more: Any) -> None:
        begin(self, replace(limits, timeout_s=3600), **more)

    patch(parser.Parser, "__init__", patient)


@mutant
def archives_not_checked(patch: Patch) -> None:
    """Archives that are unpacked whatever they are."""
    from pipeline.extract import archive

    patch(archive, "check", lambda opened: None)
    patch(archive, "_check_ratio", lambda entry: None)


@mutant
def unpacked_to_disk(patch: Patch) -> None:
    """Archives whose parts are written where their names say, before anybody has looked at these."""
    from pathlib import Path

    from pipeline.extract import archive

    check = archive.check

    def naive(opened: Any) -> None:
        for entry in opened.infolist():
            Path(entry.filename).parent.mkdir(parents=True, exist_ok=True)
            Path(entry.filename).write_bytes(opened.read(entry))
        check(opened)

    patch(archive, "check", naive)


@mutant
def entities_resolved(patch: Patch) -> None:
    """A parser of Office documents that puts in what the document names."""
    import re

    from lxml import etree

    from pipeline.extract import ooxml

    def parse(content: bytes) -> Any:
        return etree.fromstring(content, etree.XMLParser(resolve_entities=True, load_dtd=True, huge_tree=True))

    begin = ooxml.Parts.__init__
    patch(ooxml, "_DTD", re.compile(rb"(?!)"))
    patch(ooxml.Parts, "__init__", lambda self, parts, **more: begin(self, parts, **(more | {"parse": parse})))


@mutant
def dtd_fetched(patch: Patch) -> None:
    """A reader of XML that asks a host for the document type."""
    import re
    import urllib.request

    from pipeline.extract import xml

    whole = xml.decode

    def curious(data: bytes, **more: Any) -> Any:
        if found := re.search(rb"SYSTEM \"(http://[^\"]+)", data):
            with suppress(OSError):
                urllib.request.urlopen(found[1].decode(), timeout=0.1)
        return whole(data, **more)

    patch(xml, "decode", curious)


@mutant
def reads_twice(patch: Patch) -> None:
    """Parsers that hash a file, and read it once more to parse it."""
    import time
    from dataclasses import replace

    from pipeline import parse

    read_file = parse.read_file

    def twice(path: bytes, max_bytes: int) -> Any:
        first = read_file(path, max_bytes)
        time.sleep(0.2)
        return replace(first, data=read_file(path, max_bytes).data)

    patch(parse, "read_file", twice)


@mutant
def special_files_opened(patch: Patch) -> None:
    """A walk that takes whatever has a name for a file."""
    from pipeline import discover, regular_file

    patch(discover._Rules, "refusal", lambda self, relative, status: "")
    patch(regular_file, "_NO_WAIT", 0)


@mutant
def links_followed(patch: Patch) -> None:
    """A walk that goes where a link leads."""
    import os

    from pipeline import discover, regular_file

    judged = discover._Walk._judged

    def led(self: Any, entry: Any) -> Any:
        try:
            target = discover._Entry(entry.path, os.stat(entry.path))
        except OSError:
            return judged(self, entry)
        return self._file(target, self._relative(entry.path))

    patch(discover._Walk, "_judged", led)
    patch(regular_file, "_NO_LINK", 0)


@mutant
def reads_slowly(patch: Patch) -> None:
    """No fault: small pieces with pauses between them, so that a file has time to change while it is read."""
    import os
    import time
    from types import SimpleNamespace

    from pipeline import regular_file

    def read(descriptor: int, count: int) -> bytes:
        time.sleep(0.001)
        return os.read(descriptor, min(count, 512))

    patch(regular_file, "os", SimpleNamespace(**(vars(os) | {"read": read})))


@mutant
def switch_in_two(patch: Patch) -> None:
    """A switch of models that retires the old one in a transaction of its own."""
    from storage import succession

    set_status = succession._set_status

    def split(db: Any, model_pk: int, status: str) -> None:
        set_status(db, model_pk, status)
        db.script("COMMIT; BEGIN IMMEDIATE")

    patch(succession, "_set_status", split)


@mutant
def switch_unchecked(patch: Patch) -> None:
    """A switch that does not look whether anything lacks a vector."""
    from storage import succession

    patch(succession, "_LACKING", "FALSE")


@mutant
def model_kept(patch: Patch) -> None:
    """Searches that go on with the model they began with."""
    from knowlex.facade import Knowlex

    query_embedder = Knowlex._query_embedder
    first: dict[int, Any] = {}

    def kept(self: Knowlex, *arguments: Any) -> Any:
        return first.setdefault(id(self), query_embedder(self, *arguments))._replace(model_pk=None)

    patch(Knowlex, "_query_embedder", kept)


@mutant
def model_not_fenced(patch: Patch) -> None:
    """Writers that do not ask whether the model is live that made their vectors."""
    from storage import vectors

    patch(vectors, "require_live", lambda db, model_pk: None)
    patch(vectors, "_require_in_use", vectors.get_model)
