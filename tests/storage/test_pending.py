"""Memories and messages that wait for a vector, or that the model has none for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage import conversations, memories, messages, pending, projects
from storage.database import Database
from storage.pending import Pending
from storage.repair import repair
from storage.sources import Source


def test_one_that_was_refused_and_is_gone_is_told_with_the_remedy(filled) -> None:
    with filled.db.write() as db:
        [memory] = pending.take(db, 10)
        pending.refuse(db, [memory], model="m")
        for source in Source.MEMORY, Source.MESSAGE:
            pending.queue(db, source, 999)
        db.run("UPDATE pending_vectors SET refused_by = 'm' WHERE pk = 999")
        assert pending.refused(db, 10) == [
            f"memory {memory.id}",
            "memory 999 (gone; knowlex repair takes it out)",
            "message 999 (gone; knowlex repair takes it out)",
        ]
    repair(filled.db)
    with filled.db.read() as db:
        assert pending.refused(db, 10) == [f"memory {memory.id}"]


def test_what_waits_is_taken_of_the_project_and_the_sources_asked_for(db: Database) -> None:
    with db.write() as tx:
        mine, other = (projects.create(tx, name).pk for name in ("mine", "other"))
        told = {project: memories.add(tx, project, "t", "c").pk for project in (other, mine)}
        said = {
            project: messages.add(tx, conversations.create(tx, "t", project_pk=project).id, "user", "hello").pk
            for project in (other, None, mine)
        }

        def taken(limit: int = 10, **part: object) -> list[tuple[Source, int]]:
            return [(row.source, row.pk) for row in pending.take(tx, limit, **part)]  # pyright: ignore[reportArgumentType]

        memory, message = (Source.MEMORY, told[mine]), (Source.MESSAGE, said[mine])
        assert taken(project_pk=mine) == [memory, message]
        assert taken(1, project_pk=mine) == [memory]
        assert taken(project_pk=mine, sources=[Source.MESSAGE]) == [message]
        assert taken(project_pk=mine, sources=[]) == []
        assert taken(sources={Source.MEMORY}) == [(Source.MEMORY, pk) for pk in told.values()]
        assert len(taken()) == 5


@pytest.mark.parametrize("source", [Source.MEMORY, Source.MESSAGE])
def test_what_waits_in_a_project_is_found_without_reading_what_waits_in_another(db: Database, source: Source) -> None:
    with db.write() as tx:
        mine, other = (projects.create(tx, name).pk for name in ("mine", "other"))
        talks = {project: conversations.create(tx, "t", project_pk=project).id for project in (mine, other)}

        def add(project: int) -> int:
            if source is Source.MEMORY:
                return memories.add(tx, project, "t", "c").pk
            return messages.add(tx, talks[project], "user", "hello").pk

        def steps(looked: Callable[[], object], expected: object) -> int:
            tens: list[int] = []
            tx.raw.set_progress_handler(lambda: bool(tens.append(1)), 10)  # pyright: ignore[reportUnknownMemberType]
            assert looked() == expected
            tx.raw.set_progress_handler(None)  # pyright: ignore[reportUnknownMemberType]
            return len(tens)

        def looks(pks: list[int]) -> list[int]:
            return [
                steps(lambda: pending.lacking(tx, source, project_pk=mine), len(pks)),
                steps(lambda: pending.lacking(tx, source, project_pk=mine, allowed=pks[:1]), len(pks[:1])),
                steps(lambda: [row.pk for row in pending.take(tx, 1, project_pk=mine)], pks[:1]),
            ]

        done, waiting = add(mine), add(mine)
        pending.done(tx, source, [done])
        for _ in range(300):
            add(other)
        assert max(looks([waiting])) < 30
        pending.done(tx, source, [waiting])
        assert max(looks([])) < 30
        assert pending.lacking(tx, source, project_pk=other) == pending.lacking(tx, source, project_pk=None) == 300


@pytest.mark.parametrize("written", ["'{x'", "CAST(x'5bff5d' AS TEXT)"])
def test_one_that_cannot_be_read_is_told_apart_and_refused(db: Database, written: str) -> None:
    with db.write() as tx:
        talk, project = conversations.create(tx, "t"), projects.create(tx, "p")
        said = [messages.add(tx, talk.id, "user", text) for text in ("first", "second")]
        tx.run(f"UPDATE messages SET content = {written} WHERE pk = :pk", pk=said[0].pk)
        told = [memories.add(tx, project.pk, title, "content") for title in ("third", "fourth")]
        tx.run("UPDATE project_memories SET title = CAST(x'ff' AS TEXT) WHERE pk = :pk", pk=told[0].pk)
        lost, memory, broken, sound = taken = pending.take(tx, 10)
        assert lost == Pending(Source.MEMORY, told[0].id, told[0].pk, project.pk, "", damaged=True)
        assert broken == Pending(Source.MESSAGE, said[0].id, said[0].pk, None, "", damaged=True)
        assert [(row.text, row.damaged) for row in (memory, sound)] == [("fourth\n\ncontent", False), ("second", False)]
        assert pending.current(tx, taken) == taken
        pending.refuse(tx, [lost, broken], model="m")
        assert pending.take(tx, 10, model="m") == [memory, sound]
        assert pending.refused(tx, 10) == [f"memory {told[0].id}", f"message {said[0].id}"]
