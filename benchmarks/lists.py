"""Print how long a page of each list takes in a large database.

    python -m benchmarks.lists [PROJECTS]

1,000 projects (or PROJECTS) have on average 10 conversations of 20 messages, 10 memories, 10 files and 50
chunks; besides, 2,000 settings and 1,000 slow searches. A page is taken from the middle of its list and
has up to 100 items. The reference reads as many rows by their keys in the same database. `small`: an item
of the same list in a database of a hundredth of the projects; what an index serves takes as long there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from storage import chunks, conversations, files, memories, messages, projects, runs, settings, slow_queries
from storage.connection import Connection
from storage.database import Database
from storage.paging import Page
from storage.runs import Ending, Figures, Kind, Run

ROUNDS = 15
CONVERSATIONS, MESSAGES, MEMORIES, FILES, CHUNKS = 10, 20, 10, 10, 50
TALK = 5
"""The conversation that is longer than the others."""

Read = Callable[[str | None], Page[Any]]


def at(number: int) -> str:
    """Return a time that grows with the number."""
    return f"2026-01-01T00:{number // 60_000 % 60:02}:{number // 1000 % 60:02}.{number % 1000:03}Z"


def fill(db: Connection, count: int) -> None:
    """Fill the tables that are listed; the lists read no index of text or vectors."""
    insert(db, "projects", _projects(count))
    insert(db, "conversations", _conversations(count))
    insert(db, "messages", _messages(count * CONVERSATIONS))
    insert(db, "project_memories", _memories(count))
    insert(db, "project_files", _files(count))
    insert(db, "file_chunks", _chunks(count))
    insert(db, "app_settings", ({"key": f"key {n:05}", "value": "1", **_times(n)} for n in range(2 * count)))
    insert(
        db,
        "slow_queries",
        ({"kind": "text", "project": 1 + n % count, "took_ms": 250.0, "created_at": at(n)} for n in range(count)),
    )
    for n in range(count):
        runs.keep(
            db, Run(f"run {n}", 1 + n % count, Kind.INGEST, Ending.DONE, None, at(n), at(n), 1.0, Figures(ready=n))
        )


def insert(db: Connection, table: str, rows: Iterator[dict[str, Any]]) -> None:
    """Put rows into a table, of which there is at least one."""
    first = next(rows)
    sql = f"INSERT INTO {table} ({', '.join(first)}) VALUES ({', '.join(f':{name}' for name in first)})"
    db.run(sql, **first)
    db.many(sql, rows)


def _times(number: int) -> dict[str, str]:
    return {"created_at": at(number), "updated_at": at(number)}


def _projects(count: int) -> Iterator[dict[str, Any]]:
    return ({"pk": n, "id": f"project {n}", "name": f"name {n}", **_times(n)} for n in range(1, count + 1))


def _conversations(count: int) -> Iterator[dict[str, Any]]:
    for n in range(1, count * CONVERSATIONS + 1):
        yield {"pk": n, "id": f"conversation {n}", "project_id": 1 + n % count, "title": f"talk {n}", **_times(n)}


def _messages(count: int) -> Iterator[dict[str, Any]]:
    content = json.dumps([{"type": "text", "text": "What is worth saying is said in a sentence or two. " * 3}])
    for n in range(1, count * MESSAGES + 1):
        place = {"pk": n, "id": f"message {n}", "conversation_id": TALK if n % 50 == 0 else 1 + n % count}
        yield {**place, "role": ("user", "assistant")[n % 2], "content": content, **_times(n)}


def _memories(count: int) -> Iterator[dict[str, Any]]:
    for n in range(1, count * MEMORIES + 1):
        kind = {"type": ("memory", "note", "insight")[n % 3], "importance": 1 + n % 10, "tags": f'["tag {n % 4}"]'}
        # One project has as many as ten others, so that its list has many pages.
        project = 1 if n <= count * MEMORIES // 10 else 1 + n % count
        yield {"id": f"memory {n}", "project_id": project, "title": "t", "content": "c", **kind, **_times(n)}


def _files(count: int) -> Iterator[dict[str, Any]]:
    for n in range(1, count * FILES + 1):
        project = 1 if n <= count * FILES // 10 else 1 + n % count
        path = f"/docs/{n}.md"
        status = {"status": ("ready", "failed")[n % 10 == 0], "error_message": "empty" if n % 10 == 0 else None}
        place = {"project_id": project, "filename": path[6:], "path": path, "path_bytes": path.encode()}
        yield {"pk": n, "id": f"file {n}", **place, "size": n, "content_hash": f"{n:064}", **status, **_times(n)}


def _chunks(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count * CHUNKS):
        file = 1 + n // CHUNKS // 10 if n < count * CHUNKS // 2 else count + n // CHUNKS
        place = {"project_id": 1, "file_id": file, "chunk_index": n}
        span = {"char_start": n, "char_end": n + 1, "token_count": 1}
        yield {"id": f"chunk {n}", **place, "content": "text", "content_hash": b"", **span, "created_at": at(n)}


def lists(db: Connection) -> dict[str, Read]:
    """Return every list, as what reads its page behind a cursor."""
    talk = f"conversation {TALK}"
    return {
        "projects with figures": lambda after: projects.listed(db, after=after),
        "conversations": lambda after: conversations.listed(db, after=after),
        "conversations of a project": lambda after: conversations.listed(db, project_pk=2, after=after),
        "conversations with last words": lambda after: conversations.summaries(db, after=after),
        "messages": lambda after: messages.listed(db, talk, after=after),
        "files": lambda after: files.listed(db, 1, after=after),
        "failed files": lambda after: files.listed(db, 1, status=files.Status.FAILED, after=after),
        "chunks of a file": lambda after: chunks.listed(db, 1, after=after),
        "memories": lambda after: memories.listed(db, 1, after=after),
        "memories of a type": lambda after: memories.listed(db, 1, type="note", after=after),
        "memories by importance": lambda after: memories.listed(db, 1, order="importance", after=after),
        "memories with a tag": lambda after: memories.listed(db, 1, tag="tag 1", after=after),
        "settings": lambda after: settings.listed(db, after=after),
        "slow searches": lambda after: slow_queries.listed(db, after=after),
        "runs": lambda after: runs.listed(db, after=after),
        "runs of a project": lambda after: runs.listed(db, 1, after=after),
    }


def middle(read: Read) -> str | None:
    """Return the cursor of the middle page of a list."""
    cursors: list[str | None] = [None]
    while (following := read(cursors[-1]).next) is not None:
        cursors.append(following)
    return cursors[len(cursors) // 2]


def took_ms(work: Callable[[], object]) -> float:
    """Return the median time of a call."""
    times: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return median(times)


def by_keys(db: Connection) -> list[tuple[Any, ...]]:
    """Read 100 rows one after the other: what a page is compared with."""
    return db.all("SELECT pk, id, title, settings, created_at, updated_at FROM conversations WHERE pk > 50 LIMIT 100")


def measure(folder: Path, count: int) -> tuple[dict[str, tuple[float, int]], float, float]:
    """Return time and items of a page of each list, and the time of the reference and of all projects."""
    with Database.open(folder / f"{count}.db") as database:
        with database.write() as db:
            fill(db, count)
        with database.read() as db:
            pages: dict[str, tuple[float, int]] = {}
            for name, read in lists(db).items():
                after = middle(read)
                pages[name] = took_ms(lambda read=read, after=after: read(after)), len(read(after).items)
            every = took_ms(lambda: projects.listed(db, limit=1000))
            return pages, took_ms(lambda: by_keys(db)), every


def main() -> None:
    """Measure a large database beside a small one and print a line a list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", type=int, nargs="?", default=1000, metavar="PROJECTS")
    count = parser.parse_args().projects
    with tempfile.TemporaryDirectory(prefix="knowlex-lists-") as folder:
        large, reference, every = measure(Path(folder), count)
        small, _, _ = measure(Path(folder), max(10, count // 100))
    print(f"{count:,} projects, {count * CONVERSATIONS:,} conversations, {count * CONVERSATIONS * MESSAGES:,} messages")
    print(f"{'a page of':32} {'items':>6} {'ms':>8} {'× reference':>12} {'× small':>8}")
    for name, (ms, items) in large.items():
        small_ms, small_items = small[name]
        growth = (ms / items) / (small_ms / small_items)
        print(f"{name:32} {items:6} {ms:8.3f} {ms / items / (reference / 100):12.1f} {growth:8.1f}")
    print(f"{'all projects with figures':32} {count:6} {every:8.3f} {every / count / (reference / 100):12.1f}")
    print(f"{'reference: rows by key':32} {100:6} {reference:8.3f}")


if __name__ == "__main__":
    main()
