"""A project's files in a database of their own, to try what a run would do to them: what is written there is lost.

It is in memory: nothing is left on any disk, however the process ends.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from storage import migrations
from storage.connection import Connection, connect
from storage.database import Database

IN_MEMORY = Path(":memory:")
PAGE = 1000


class Trial:
    """The files of one project of a database, as they are and, once written to, as they would be.

    Neither chunks nor anything else is there. The copy is made by the first write, and takes about 1 KB of memory a
    file. For one thread.
    """

    def __init__(self, database: Database, project_pk: int | None) -> None:
        """project_pk: None where the project is to be made on trial, too; that is to be the first thing done."""
        self.path = database.path
        self._database = database
        self._project_pk = project_pk
        self._copy: Connection | None = None

    @contextmanager
    def read(self) -> Generator[Connection]:
        """Give a connection to read from. Raises what `Database.read` does."""
        if self._copy is None:
            with self._database.read() as db:
                yield db
        else:
            yield self._copy

    @contextmanager
    def write(self) -> Generator[Connection]:
        """Give a connection to the copy, in one transaction: all of the block or nothing.

        Raises what `Database.read` does.
        """
        if self._copy is None:
            self._copy = self._copied()
        with migrations.immediate(self._copy):
            yield self._copy

    def close(self) -> None:
        """Forget what was written."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _copied(self) -> Connection:
        copy = connect(IN_MEMORY, named=self.path)
        try:
            migrations.migrate(copy)
            with self._database.read() as db, migrations.immediate(copy):
                # A name may come before the one that serves it.
                copy.script("PRAGMA defer_foreign_keys = ON")
                _fill(copy, db, "projects", "pk", self._project_pk)
                _fill(copy, db, "project_files", "project_id", self._project_pk)
        except BaseException:
            copy.close()
            raise
        return copy


def _fill(copy: Connection, db: Connection, table: str, project_column: str, project_pk: int | None) -> None:
    """Copy the rows of a project from one table to its twin, page by page."""
    names = [name for (name,) in copy.all("SELECT name FROM pragma_table_info(:table)", table=table)]
    columns, values = ", ".join(names), ", ".join(f":{name}" for name in names)
    last = 0
    while rows := db.all(
        f"SELECT {columns}, pk FROM {table} WHERE {project_column} = :project AND pk > :last ORDER BY pk LIMIT :page",
        project=project_pk,
        last=last,
        page=PAGE,
    ):
        copy.many(
            f"INSERT INTO {table} ({columns}) VALUES ({values})", (dict(zip(names, row, strict=False)) for row in rows)
        )
        last = rows[-1][-1]
