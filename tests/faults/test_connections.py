"""Every connection, whoever opens it and whatever for, has every guard on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from faults import errands, mutants
from faults.mounts import REMOTE
from faults.table import Figure
from faults.watch import HURRIED, Watch, watching

from storage import backup, filesystem, settings
from storage.connection import BUSY_TIMEOUT_MS, OLDEST_SQLITE, WITHDRAWN_SQLITE
from storage.database import Database
from storage.errors import DatabaseError

pytestmark = pytest.mark.row(10)


@pytest.mark.proof
@pytest.mark.xdist_group("faults")
@pytest.mark.usefixtures("compiled_once")
def test_every_connection_is_guarded(tmp_path: Path, figure: Figure) -> None:
    folder = errands.documents(tmp_path / "in")
    with watching() as watch:
        errands.run(folder / "own.db", folder)
    assert watch.looked_at.count(folder / "own.db") > 20
    guarded = watch.unguarded == [] and watch.deferred == []
    figure(
        10,
        f"{len(watch.looked_at)} connections, {watch.immediate} transactions that write:"
        f" {len(watch.unguarded)} guards off, {len(watch.deferred)} deferred",
        guarded,
    )
    usual, others = watch.waits[BUSY_TIMEOUT_MS], sorted(set(watch.waits) - {BUSY_TIMEOUT_MS})
    figure(
        10,
        f"{usual}/{watch.waits.total()} looks: waits 30 s for a lock; else {others} ms, in {len(HURRIED)} places that"
        f" may; {len(watch.impatient)} elsewhere",
        watch.impatient == [],
    )


@pytest.mark.proof
def test_the_engine_is_one_that_loses_nothing(figure: Figure) -> None:
    found = tuple(map(int, apsw.sqlite_lib_version().split(".")))
    figure(10, f"SQLite {apsw.sqlite_lib_version()}", found >= OLDEST_SQLITE and found != WITHDRAWN_SQLITE)


@pytest.mark.proof
@pytest.mark.parametrize("kind", REMOTE)
def test_a_network_file_system_is_refused_before_anything_is_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = tmp_path / "a.db", tmp_path / "copy.db"
    with Database.open(path) as db:
        backup.make(db, copy)
    monkeypatch.setattr(filesystem, "_filesystem_of", lambda path, mounts: kind)
    attempts: list[Callable[[], object]] = [
        lambda: Database.open(path),
        lambda: Database.open(path, readonly=True),
        lambda: Database.open(tmp_path / "new.db"),
        lambda: backup.restore(path, copy),
    ]
    with watching() as watch:
        for attempt in attempts:
            with pytest.raises(DatabaseError, match=f"network file system \\({kind}\\)"):
                attempt()
    assert watch.opened == []
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("mutant", ["foreign-keys-off", "synchronous-off"])
def test_a_guard_that_was_forgotten_is_told(mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant(mutant, monkeypatch.setattr)
    assert watched_use(tmp_path / "a.db").unguarded


def test_who_does_not_wait_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.plant("impatient", monkeypatch.setattr)
    assert "a.db: 0 ms" in watched_use(tmp_path / "a.db").impatient[-1]


def test_who_waits_as_briefly_as_another_may_is_told(tmp_path: Path) -> None:
    with watching() as watch, Database.open(tmp_path / "a.db") as db, db.write(timeout_ms=200) as connection:
        settings.set(connection, "a", 1)
    assert "a.db: 200 ms" in watch.impatient[0]


def test_a_transaction_that_writes_without_asking_first_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched_use(tmp_path / "a.db").deferred == []
    mutants.plant("deferred-begin", monkeypatch.setattr)
    assert watched_use(tmp_path / "a.db").deferred


def watched_use(path: Path) -> Watch:
    """Open a database, write and read."""
    with watching() as watch, Database.open(path) as db:
        with db.write() as connection:
            settings.set(connection, "a", 1)
        with db.read() as connection:
            settings.all(connection)
    return watch
