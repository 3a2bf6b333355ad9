"""The files of each project are read and cut as that project says, and marked with how they really were."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle

import pytest

from pipeline import model_files
from pipeline.chunk import ChunkSettings
from pipeline.parse import ParseSettings, parse
from storage import projects, queue
from storage.connection import Connection
from storage.errors import ConfigurationError
from storage.files import Status
from workers.runner import Job, Recipe, Runner, RunnerSettings
from workers.scan import Scan, ScanOptions

LONG, SHORT = ChunkSettings(), ChunkSettings(max_tokens=64, target_tokens=48, min_tokens=16, heading_tokens=12)
TEXT = "# Tides of day {}\n\n" + "\n\n".join(f"At hour {hour} the harbour master looked again." for hour in range(40))


def recipe_of(desk, chunks: ChunkSettings) -> Recipe:
    usual = desk.job().recipe(None, None)
    return replace(usual, parse=ParseSettings(chunks), versions=replace(usual.versions, settings=chunks.fingerprint()))


def drain(desk, job: Job, settings: RunnerSettings | None = None) -> None:
    """Process the queue of all projects."""

    def nothing_left() -> bool:
        with desk.db.read() as db:
            return not queue.unfinished(db)

    Runner(desk.db, job, settings or RunnerSettings(workers=1)).run(nothing_left)


def scan(desk, job: Job, project_pk: int) -> None:
    with desk.db.read() as db:
        versions = job.recipe(db, project_pk).versions
    assert list(Scan(desk.db, project_pk, versions, ScanOptions()).run([desk.folder]))


@pytest.fixture
def other(desk) -> int:
    """A second project."""
    with desk.db.write() as db:
        return projects.ensure(db, "other").pk


def rows(desk, project_pk: int) -> list[tuple[str, str, str, int]]:
    with desk.db.read() as db:
        return db.all(
            "SELECT filename, status, settings_fingerprint, chunk_count FROM project_files WHERE project_id = :pk",
            pk=project_pk,
        )


def test_one_run_over_many_projects_cuts_the_files_of_each_as_it_says(desk, other: int) -> None:
    recipes = {desk.project: recipe_of(desk, LONG), other: recipe_of(desk, SHORT)}
    job = replace(desk.job(), recipe=lambda db, pk: recipes[pk or other])
    for day in range(4):
        desk.write(f"{day}.md", TEXT.format(day))
    for pk in recipes:
        scan(desk, job, pk)
    drain(desk, job)
    counts = {pk: {row[3] for row in rows(desk, pk)} for pk in recipes}
    assert max(counts[desk.project]) < min(counts[other])
    for pk, recipe in recipes.items():
        assert {row[1:3] for row in rows(desk, pk)} == {(Status.READY, recipe.versions.settings)}


def test_a_file_is_marked_with_the_settings_it_was_cut_with_however_often_they_change(desk) -> None:
    changing: Iterator[Recipe] = cycle([recipe_of(desk, LONG), recipe_of(desk, SHORT)])
    usual = desk.job().recipe(None, None)
    job = replace(desk.job(), recipe=lambda db, pk: usual if pk is None else next(changing))
    for day in range(8):
        desk.write(f"{day}.md", TEXT.format(day))
    scan(desk, desk.job(), desk.project)
    drain(desk, job, RunnerSettings(workers=2, claims=1))
    tokenizer = model_files.tokenizer(usual.model)
    seen: Counter[str] = Counter()
    for name, _, fingerprint, count in rows(desk, desk.project):
        cut_with = LONG if fingerprint == LONG.fingerprint() else SHORT
        assert fingerprint == cut_with.fingerprint()
        path = os.fsencode(desk.folder / name)
        assert count == len(parse(path, name, tokenizer, ParseSettings(cut_with)).chunks)
        seen[fingerprint] += 1
    assert set(seen) == {LONG.fingerprint(), SHORT.fingerprint()}


def test_settings_that_cannot_be_used_fail_the_files_of_their_project_alone(desk, other: int) -> None:
    usual = desk.job()

    def recipe(db: Connection, pk: int | None) -> Recipe:
        if pk == other:
            raise ConfigurationError("project other: max_tokens is too large; lower it")
        return usual.recipe(db, pk)

    desk.write("a.md", TEXT.format(1))
    for pk in (desk.project, other):
        scan(desk, usual, pk)
    drain(desk, replace(usual, recipe=recipe))
    assert [row[1] for row in rows(desk, desk.project)] == [Status.READY]
    with desk.db.read() as db:
        [failed] = db.all(
            "SELECT status, error_code, error_message FROM project_files WHERE project_id = :pk", pk=other
        )
    assert failed == (Status.FAILED, "settings", "project other: max_tokens is too large; lower it")
    # Nothing has read it, so the next run tries again by itself.
    scan(desk, usual, other)
    drain(desk, usual)
    assert [row[1] for row in rows(desk, other)] == [Status.READY]
