"""Memories and messages that wait for a vector, or that the model has none for."""

from __future__ import annotations

from storage import pending
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
