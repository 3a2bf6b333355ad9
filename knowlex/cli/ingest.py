"""`knowlex ingest …`: bring files and folders into a project."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from knowlex.cli import exit_codes
from knowlex.cli.door import Command, Door, pass_door
from knowlex.cli.passwords import passwords_of, passwords_option
from knowlex.run_limits import MOST_WORKERS
from knowlex.terminal import one_line, quantity, size
from storage.errors import UsageError

SLOW_S = 5.0
"""From here on a person wants to know which file it was."""

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from knowlex.ingestion import Ingestion
    from workers.batch import Report


class _Paths(click.Path):
    """Paths behind a project, which is easily forgotten."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        return "PROJECT comes first: knowlex ingest PROJECT PATH…."


@click.command(cls=Command, writes=True)
@click.argument("project")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=_Paths())
@click.option("--watch", is_flag=True, help="Stay, and ingest again whenever something changes; Ctrl-C ends it.")
@click.option("--prune", is_flag=True, help="Forget files that are gone from these folders.")
@click.option("--force", is_flag=True, help="Let --prune forget more than a fifth of a folder.")
@click.option("--include", multiple=True, metavar="GLOB", help="Take only these files (as in .gitignore); repeatable.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave these out (as in .gitignore); repeatable.")
@passwords_option
@click.option("--workers", type=click.IntRange(1, MOST_WORKERS), help="Parser processes.")
@click.option("--executor", type=click.Choice(["local"]), default="local", help="Where the work is done: this machine.")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Stop after this time; resumable.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing but a --report.")
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write one JSON line a file: what became of it. An older report is replaced; anything else is not.",
)
@pass_door
def ingest(
    door: Door,
    project: str,
    paths: tuple[str, ...],
    pdf_password_file: Path | None,
    executor: str,
    watch: bool,
    **options: Any,
) -> int:
    """Bring files and folders into PROJECT, which is created if missing.

    Unchanged files are skipped, edited ones are read anew, equal ones share their passages. A file
    that cannot be read fails alone, with the reason. After an interruption the same command goes on.
    A new PROJECT that is a path (it has a slash, or is here and holds none of the paths) is refused, as the name was
    forgotten; `project create` makes one of such a name.

    \b
    Example:
      knowlex ingest handbook ./docs notes.md --exclude "drafts/" --prune
    """
    from knowlex.cli.stopping import stopping

    door.writes = not options["dry_run"]
    options |= {"passwords": passwords_of(pdf_password_file), "password_file": pdf_password_file}
    if watch:
        return _watch(door, project, paths, options)
    with door.open() as kb:
        _require_project_first(kb, project, paths, dry_run=options["dry_run"])
        batch = kb.batch(project, progress=door.progress, **options)
        with batch, stopping(batch.stop, lambda: _abandon(door, batch)) as told:
            report = batch.run(*paths)
        waiting, out_of_time = batch.waiting(), batch.stopped
        failed = batch.failed()
    if door.json:
        door.answer(report)
    _describe(door, report, dry_run=options["dry_run"])
    if not door.json and not door.logs_json:
        _note_what_is_not_searchable(door, report, failed, reported=options["report"] is not None)
    if told.signal is not None:
        door.note_waiting("stopped", waiting)
        return told.exit_code
    if out_of_time:
        door.note_waiting("time is up", waiting)
    return exit_codes.SOME_FAILED if _failed(report) else exit_codes.OK


def _failed(report: Report) -> int:
    """Return how many files failed in this run, wherever they lie."""
    return report.failed + report.attachments_failed + report.uploads_failed


def _watch(door: Door, project: str, paths: tuple[str, ...], options: dict[str, Any]) -> int:
    """Ingest until told to end; each run that did something answers, in JSON by one line."""
    from knowlex.cli.stopping import stopping
    from knowlex.watching import LOOK_AGAIN_S

    if options["dry_run"] or options["report"] is not None:
        raise UsageError("--watch goes with neither --dry-run nor --report: leave one of them out")

    def tell(report: Report) -> None:
        if door.json:
            door.answer(report)
        _describe(door, report, dry_run=False)

    def tell_missing(error: Exception) -> None:
        if not door.logs_json:
            door.note(one_line(f"{error}; looked for again every {LOOK_AGAIN_S / 60:.0f} minutes"))

    def tell_watching() -> None:
        if not door.logs_json:
            watched_paths = one_line(", ".join(map(str, paths)))
            door.note(f"watching {watched_paths} for {one_line(project)}; Ctrl-C ends it")

    with door.open() as kb:
        _require_project_first(kb, project, paths, dry_run=False)
        watched = kb.watch(project, progress=door.progress, **options)
        with stopping(watched.stop, watched.abandon):
            watched.run(*paths, on_report=tell, on_missing=tell_missing, on_watching=tell_watching)
        waiting = watched.waiting()
    if waiting:
        door.note_waiting("stopped", waiting)
    return exit_codes.OK


def _require_project_first(kb: Knowlex, project: str, paths: tuple[str, ...], *, dry_run: bool) -> None:
    """Raise UsageError for a new project that looks like a path: its name was forgotten."""
    if _looks_like_a_path(project, paths) and kb.batch(project, dry_run=dry_run, progress=False).is_into_new():
        raise UsageError(
            f"{project}: is a path and no project; PROJECT comes first: knowlex ingest NAME {project} …"
            f" (where a new project is to have this name: knowlex project create {project})"
        )


def _looks_like_a_path(project: str, paths: tuple[str, ...]) -> bool:
    """Tell whether a project's name may be a path; `docs` before ./docs is a name."""
    if "/" in project or project in (".", "..", "~"):
        return True
    place = os.path.realpath(project)
    return os.path.lexists(project) and not any(Path(os.path.realpath(path)).is_relative_to(place) for path in paths)


def _abandon(door: Door, batch: Ingestion) -> None:
    batch.abandon()
    door.note_waiting("stopped", batch.waiting())


def _note_what_is_not_searchable(door: Door, report: Report, failed: int, *, reported: bool) -> None:
    """Point to files of earlier failures, which count as unchanged, and to those passed over."""
    if failed > _failed(report):
        project = report.project
        door.note(
            one_line(
                f"{quantity(failed, 'file')} of {project} failed in all:"
                f" knowlex files {shlex.quote(project)} --status failed"
            )
        )
    if report.skipped and not reported:
        _note_passed_over(door, report)


def _note_passed_over(door: Door, report: Report) -> None:
    for each in report.passed_over:
        door.note(one_line(f"passed over: {each.path} ({each.reason})"))
    if more := report.skipped - len(report.passed_over):
        door.note(f"passed over: {quantity(more, 'file')} more; --report FILE says why of each")


def _describe(door: Door, report: Report, *, dry_run: bool) -> None:
    did = "would be ingested" if dry_run else "ingested"
    passages = "" if dry_run else f"{quantity(report.chunks, 'passage')}, "
    door.say(
        f"{one_line(report.project)}: {quantity(report.discovered, 'file')} found, {report.ingested} {did}"
        f" ({passages}{size(report.bytes)}), {_unchanged(report)},"
        f" {quantity(report.duplicates, 'duplicate')}, {report.skipped} skipped, {report.removed} removed,"
        f" {report.failed} failed; {report.seconds:.1f} s"
    )
    if report.outdated:
        would = "would be" if dry_run else "was" if report.outdated == 1 else "were"
        why = "their reader, the chunking or the model has changed"
        door.say(f"{quantity(report.outdated, 'file')} {would} read anew: {why}")
    if report.attachments or report.attachments_failed or report.attachments_left_out:
        left_out = f", {report.attachments_left_out} left out: too many" if report.attachments_left_out else ""
        door.say(
            f"within them: {quantity(report.attachments, 'attachment')} ingested,"
            f" {report.attachments_failed} failed{left_out}"
        )
    if report.uploads or report.uploads_failed:
        door.say(_uploads(report, dry_run=dry_run))
    if report.gone and not dry_run:
        door.say(_gone(report))
    for slow in report.slowest:
        if slow.seconds >= SLOW_S and not door.logs_json:
            door.note(f"slow: {one_line(slow.path)} took {slow.seconds:.1f} s to parse")
    for folder in report.unreadable_folders:
        door.note(one_line(f"not looked into: {folder.path} ({folder.error}); mend its rights, then ingest again"))
    door.note_failures([*report.failures, *report.locked], report.project)


def _uploads(report: Report, *, dry_run: bool) -> str:
    would = "would be read anew" if dry_run else "read anew"
    return f"of the project's uploads: {report.uploads} {would}, {report.uploads_failed} failed"


def _gone(report: Report) -> str:
    are, stay, them = ("is", "stays", "it") if report.gone == 1 else ("are", "stay", "them")
    gone = f"{quantity(report.gone, 'file')} {are} gone from disk and {stay} in the project"
    return f"{gone}; --prune forgets {them}"


def _unchanged(report: Report) -> str:
    moved = f" ({report.moved} of them moved)" if report.moved else ""
    return f"{report.unchanged} unchanged{moved}"
