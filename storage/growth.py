"""How large the database was at the end of each day, and so how fast it grows.

One row a day (UTC) on which somebody looked: `maintain`, a worker that is idle, a run of `ingest` that
changed something. The last look of a day counts; a day is some hundred bytes, so that all stay. Days
after today, noted while a clock was ahead, are passed over until they come; it may be today's that is wrong.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from datetime import date, timedelta

from storage import paging
from storage.connection import Connection
from storage.errors import UsageError
from storage.paging import Page
from storage.usage import LAST_DAY, today

_COLUMNS = "day, bytes, files, chunks, memories, conversations, messages, vectors"


@dataclass(frozen=True, slots=True)
class Sample:
    """What there was on one day (UTC). bytes: of the database file, without its log."""

    day: str
    bytes: int
    files: int
    chunks: int
    memories: int
    conversations: int
    messages: int
    vectors: int


@dataclass(frozen=True, slots=True)
class Growth:
    """What was added from the end of the day `since` to the end of `until`; below zero where it shrank."""

    since: str
    until: str
    bytes: int
    files: int
    chunks: int
    memories: int
    conversations: int
    messages: int
    vectors: int

    @property
    def days(self) -> int:
        """How many days that was."""
        return (date.fromisoformat(self.until) - date.fromisoformat(self.since)).days


def measure(db: Connection) -> Sample:
    """Return what there is now. Counts every row, by the smallest index: some 10 ms for 100,000 chunks.

    Vectors are those of the live model: another one's are there only while it is built or removed.
    """
    row = db.one(
        "SELECT (SELECT page_count * page_size FROM pragma_page_count, pragma_page_size),"
        " (SELECT count(*) FROM project_files), (SELECT count(*) FROM file_chunks),"
        " (SELECT count(*) FROM project_memories), (SELECT count(*) FROM conversations),"
        " (SELECT count(*) FROM messages), (SELECT count(*) FROM vector_bits v"
        " JOIN embedding_models m ON m.pk = v.model AND m.status = 'live')"
    )
    return Sample(today(), *(row or ()))


def keep(db: Connection, sample: Sample) -> None:
    """Keep a sample; it takes the place of an earlier one of the same day."""
    db.run(
        f"INSERT INTO growth_samples ({_COLUMNS})"
        " VALUES (:day, :bytes, :files, :chunks, :memories, :conversations, :messages, :vectors)"
        " ON CONFLICT (day) DO UPDATE SET bytes = excluded.bytes, files = excluded.files, chunks = excluded.chunks,"
        " memories = excluded.memories, conversations = excluded.conversations, messages = excluded.messages,"
        " vectors = excluded.vectors",
        **dict(zip(_COLUMNS.split(", "), astuple(sample), strict=True)),
    )


def sample(db: Connection) -> None:
    """Measure and keep today's sample, in one transaction."""
    keep(db, measure(db))


def samples(db: Connection, *, limit: int = 100, after: str | None = None) -> Page[Sample]:
    """Return the samples, the latest first.

    limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    day, _ = paging.start(after, (LAST_DAY, 0), "growth")
    rows = db.all(
        f"SELECT {_COLUMNS} FROM growth_samples WHERE day < :day AND day <= :today ORDER BY day DESC LIMIT :limit",
        day=day,
        today=today(),
        limit=paging.probe(limit),
    )
    return paging.cut(rows, limit, lambda row: Sample(*row), lambda item: (item.day, 0), "growth")


def over(db: Connection, days: int) -> Growth | None:
    """Return how much was added over the `days` days up to the latest sample; None with fewer than two samples.

    Where no sample is so old, from the first there is; where none was taken on that very day, from the
    last one before it: `since` says which. Raises UsageError for less than a day.
    """
    if days < 1:
        raise UsageError(f"days {days}: is too few; give at least 1")
    latest = _last_until(db, today())
    if latest is None:
        return None
    begin = date.fromisoformat(latest.day) - timedelta(days=min(days, 100 * 366))
    base = _last_until(db, begin.isoformat()) or _first(db)
    return None if base is None or base.day == latest.day else _between(base, latest)


def _between(base: Sample, latest: Sample) -> Growth:
    (since, *before), (until, *now) = astuple(base), astuple(latest)
    return Growth(since, until, *(b - a for a, b in zip(before, now, strict=True)))


def _last_until(db: Connection, day: str) -> Sample | None:
    row = db.one(f"SELECT {_COLUMNS} FROM growth_samples WHERE day <= :day ORDER BY day DESC LIMIT 1", day=day)
    return None if row is None else Sample(*row)


def _first(db: Connection) -> Sample | None:
    row = db.one(f"SELECT {_COLUMNS} FROM growth_samples ORDER BY day LIMIT 1")
    return None if row is None else Sample(*row)
