"""What keeps a database quick and small: statistics, merged full text, a short change log, no slack, a short log.

`maintain` does all of it, on demand. `maintain_idle` does what is due, a little at a time and in short
transactions, so that a worker can call it whenever it has nothing else to do; the tasks and their
times are kept in the database, so that several processes share them: when each ended last and, in a
row "TASK begun", when whoever is at it took it in hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from storage import changes, clearing, erasures, growth, scratch, succession, text_index, uploads, usage
from storage.compaction import ANALYSED_ROWS, analyse, fold_log, write_anew
from storage.connection import Connection
from storage.database import Database
from storage.errors import DatabaseError
from storage.ids import now_text
from storage.paths import own_files, size_of

LOG_KEPT = 10_000
"""Entries of the change log that stay; a mirror older than that is read anew."""

MERGE_PAGES = 500
"""Pages of full text that one step merges: some 50 ms under the write lock."""

MERGE_STEPS = 20
"""Steps of a merge while idle; what is left waits for the next time."""

DROPPED = 1_000
"""Vectors of former models that one step removes."""

DROP_STEPS = 20
"""Steps of it while idle; what is left waits for the next time."""

FREED_PAGES = 2_000
"""Free pages that one step gives back."""

SLACK = 0.25
"""Share of the file, free or unused within pages, above which it is written anew, if that would give so much back."""

WAIT_MS = 200
"""How long readers of the log are waited for."""

BEGUN_FOR = timedelta(minutes=30)
"""How long a task counts as in hand once it was begun. Two processes at one that takes longer cost time alone."""

LOG_BYTES = 4 * 2**20
"""Size above which the write-ahead log is folded into the file at once when idle."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task that was done: how long it took, and what came of it."""

    name: str
    took_ms: float
    detail: str


@dataclass(frozen=True, slots=True)
class Maintained:
    """The tasks that were done, in their order, and the size of the database and its log before and after.

    clean: whether what earlier erasures left is cleared.
    """

    tasks: tuple[Task, ...]
    bytes_before: int
    bytes_after: int
    clean: bool


Work = Callable[[Database], str]


def maintain(database: Database, *, vacuum: bool = False) -> Maintained:
    """Do all of it now. vacuum: write the file anew also where that saves little.

    Each task takes the write lock for itself; writing the file anew holds it for as long as that takes.
    An erasure that could not be finished is taken up again, and its task says what is still in the way.
    Raises LockedError, DiskFullError, DatabaseError.
    """
    before = _bytes(database)
    tasks = [
        ("sweep", _sweep),
        ("change log", _prune),
        ("old vectors", partial(_drop_vectors, steps=None)),
        ("full text", _merge_all),
        ("space", _write_anew if vacuum else _give_back_or_write_anew),
        ("statistics", analyse),
        ("growth", _sample),
        ("log", _fold),
    ]
    with database.read() as db:
        due = erasures.notes(db)
    if due:
        tasks.insert(0, (erasures.TASK, partial(_clear, due=due)))  # it may free the space that the others need
    done = tuple(_timed(database, name, work) for name, work in tasks)
    with database.read() as db:
        clean = not set(due) & set(erasures.notes(db))
    return Maintained(done, before, _bytes(database), clean)


def maintain_idle(database: Database) -> list[Task]:
    """Do what is due, in short steps, and return it. For processes that have nothing else to do.

    Each task is done by one process, however many ask at once. Raises what `maintain` does; a task that was not done
    is due again at once, or within half an hour where the process was killed or could not write any more.
    """
    with database.read() as db:
        due = [name for name in IDLE if _due(db, name)]
    done = [_do(database, name, begun) for name in due if (begun := _begin(database, name))]
    if size_of(own_files(database.path)[1]) > LOG_BYTES:
        done += _fold_now(database)
    return done


_BEGUN = " begun"
_LEAST = "least slack"
"""The row that tells which share of the file held nothing when that was written anew, or less since."""


def last(db: Connection) -> dict[str, str]:
    """Return when each task ended last (UTC text)."""
    rows = db.all(
        "SELECT task, ended_at FROM maintenance WHERE task NOT IN (:due, :left, :least) ORDER BY task",
        due=erasures.TASK,
        left=erasures.LEFT,
        least=_LEAST,
    )
    return {task: ended_at for task, ended_at in rows if not task.endswith(_BEGUN)}


def _due(db: Connection, task: str) -> bool:
    _, every = IDLE[task]
    return not _within(db, task, every) and not _within(db, task + _BEGUN, BEGUN_FOR)


def _within(db: Connection, row: str, span: timedelta) -> bool:
    """Tell whether the time in a row is about now; one far ahead is of a clock that was wrong."""
    at = db.value("SELECT ended_at FROM maintenance WHERE task = :row", row=row)
    return at is not None and abs(datetime.now(UTC) - datetime.fromisoformat(at)) < span


def _begin(database: Database, task: str) -> str | None:
    """Note that a task is in hand, and return the note; None where another process has it in hand or has done it."""
    with database.write() as db:
        return _note(db, task + _BEGUN, now_text()) if _due(db, task) else None


def _do(database: Database, task: str, begun: str) -> Task:
    work, _ = IDLE[task]
    try:
        return _timed(database, task, work)
    except BaseException:
        with suppress(DatabaseError):  # that of the task is told; the note counts for a while only
            _give_back_task(database, task, begun)
        raise


def _give_back_task(database: Database, task: str, begun: str) -> None:
    """Let a task be begun again, unless another process has it in hand by now."""
    with database.write() as db:
        db.run("DELETE FROM maintenance WHERE task = :row AND ended_at = :begun", row=task + _BEGUN, begun=begun)


def _timed(database: Database, name: str, work: Work) -> Task:
    started = time.monotonic()
    detail = work(database)
    # What is written after the log was cut would only lengthen it again; erasing keeps its own notes.
    if name not in ("log", erasures.TASK):
        with database.write() as db:
            _note(db, name, now_text())
            db.run("DELETE FROM maintenance WHERE task = :row", row=name + _BEGUN)
    return Task(name, (time.monotonic() - started) * 1000, detail)


def _note(db: Connection, row: str, value: str) -> str:
    """Keep and return a value: a time, but for the least slack."""
    db.run(
        "INSERT INTO maintenance (task, ended_at) VALUES (:row, :value)"
        " ON CONFLICT (task) DO UPDATE SET ended_at = excluded.ended_at",
        row=row,
        value=value,
    )
    return value


def _sweep(database: Database) -> str:
    """Remove what killed processes left beside the database, and uploads that no file has."""
    left = scratch.sweep(database.path)
    return f"{left} leftovers of killed processes and {uploads.sweep(database)} uploads of no file removed"


def _clear(database: Database, due: list[str]) -> str:
    """Clear what earlier erasures left; name every copy that went, and what is in the way."""
    places = clearing.clear(database, due)
    left = [f"{place.place}: {place.done}" for place in places if place.left is None]
    gone = [place.place for place in places if place.done == clearing.REMOVED]
    told = f"not finished: {'; '.join(left)}" if left else "what was erased earlier is cleared"
    return f"{told}; removed: {', '.join(gone)}" if gone else told


def _prune(database: Database) -> str:
    with database.write() as db:
        gone = changes.prune(db, keep=LOG_KEPT)
        usage.prune(db)
    return f"{gone} entries dropped"


def _sample(database: Database) -> str:
    with database.write() as db:
        growth.sample(db)
    return "today's size noted"


def _drop_vectors(database: Database, steps: int | None) -> str:
    """Remove the vectors of models that were replaced, a step a transaction."""
    removed = taken = 0
    while steps is None or taken < steps:
        with database.read() as db:
            if not succession.is_left(db):
                break
        with database.write() as db:
            removed += succession.drop(db, DROPPED)
        taken += 1
    return f"vectors of replaced models removed: {removed}"


def _merge_all(database: Database) -> str:
    return f"{_merge(database, steps=None)} steps"


def _merge_some(database: Database) -> str:
    return f"{_merge(database, steps=MERGE_STEPS)} steps"


def _merge(database: Database, steps: int | None) -> int:
    """Merge the full text into one segment, as 'optimize' does, but a step a transaction; return the steps taken."""
    taken = 0
    for source in text_index.TABLES:
        first = steps is None
        while steps is None or taken < steps:
            with database.write() as db:
                changed = text_index.merge(db, source, MERGE_PAGES, begin=first)
            first = False
            taken += 1
            if not changed:
                break
    return taken


def _optimise(database: Database) -> str:
    with database.unwrapped() as db:
        db.script(f"PRAGMA analysis_limit = {ANALYSED_ROWS}; PRAGMA optimize")
    return "indexes that changed counted"


def _give_back_or_write_anew(database: Database) -> str:
    with database.read() as db:
        slack, least = _slack(db), _least_slack(db)
    # Some of it no rewriting gives back: of a page that one wide vector half fills, the other half stays unused.
    if slack - least > SLACK * (1 - least):
        return _write_anew(database)
    if slack < least:
        _note_slack(database, slack)
    return _give_back(database)


def _write_anew(database: Database) -> str:
    done = write_anew(database)
    with database.read() as db:
        slack = _slack(db)
    _note_slack(database, slack)
    return done


def _note_slack(database: Database, slack: float) -> None:
    with database.write() as db:
        _note(db, _LEAST, f"{slack:.4f}")


def _least_slack(db: Connection) -> float:
    return db.value("SELECT CAST(ended_at AS REAL) FROM maintenance WHERE task = :row", row=_LEAST) or 0.0


def _slack(db: Connection) -> float:
    """Return which share of the file holds nothing: free pages, and what is unused in the others."""
    pages, free, size = (db.value(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size"))
    unused = db.value("SELECT coalesce(sum(unused), 0) FROM dbstat WHERE aggregate = TRUE")
    return (free * size + unused) / max(1, pages * size)


def _give_back(database: Database) -> str:
    """Give free pages back to the disk, some at a time; a file made before this was possible keeps them."""
    given = 0
    while True:
        with database.write() as db:
            before = db.value("PRAGMA freelist_count")
            db.all(f"PRAGMA incremental_vacuum({FREED_PAGES})")
            gone = before - db.value("PRAGMA freelist_count")
        given += gone
        if gone < FREED_PAGES:
            return f"{given} free pages given back"


def _fold_now(database: Database) -> list[Task]:
    """Fold the log if nobody needs it at this moment; what cannot be done is no task, as it comes up at every turn."""
    started = time.monotonic()
    if not fold_log(database, wait_ms=0):
        return []
    return [Task("log", (time.monotonic() - started) * 1000, "folded into the file")]


def _fold(database: Database) -> str:
    """Fold the write-ahead log into the file and cut it to nothing, without keeping anybody waiting."""
    done = fold_log(database, wait_ms=WAIT_MS)
    return "folded into the file" if done else "in use by a reader; folded when it has ended"


def _bytes(database: Database) -> int:
    return sum(map(size_of, own_files(database.path)[:2]))


IDLE: dict[str, tuple[Work, timedelta]] = {
    "sweep": (_sweep, timedelta(hours=1)),
    "change log": (_prune, timedelta(hours=1)),
    "old vectors": (partial(_drop_vectors, steps=DROP_STEPS), timedelta(minutes=5)),
    "full text": (_merge_some, timedelta(hours=1)),
    "space": (_give_back, timedelta(hours=1)),
    "statistics": (_optimise, timedelta(hours=6)),
    "growth": (_sample, timedelta(hours=6)),
}
"""What is done while idle, and how long it then is not due again."""
