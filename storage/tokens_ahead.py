"""What is indexed of many messages, made before the transaction that indexes them anew.

To tokenise takes longer than all the rest, and everybody else waits for as long as the transaction lasts. What is made
waits in memory, and once it is much in a nameless file beside the database that only its owner could read. Each
message's stands with a hash of the content it was made of: that may be another one by the time of the transaction.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage import scratch
from storage.connection import Connection
from storage.content import kept_parts, text_of
from storage.passage_tokens import Tokens, tokens_of
from storage.vectors import integers

if TYPE_CHECKING:
    from storage.database import Database

PAGE = 100
"""Messages that are read, and indexed anew, at a time: each may hold a long text."""

SPOOLED_BYTES = 2**24
"""Tokens that wait in memory; of more, all are in a file."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What was made of one message. digest: of its content."""

    pk: int
    digest: str
    body: str
    repeats: str


class TokensAhead:
    """Tokens of messages, given out in the order of their keys."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._entries = (_Entry(*json.loads(line)) for line in lines)
        self._next = next(self._entries, None)

    def of(self, pk: int, content: str) -> Tokens | None:
        """Return what was made of this content of a message, or None; the next call is for a message with a higher key.

        content: as it is kept.
        """
        while self._next is not None and self._next.pk < pk:
            self._next = next(self._entries, None)
        entry = self._next
        if entry is None or entry.pk != pk or entry.digest != _digest(content):
            return None
        return Tokens("", entry.body, entry.repeats)


@contextmanager
def made(database: Database, pks: Collection[int]) -> Generator[TokensAhead]:
    """Give what is indexed of messages, read a page a transaction so that no log has to be kept for it.

    Raises CorruptDatabaseError for content that is none, DiskFullError, DatabaseError.
    """
    folder = database.path.parent
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES, dir=str(folder)) as file:
        for page in pages(pks):
            with database.read() as db:
                rows = contents(db, page)
            with scratch.writing(folder):
                file.writelines(lines(rows))
        with scratch.writing(folder):
            file.seek(0)
        yield TokensAhead(file)


def pages(pks: Collection[int]) -> list[list[int]]:
    """Return the keys of messages in their order, by pages."""
    ordered = sorted(pks)
    return [ordered[start : start + PAGE] for start in range(0, len(ordered), PAGE)]


def contents(db: Connection, pks: Sequence[int]) -> list[tuple[int, str, str]]:
    """Return (pk, id, content as it is kept) of those of these messages that are there, in the order of their keys."""
    rows = db.all(
        "SELECT pk, id, content FROM messages WHERE pk IN (SELECT value FROM carray(:pks)) ORDER BY pk",
        pks=integers(pks),
    )
    return [(pk, id, content) for pk, id, content in rows]


def text(id: str, content: str) -> str:
    """Return what the kept content of a message says; raises CorruptDatabaseError where it is none."""
    return text_of(kept_parts(content, f"message {id}"))


def lines(rows: Iterable[tuple[int, str, str]]) -> Iterator[bytes]:
    """Yield what is indexed of messages, given as `contents` does, as `TokensAhead` reads it."""
    for pk, id, content in rows:
        if (said := text(id, content)).strip():
            tokens = tokens_of(said)
            yield json.dumps([pk, _digest(content), tokens.body, tokens.repeats]).encode() + b"\n"


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
