"""Runs of ingestion: when, how they ended, what passed each stage and how long that took; never a path or a word.

A run writes its row when it ends, however it does. Of each project (and of runs over all of them) the
newest hundred are kept; they go with their project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from storage import paging
from storage.connection import Connection
from storage.paging import LAST_PK, Page

KEPT = 100
"""Runs of one project that are kept."""


class Kind(StrEnum):
    """What the run was of: folders once, folders as they changed, or the queue."""

    INGEST = "ingest"
    WATCH = "watch"
    WORK = "work"


class Ending(StrEnum):
    """How a run ended: all was done, it was told to stop or ran out of time, or an error ended it."""

    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run did. Times are seconds of a stage, summed over those who did the same at the same time.

    discovered: files met in the folders, of which some were unchanged, duplicates or skipped, and removed ones
    forgotten. ready, failed: files that this run finished, those within files included. parsed: files read, and their
    bytes. embedded, reused: chunks that the model made vectors for, and those whose vector was there. chunks: written.
    """

    discovered: int = 0
    unchanged: int = 0
    duplicates: int = 0
    skipped: int = 0
    removed: int = 0
    ready: int = 0
    failed: int = 0
    parsed: int = 0
    bytes: int = 0
    embedded: int = 0
    reused: int = 0
    chunks: int = 0
    scan_s: float = 0.0
    parse_s: float = 0.0
    embed_s: float = 0.0
    write_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run that has ended; project_pk is None for one over all projects. Times are UTC text.

    error_code: of the error that ended it, where one did. project: the name, which is only read.
    """

    id: str
    project_pk: int | None
    kind: Kind
    outcome: Ending
    error_code: str | None
    started_at: str
    ended_at: str
    seconds: float
    figures: Figures
    project: str | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """What passed one stage: `items` of `unit` in `seconds`; per_second is None where it took no time."""

    unit: str
    items: int
    seconds: float
    per_second: float | None


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of ingestion: folders are walked and files hashed, read and cut, embedded, and written."""

    scan: Stage
    parse: Stage
    embed: Stage
    write: Stage


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The kept runs: how many, the last one, and the stages of that one and of all of them."""

    runs: int
    last: Run | None
    last_stages: Stages
    stages: Stages


_FIGURES = ", ".join(field.name for field in fields(Figures))
_COLUMNS = f"id, project_id, kind, outcome, error_code, started_at, ended_at, seconds, {_FIGURES}"
_SUMS = ", ".join(f"coalesce(sum({field.name}), 0)" for field in fields(Figures))


def keep(db: Connection, run: Run) -> None:
    """Keep a run that has ended, and drop the oldest of its project beyond a hundred.

    One of a project that was deleted meanwhile is dropped itself.
    """
    db.run(
        f"INSERT INTO ingestion_runs ({_COLUMNS})"
        " SELECT :id, :project_pk, :kind, :outcome, :error_code, :started_at, :ended_at, :seconds,"
        f" {', '.join(f':{field.name}' for field in fields(Figures))}"
        " WHERE :project_pk IS NULL OR EXISTS (SELECT 1 FROM projects WHERE pk = :project_pk)",
        id=run.id,
        project_pk=run.project_pk,
        kind=run.kind,
        outcome=run.outcome,
        error_code=run.error_code,
        started_at=run.started_at,
        ended_at=run.ended_at,
        seconds=run.seconds,
        **asdict(run.figures),
    )
    db.run(
        "DELETE FROM ingestion_runs WHERE project_id IS :project AND pk <= ("
        " SELECT pk FROM ingestion_runs WHERE project_id IS :project ORDER BY pk DESC LIMIT 1 OFFSET :kept)",
        project=run.project_pk,
        kept=KEPT,
    )


def listed(db: Connection, project_pk: int | None = None, *, limit: int = 100, after: str | None = None) -> Page[Run]:
    """Return the runs of a project, or all (None), the latest first.

    limit: 1 to 1000. after: `next` of the page before. Raises UsageError.
    """
    _, pk = paging.start(after, (0, LAST_PK), "runs")
    of_project = "" if project_pk is None else "project_id = :project AND "
    values = {} if project_pk is None else {"project": project_pk}
    rows = db.all(
        f"SELECT {_COLUMNS}, (SELECT name FROM projects p WHERE p.pk = project_id), pk FROM ingestion_runs"
        f" WHERE {of_project}pk < :pk ORDER BY pk DESC LIMIT :limit",
        pk=pk,
        limit=paging.probe(limit),
        **values,
    )
    page = paging.cut(rows, limit, lambda row: row, lambda row: (0, row[-1]), "runs")
    return Page([_run(row[:-1]) for row in page.items], page.next)


def summary(db: Connection, project_pk: int | None = None) -> Ingestion:
    """Return what the kept runs of a project, or all of them (None), did. Runs over all projects are of none."""
    last = listed(db, project_pk, limit=1).items
    of_project = "" if project_pk is None else " WHERE project_id = :project"
    values = {} if project_pk is None else {"project": project_pk}
    [(count, *sums)] = db.all(f"SELECT count(*), {_SUMS} FROM ingestion_runs{of_project}", **values)
    return Ingestion(
        count, last[0] if last else None, stages(last[0].figures if last else Figures()), stages(Figures(*sums))
    )


def stages(figures: Figures) -> Stages:
    """Return what passed each stage, and how fast."""
    return Stages(
        scan=_stage("files", figures.discovered, figures.scan_s),
        parse=_stage("files", figures.parsed, figures.parse_s),
        embed=_stage("chunks", figures.embedded, figures.embed_s),
        write=_stage("chunks", figures.chunks, figures.write_s),
    )


def _stage(unit: str, items: int, seconds: float) -> Stage:
    return Stage(unit, items, round(seconds, 3), round(items / seconds, 1) if seconds > 0 else None)


def _run(row: Sequence[Any]) -> Run:
    id, pk, kind, outcome, error_code, started_at, ended_at, seconds, *figures, name = row
    return Run(id, pk, Kind(kind), Ending(outcome), error_code, started_at, ended_at, seconds, Figures(*figures), name)
