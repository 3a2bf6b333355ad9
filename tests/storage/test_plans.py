"""Every list and every count is served by an index: the plans of the statements as they are run.

The SQL is taken from the connection while the functions run, so that the test cannot drift from it.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import apsw
import numpy as np
import pytest

from benchmarks.lists import TALK, fill
from storage import (
    chunks,
    conversations,
    files,
    growth,
    memories,
    messages,
    pending,
    projects,
    queue,
    runs,
    settings,
    slow_queries,
    statistics,
    succession,
    tokens,
    uploads,
    usage,
    vectors,
)
from storage.connection import Connection
from storage.database import Database
from storage.files import Status
from storage.migrations import savepoint
from storage.runs import Run
from storage.sources import NO_PROJECT, Source
from storage.succession import FIRST, Key
from storage.vectors import Vector

Call = Callable[[Connection], object]

MODULES = (
    projects,
    conversations,
    messages,
    files,
    chunks,
    memories,
    settings,
    slow_queries,
    usage,
    growth,
    runs,
    statistics,
)

CASES: dict[str, Call] = {
    "projects.listed": lambda db: projects.listed(db),
    "projects.summary": lambda db: projects.summary(db, projects.get(db, "project 3")),
    "projects.find": lambda db: projects.find(db, "name 3"),
    "projects.by_name": lambda db: projects.by_name(db, "name 3"),
    "conversations.listed": lambda db: conversations.listed(db),
    "conversations.listed of a project": lambda db: conversations.listed(db, project_pk=3),
    "conversations.listed of none": lambda db: conversations.listed(db, project_pk=NO_PROJECT),
    "conversations.made": lambda db: list(conversations.made(db)),
    "conversations.made in a project": lambda db: list(conversations.made(db, project_pk=3)),
    "conversations.made in none": lambda db: list(conversations.made(db, project_pk=NO_PROJECT)),
    "conversations.summaries": lambda db: conversations.summaries(db),
    "conversations.summaries of a project": lambda db: conversations.summaries(db, project_pk=3),
    "conversations.summaries of none": lambda db: conversations.summaries(db, project_pk=NO_PROJECT),
    "messages.listed": lambda db: messages.listed(db, f"conversation {TALK}"),
    "messages.every": lambda db: messages.every(db, f"conversation {TALK}"),
    "messages.listed, the newest first": lambda db: messages.listed(db, f"conversation {TALK}", order="newest"),
    "messages.thread": lambda db: messages.thread(db, "message 3"),
    "messages.answers": lambda db: messages.answers(db, "message 3"),
    "messages.neighbours": lambda db: messages.neighbours(db, [1, 3, 5]),
    "messages.pks_of_conversation": lambda db: messages.pks_of_conversation(db, TALK),
    "messages.delete": lambda db: messages.delete(db, "message 3"),
    "files.listed": lambda db: files.listed(db, 1),
    "files.listed by status": lambda db: files.listed(db, 1, status=Status.FAILED),
    "files.every": lambda db: list(files.every(db, 1)),
    "files.known": lambda db: files.known(db, 1),
    "files.counts": lambda db: files.counts(db),
    "files.counts of a project": lambda db: files.counts(db, 1),
    "files.by_path": lambda db: files.by_path(db, 1, b"/docs/3.md"),
    "files.names_of": lambda db: files.names_of(db, [1, 2]),
    "files.unfinished_of": lambda db: files.unfinished_of(db, 1, [1, 2]),
    "files.retry_failed": lambda db: files.retry_failed(db, 2, files.Versions("v", frozenset())),
    "files.delete": lambda db: files.delete(db, files.get(db, 11)),
    "chunks.listed": lambda db: chunks.listed(db, 1),
    "chunks.of_file": lambda db: chunks.of_file(db, 1),
    "chunks.count": lambda db: chunks.count(db),
    "chunks.count of a project": lambda db: chunks.count(db, 1),
    "memories.listed": lambda db: memories.listed(db, 1),
    "memories.listed by type": lambda db: memories.listed(db, 1, type="note"),
    "memories.listed by tag": lambda db: memories.listed(db, 1, tag="tag 1"),
    "memories.listed from an importance on": lambda db: memories.listed(db, 1, min_importance=7),
    "memories.listed, the most important first": lambda db: memories.listed(db, 1, order="importance"),
    "memories.listed, all at once": lambda db: memories.listed(
        db, 1, type="note", tag="tag 1", min_importance=7, order="importance"
    ),
    "memories.matching": lambda db: memories.matching(db, 1, type="note", tag="tag 1", min_importance=7),
    "settings.all": lambda db: settings.all(db),
    "settings.all of a prefix": lambda db: settings.all(db, "key 001"),
    "settings.listed": lambda db: settings.listed(db),
    "settings.listed of a prefix": lambda db: settings.listed(db, "key 001"),
    "slow_queries.listed": lambda db: slow_queries.listed(db),
    "usage.by_day": lambda db: usage.by_day(db),
    "usage.by_day of a project": lambda db: usage.by_day(db, 1),
    "usage.by_project": lambda db: usage.by_project(db),
    "growth.samples": lambda db: growth.samples(db),
    "growth.over": lambda db: growth.over(db, 7),
    "runs.listed": lambda db: runs.listed(db),
    "runs.listed of a project": lambda db: runs.listed(db, 1),
    "runs.summary of a project": lambda db: runs.summary(db, 1),
    "runs.keep": lambda db: runs.keep(db, RUN),
    "slow_queries.recent": lambda db: slow_queries.recent(db),
    "pending.take": lambda db: pending.take(db, 10),
    "pending.take of a project": lambda db: pending.take(db, 10, project_pk=1),
    "queue.claim": lambda db: queue.claim(db, "me", limit=3, now_ms=10**13),
    "queue.claim of a project": lambda db: queue.claim(db, "me", limit=3, now_ms=10**13, project_pk=1),
    "queue.due": lambda db: queue.due(db, now_ms=1, at_most=9),
    "queue.due of a project": lambda db: queue.due(db, 1, now_ms=1, at_most=9),
    "queue.unfinished": lambda db: queue.unfinished(db),
    "queue.unfinished of a project": lambda db: queue.unfinished(db, 1),
    "queue.extend": lambda db: queue.extend(db, "me", now_ms=1),
    "queue.reclaim": lambda db: queue.reclaim(db, now_ms=1, is_dead=lambda owner: False),
    "queue.lost": lambda db: queue.lost(db, now_ms=1, is_dead=lambda owner: False),
    "statistics.of": lambda db: statistics.of(db),
    "statistics.of a project": lambda db: statistics.of(db, 1),
    "statistics.holdings": lambda db: statistics.holdings(db, 1),
    "statistics.largest": lambda db: statistics.largest(db),
    "statistics.tables": lambda db: statistics.tables(db),
    "files.count_cut": lambda db: files.count_cut(db),
    "succession.begin": lambda db: succession.begin(db, vectors.get_model(db, BUILT)),
    "succession.building": lambda db: succession.building(db),
    "succession.count": lambda db: succession.count(db),
    "succession.count of a model": lambda db: succession.count(db, BUILT),
    "succession.newest": lambda db: succession.newest(db),
    "succession.page": lambda db: succession.page(db, BUILT, Key(1, "file", 3), 200, succession.newest(db)),
    "succession.lacking": lambda db: succession.lacking(db, BUILT, FIRST, 200),
    "succession.count_lacking": lambda db: succession.count_lacking(db, BUILT),
    "succession.name_of": lambda db: [succession.name_of(db, Key(1, source, 3)) for source in Source],
    "succession.files_of": lambda db: succession.files_of(db, [1, 2]),
    "succession.keep": lambda db: build(db),
    "succession.switch": lambda db: (build(db), succession.switch(db, BUILT, [1, 2])),
    "succession.drop": lambda db: drop(db),
    "tokens.find": lambda db: tokens.find(db, tokens.create(db, [projects.by_pk(db, 1)], write=True).token),
    "uploads.of_project": lambda db: uploads.of_project(db, 1),
    "uploads.without_bytes": lambda db: uploads.without_bytes(db),
    "vectors.live_model": lambda db: vectors.live_model(db),
    "vectors.known": lambda db: vectors.known(db, LIVE, [vectors.input_hash("1")]),
    "vectors.put": lambda db: vectors.put(db, LIVE, 1, Source.FILE, rows([1, 2])),
    "vectors.delete": lambda db: vectors.delete(db, 1, Source.FILE, [1, 2]),
    "vectors.delete_project": lambda db: vectors.delete_project(db, 1),
    "vectors.search": lambda db: search(db, project_pk=1),
    "vectors.search of all projects": lambda db: search(db, project_pk=None),
}

LIVE, BUILT = 1, 2
"""The models that `embed` enters."""
NUMBERS = np.eye(8, dtype=np.float32)


def embed(db: Connection) -> None:
    """Give passages of a project vectors of a live model, and half of them one of another that is built."""
    live = vectors.ensure_model(
        db, name="m", hash="h", dim=8, pooling="mean", query_prompt="", document_prompt="", precision="fp32"
    )
    built = succession.begin(db, replace(live, hash="next"))
    assert (live.pk, built.pk) == (LIVE, BUILT)
    for source, sql in {
        Source.FILE: "SELECT pk FROM file_chunks WHERE project_id = 1",
        Source.MEMORY: "SELECT pk FROM project_memories WHERE project_id = 1",
        Source.MESSAGE: "SELECT m.pk FROM conversations c JOIN messages m ON m.conversation_id = c.pk"
        " WHERE c.project_id = 1",
    }.items():
        pks = [pk for (pk,) in db.all(sql)]
        assert len(pks) > 20
        vectors.put(db, LIVE, 1, source, rows(pks))
        vectors.put(db, BUILT, 1, source, rows(pks[:-10]))


def rows(pks: list[int]) -> list[tuple[int, bytes, Vector]]:
    return [(pk, vectors.input_hash(str(pk)), vectors.encode(NUMBERS[[pk % 8]])[0]) for pk in pks]


def build(db: Connection) -> None:
    """Give all that lacks one a vector of the model that is built."""
    lacking = succession.lacking(db, BUILT, FIRST, 200).passages
    succession.keep(db, BUILT, [(passage, *rows([passage.key.pk])[0][1:]) for passage in lacking])


def drop(db: Connection) -> None:
    """Give the model up that is built, and remove its vectors, and one that nothing uses."""
    succession.begin(db, vectors.get_model(db, LIVE), discard=True)
    db.run("INSERT INTO embeddings (model_id, input_hash, vector) VALUES (:model, x'00', x'00')", model=BUILT)
    while succession.is_left(db):
        succession.drop(db, 1000)


def search(db: Connection, *, project_pk: int | None) -> None:
    model = vectors.live_model(db)
    assert model is not None
    vectors.search(db, model, NUMBERS[0], project_pk=project_pk, source=Source.FILE, limit=3)


TURNS = "reads the keys of all projects, each of which has its turn"
RUN = Run("a run", 1, runs.Kind.INGEST, runs.Ending.DONE, None, "", "", 1.0, runs.Figures())
LEASED = "reads the leases, which are a handful"
COUNT = "counts every row there is, in the smallest index"
ONE_VALUE = "counts what waits or was slow: little, and of all projects"
SORT = "USE TEMP B-TREE FOR ORDER BY"
ALLOWED = {
    "SCAN project_files USING INDEX idx_project_files_leased": LEASED,
    "SCAN project_files USING COVERING INDEX idx_project_files_leased": LEASED,
    "SCAN embedding_models": "reads a handful of models",
    "SCAN embedding_models USING COVERING INDEX sqlite_autoindex_embedding_models_1": "reads a handful of models",
}
ALLOWED_IN = {
    "projects.find": {SORT: "sorts two rows at most"},
    "conversations.made": {"SCAN c": "reads the keys of all conversations, once for an export of them all"},
    "conversations.made in a project": {SORT: "sorts the keys of one project, once for an export of them all"},
    "conversations.made in none": {SORT: "sorts the keys of no project, once for an export of them all"},
    "messages.thread": {SORT: "sorts the thread it has walked, which it returns whole"},
    "messages.answers": {SORT: "sorts all answers to one message, for each page anew"},
    "usage.by_project": {SORT: "sums up and sorts the projects that were searched, for each page anew"},
    "messages.pks_of_conversation": {SORT: "puts the keys of one conversation, which it returns whole, in their order"},
    "slow_queries.recent": {"SCAN slow_queries": "reads the latest, which are the last, of a thousand"},
    "files.counts": {"SCAN project_files USING COVERING INDEX idx_project_files_status": COUNT},
    "chunks.count": {"SCAN file_chunks USING COVERING INDEX idx_file_chunks_project": COUNT},
    "queue.claim": {
        "SCAN projects USING COVERING INDEX idx_projects_updated": TURNS,
        SORT: "sorts the projects, and of as many as it takes files the first files of each",
    },
    "queue.claim of a project": {
        "SCAN projects USING COVERING INDEX idx_projects_updated": TURNS,
        SORT: "sorts as many files as it takes",
    },
    "queue.due": {"SCAN p USING COVERING INDEX idx_projects_updated": TURNS},
    "queue.due of a project": {"SCAN p USING COVERING INDEX idx_projects_updated": TURNS},
    "queue.unfinished": {"SCAN project_files USING COVERING INDEX idx_project_files_status": COUNT},
    "statistics.of": {
        "SCAN project_files USING COVERING INDEX idx_project_files_status": COUNT,
        "SCAN file_chunks USING COVERING INDEX idx_file_chunks_project": COUNT,
        "SCAN project_memories USING COVERING INDEX idx_project_memories_importance": COUNT,
        "SCAN conversations USING COVERING INDEX sqlite_autoindex_conversations_1": COUNT,
        "SCAN messages USING COVERING INDEX sqlite_autoindex_messages_1": COUNT,
        "SCAN pending_vectors": ONE_VALUE,
        "SCAN slow_queries": ONE_VALUE,
        "SCAN ingestion_runs": "sums up the kept runs, of each project a hundred at most",
    },
    "statistics.of a project": {"SCAN pending_vectors": ONE_VALUE, "SCAN slow_queries": ONE_VALUE},
    "files.count_cut": {
        "SCAN project_files USING INDEX idx_project_files_status": "counts every file, once after a switch of models"
    },
    "succession.switch": {"SCAN generations": "tells every project, once in a switch of models"},
    "succession.drop": {"SCAN m": "reads a handful of models"},
    "uploads.without_bytes": {
        "SCAN p USING COVERING INDEX idx_projects_updated": "reads the keys of all projects, and each one's uploads"
    },
    "statistics.largest": {"SCAN p": "counts what each project has, to find the largest"},
    "statistics.tables": {
        "SCAN sqlite_schema": "reads the names of all tables",
        "SCAN s LEFT-JOIN": "finds the names of all tables and indexes",
    },
}
"""The step of a call's plan that is excused, word for word, and why; any other one is a fault all the same."""

SERVED_BY = {
    "projects.listed": "idx_projects_updated (updated_at<?)",
    "conversations.listed": "idx_conversations_updated (updated_at<?)",
    "conversations.listed of a project": "idx_conversations_project (project_id=? AND updated_at<?)",
    "conversations.listed of none": "idx_conversations_project (project_id=? AND updated_at<?)",
    "conversations.summaries": "idx_conversations_updated (updated_at<?)",
    "conversations.summaries of a project": "idx_conversations_project (project_id=? AND updated_at<?)",
    "messages.listed": "idx_messages_conversation (conversation_id=? AND created_at>?)",
    "messages.delete": "idx_messages_parent (parent_id=?)",
    "files.listed": "idx_project_files_project (project_id=? AND pk>?)",
    "files.listed by status": "idx_project_files_status (project_id=? AND status=? AND pk>?)",
    "files.counts of a project": "idx_project_files_status (project_id=?)",
    "files.names_of": "idx_project_files_duplicate (duplicate_of=?)",
    "chunks.listed": "sqlite_autoindex_file_chunks_2 (file_id=? AND chunk_index>?)",
    "memories.listed": "idx_project_memories_project (project_id=? AND updated_at<?)",
    "memories.listed by type": "idx_project_memories_type (project_id=? AND type=? AND updated_at<?)",
    "memories.listed, the most important first": "idx_project_memories_importance (project_id=? AND importance<?)",
    "settings.listed": "sqlite_autoindex_app_settings_1 (key>? AND key<?)",
    "slow_queries.listed": "INTEGER PRIMARY KEY (rowid<?)",
    "runs.listed": "INTEGER PRIMARY KEY (rowid<?)",
    "runs.listed of a project": "idx_ingestion_runs_project (project_id=? AND pk<?)",
    "runs.summary of a project": "idx_ingestion_runs_project (project_id=?)",
    "queue.claim": "idx_project_files_due (project_id=?)",
    "queue.claim of a project": "idx_project_files_due (project_id=?)",
    "queue.due": "idx_project_files_due (project_id=?)",
    "queue.due of a project": "idx_project_files_due (project_id=?)",
    "succession.page": "PRIMARY KEY (model=? AND (project,source,pk)>(?,?,?))",
    "succession.lacking": "PRIMARY KEY (model=? AND (project,source,pk)>(?,?,?))",
    "succession.count_lacking": "PRIMARY KEY (model=? AND project=? AND source=? AND pk=?)",
    "succession.drop": "INDEX idx_vector_bits_embedding (embedding=?)",
    "tokens.find": "sqlite_autoindex_access_tokens_2 (digest=?)",
    "uploads.of_project": "sqlite_autoindex_project_files_2 (project_id=? AND path_bytes>? AND path_bytes<?)",
    "uploads.without_bytes": "sqlite_autoindex_project_files_2 (project_id=? AND path_bytes>? AND path_bytes<?)",
    "vectors.known": "sqlite_autoindex_embeddings_1 (model_id=? AND input_hash=?)",
    "vectors.delete": "INDEX idx_vector_bits_embedding (embedding=?)",
    "vectors.search": "PRIMARY KEY (model=? AND project=? AND source=?)",
}
"""The index, and the part of it that is read, of lists for which another would serve, too, but badly."""


@pytest.fixture(scope="module", params=["never analysed", "analysed"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with rows in every table that is listed."""
    with Database.open(tmp_path_factory.mktemp("plans") / "filled.db") as database:
        with database.write() as connection:
            fill(connection, 30)
            embed(connection)
            if request.param == "analysed":
                connection.script("ANALYZE")
        yield database


@pytest.fixture
def tx(filled: Database) -> Iterator[Connection]:
    """The writing connection, inside a transaction that is undone."""
    with contextlib.suppress(Undo), filled.write() as connection:
        yield connection
        raise Undo


class Undo(Exception):
    """Ends a transaction without keeping anything of it."""


def plans(db: Connection, call: Call) -> list[list[str]]:
    """Return the plan of each statement that a call runs, a line a step; what the call changes is undone."""
    ran: list[tuple[str, Any]] = []

    def note(cursor: object, sql: str, values: Any) -> bool:
        ran.append((sql, values))
        return True

    with contextlib.suppress(Undo), savepoint(db):
        db.raw.exec_trace = note
        try:
            call(db)
        finally:
            db.raw.exec_trace = None
        raise Undo
    assert ran
    return [[step for *_, step in db.raw.execute(f"EXPLAIN QUERY PLAN {sql}", values)] for sql, values in ran]


def faults(db: Connection, name: str, call: Call) -> list[str]:
    """Return the steps of a call that read a whole table, or sort."""
    return [step for plan in plans(db, call) for step in plan if _faulty(step, plan) and not _allowed(name, step)]


def _faulty(step: str, plan: list[str]) -> bool:
    if re.match(r"USE TEMP B-TREE FOR .*ORDER BY", step):
        return True
    if not step.startswith("SCAN ") or "VIRTUAL TABLE" in step or "CONSTANT ROW" in step:
        return False
    # The rows of a subquery were found by their own plan.
    return not {f"CO-ROUTINE {step[5:]}", f"MATERIALIZE {step[5:]}"} & set(plan)


def _allowed(name: str, step: str) -> bool:
    return step in ALLOWED or step in ALLOWED_IN.get(name, {})


def served(db: Connection, name: str) -> bool:
    """Tell whether the index meant for it serves a list."""
    return any(step.endswith(SERVED_BY[name]) for plan in plans(db, CASES[name]) for step in plan)


def work(db: Connection, call: Call) -> int:
    """Return how many steps SQLite's machine takes for a call; what the call changes is undone."""
    taken: list[int] = []
    with contextlib.suppress(Undo), savepoint(db):
        db.raw.trace_v2(
            apsw.SQLITE_TRACE_PROFILE, lambda told: taken.append(told["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])
        )
        try:
            call(db)
        finally:
            db.raw.trace_v2(0)
        raise Undo
    return sum(taken)


@pytest.mark.parametrize("name", CASES)
def test_an_index_serves(tx: Connection, name: str) -> None:
    assert faults(tx, name, CASES[name]) == []


@pytest.mark.parametrize("name", SERVED_BY)
def test_the_index_meant_for_it_serves(tx: Connection, name: str) -> None:
    assert served(tx, name), plans(tx, CASES[name])


@pytest.mark.parametrize("name", [name for name in SERVED_BY if name.startswith("queue.")])
def test_what_waits_for_others_costs_who_looks_for_due_files_nothing(tx: Connection, name: str) -> None:
    tx.run("UPDATE project_files SET status = 'pending' WHERE pk = 1")
    alone = work(tx, CASES[name])
    tx.many(
        "INSERT INTO project_files (id, project_id, filename, path, path_bytes, status, waiting_for, created_at,"
        " updated_at) SELECT :id, project_id, :id, :id, CAST(:id AS BLOB), status, pk, created_at, updated_at"
        " FROM project_files WHERE pk = 1",
        ({"id": f"copy {number}"} for number in range(300)),
    )
    assert work(tx, CASES[name]) == alone > 0
    assert served(tx, name)


def test_every_list_is_looked_at() -> None:
    lists = {
        f"{module.__name__.removeprefix('storage.')}.{name}"
        for module in MODULES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and str(inspect.signature(function).return_annotation).startswith("Page[")
    }
    assert lists >= {"projects.listed", "messages.listed", "settings.listed"}
    assert lists - {name.partition(" ")[0].rstrip(",") for name in CASES} == set()


def test_what_is_allowed_is_still_needed(tx: Connection) -> None:
    """An exception that nothing needs any more would hide the next fault."""
    steps = {name: {step for plan in plans(tx, CASES[name]) for step in plan} for name in CASES}
    assert set(ALLOWED) <= {step for found in steps.values() for step in found}
    assert [(name, step) for name, excused in ALLOWED_IN.items() for step in excused if step not in steps[name]] == []


def test_an_excused_step_excuses_no_other(tx: Connection) -> None:
    """A planted fault: a call that may sort may not read a whole table for it."""
    assert faults(tx, "messages.answers", lambda db: db.all("SELECT * FROM messages")) == ["SCAN messages"]


@pytest.mark.parametrize(
    ("index", "name"),
    [
        ("idx_projects_updated", "projects.listed"),
        ("idx_conversations_updated", "conversations.listed"),
        ("idx_project_memories_importance", "memories.listed, the most important first"),
    ],
)
def test_a_list_without_its_index_is_noticed(tx: Connection, index: str, name: str) -> None:
    """A planted fault: the first test above sees it."""
    tx.script(f"DROP INDEX {index}")
    assert faults(tx, name, CASES[name])


@pytest.mark.parametrize(
    ("index", "name"),
    [
        ("idx_conversations_project", "conversations.summaries of a project"),
        ("idx_messages_conversation", "messages.listed"),
        ("idx_messages_parent", "messages.delete"),
        ("idx_project_files_project", "files.listed"),
        ("idx_project_memories_type", "memories.listed by type"),
        ("idx_ingestion_runs_project", "runs.listed of a project"),
        ("idx_vector_bits_embedding", "vectors.delete"),
    ],
)
def test_a_list_that_another_index_serves_badly_is_noticed(tx: Connection, index: str, name: str) -> None:
    """A planted fault: the second test above sees it."""
    assert served(tx, name)
    tx.script(f"DROP INDEX {index}")
    assert not served(tx, name)
