"""Ingest folders: scan them into the queue and drain it, both at once; then prune, count and report."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.ingest import Result
from storage import files, projects, uploads
from storage.connection import Connection
from storage.database import Database
from storage.event_log import EventLog
from storage.files import File, Status, shown
from storage.output import Kind, replacing
from storage.queue import Claim
from storage.runs import Figures
from storage.trial import Trial
from workers import prune
from workers.runner import LOG, Job, Runner, RunnerSettings, Timings
from workers.scan import Fate, Scan, Scanned, ScanOptions


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that failed in this run, and why."""

    path: str
    error: str


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the time of a run went: seconds of each stage, summed over those who did it at the same time.

    scan_s: until the folders were walked and what changed was hashed and queued.
    embedded, reused: passages that the model made vectors for, and those whose vector was there already.
    """

    scan_s: float
    parse_s: float
    embed_s: float
    write_s: float
    embedded: int
    reused: int


@dataclass(frozen=True, slots=True)
class Slow:
    """One of the files that took the longest to parse, and how many seconds."""

    path: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file that no reader exists for, and why."""

    path: str
    reason: str


REPORT = Kind("report", re.compile(rb'\{"path": "(?:[^"\\]|\\.)*", "outcome": "[a-z]+", "reason": "'))
"""A file with one JSON line for each file that a run met."""


NAMED = 5
"""How many of the files passed over a report names."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did; the fields are the contract of `ingest --json`.

    discovered = ingested + unchanged + duplicates + skipped + failed, unless the run was stopped.
    A file that vanishes before anything is read of it counts nowhere.
    unchanged counts moved files, too. failures names the files within files that failed, as well.
    duplicates: new names of bytes that another file has; they share its chunks, or its failure.
    removed: files on disk that were forgotten; what lay within them went with them, uncounted.
    chunks and bytes: chunks written, and bytes of the files ingested, in this run.
    """

    project: str
    discovered: int
    ingested: int
    unchanged: int
    duplicates: int
    removed: int
    skipped: int
    failed: int
    chunks: int
    bytes: int
    seconds: float
    failures: tuple[Failure, ...]
    outdated: int = 0
    """Of those ingested, the ones whose bytes are as before: what reads or cuts them has changed."""
    moved: int = 0
    attachments: int = 0
    attachments_failed: int = 0
    """Files within files that became searchable in this run, and that failed; none of those discovered. chunks, stages,
    slowest and failures have them, too."""
    attachments_left_out: int = 0
    """Of files that were read in this run, those within them beyond what one may hold; nothing is kept of them."""
    stages: Stages | None = None
    slowest: tuple[Slow, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    """The first of those skipped."""
    gone: int = 0
    """Files below these folders that are gone from disk and stay in the project: nothing pruned them."""
    locked: tuple[Failure, ...] = ()
    """Of those unchanged, the ones that had failed for want of a password and that none of those given opens."""
    unreadable_folders: tuple[Failure, ...] = ()
    """Folders that could not be looked into: what they hold was not met in this run, and stays as it is."""
    uploads: int = 0
    uploads_failed: int = 0
    """Uploads of the project that were read anew in this run, or shared with an equal, as their reader, the chunking or
    the model has changed, and that failed; they lie in none of these folders, and are none of those discovered, nor of
    what these are split into. chunks, stages, slowest and failures have them, too."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What a run is to do besides ingesting: see the command line's flags of the same names."""

    scan: ScanOptions
    prune: bool = False
    force: bool = False
    dry_run: bool = False
    max_minutes: float | None = None
    report: Path | None = None


class Progress:
    """What a door may watch while a run goes on; this one watches nothing."""

    def scanned(self, item: Scanned) -> None:
        """Called for every file found."""

    def finished(self, claim: Claim, result: Result) -> None:
        """Called for every file processed."""


class Batch:
    """One run of `ingest` over some folders.

    A dry run scans and prunes as any other, but on a `Trial`, and processes nothing.
    """

    def __init__(
        self,
        database: Database,
        project: str,
        project_pk: int | None,
        job: Job,
        runner: RunnerSettings,
        options: BatchOptions,
        progress: Progress,
        *,
        log: EventLog = LOG,
    ) -> None:
        self._options = options
        self._progress = progress
        self._project = project
        self._scanned: dict[int, Scanned] = {}
        self._within: dict[int, bool] = {}
        self._uploads: dict[int, bool] = {}
        self._attempted: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._fates: Counter[Fate] = Counter()
        self._started = self._scan_s = 0.0
        self._path = database.path
        self._failures: list[Failure] = []
        self._passed_over: list[PassedOver] = []
        self._locked: list[Failure] = []
        self._lines: list[dict[str, Any]] = []
        self._failed_before: dict[int, str] = {}
        with database.read() as db:
            versions = job.recipe(db, project_pk).versions
            if project_pk is not None and options.report is not None:
                self._failed_before = files.failures(db, project_pk)
        self._database, self._project_pk = self._place(database, project_pk)
        self._scan = Scan(self._database, self._project_pk, versions, options.scan)
        self._runner = Runner(database, job, runner, project_pk=project_pk, on_result=self._on_result, log=log)
        self._scan_error: BaseException | None = None
        self._scan_done = threading.Event()
        self._scan_whole = False

    def _place(self, database: Database, project_pk: int | None) -> tuple[Database | Trial, int]:
        """Return what the run writes to, and the key of its project there."""
        if not self._options.dry_run:
            assert project_pk is not None
            return database, project_pk
        trial = Trial(database, project_pk)
        if project_pk is None:
            with trial.write() as db:
                project_pk = projects.ensure(db, self._project).pk
        return trial, project_pk

    def run(self, roots: Sequence[Path]) -> Report:
        """Ingest the files below `roots` and return what was done.

        Raises NotFoundError for a missing root, and what makes going on impossible; what was done
        until then stays done.
        """
        started = self._started = time.monotonic()
        if isinstance(self._database, Trial):
            with closing(self._database):
                self._try(roots)
        else:
            self._ingest(self._scan.run(roots))
            self._prune()
            self._count()
        self._write_report()
        return self._report(time.monotonic() - started)

    def stop(self) -> None:
        """End the run soon; what is not done stays in the queue for the next one."""
        self._runner.stop()

    @property
    def timings(self) -> Timings:
        """Where the time went, by stage."""
        return self._runner.timings

    def figures(self) -> Figures:
        """Return what was done until now, also where an error ended the run."""
        fates = self._fates
        return replace(
            figures_of(self.timings),
            discovered=fates.total(),
            unchanged=fates[Fate.UNCHANGED] + fates[Fate.MOVED],
            duplicates=fates[Fate.DUPLICATE],
            skipped=fates[Fate.SKIPPED],
            removed=self._counts["removed"],
            failed=self.timings.failed + fates[Fate.FAILED],
            scan_s=round(self._scan_s, 3),
        )

    @property
    def stopped(self) -> bool:
        """Whether the run was ended before everything was done."""
        return self._runner.stopped and (not self._scan_whole or bool(self._unfinished()))

    # --- scanning and draining --------------------------------------------------------------------

    def _try(self, roots: Sequence[Path]) -> None:
        self._scan_all(None, self._scan.run(roots))
        self._raise_scan_error()
        self._prune()

    def _ingest(self, items: Iterator[Scanned]) -> None:
        # A missing root is to be told before anything is started.
        first = next(items, None)
        with self._time_limit(), self._scanning(first, items):
            self._runner.run(self._finished)
        self._raise_scan_error()

    def _raise_scan_error(self) -> None:
        if self._scan_error is not None:
            raise self._scan_error

    @contextmanager
    def _scanning(self, first: Scanned | None, items: Iterator[Scanned]) -> Generator[None]:
        thread = threading.Thread(target=self._scan_all, args=(first, items), name="scan")
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def _scan_all(self, first: Scanned | None, items: Iterator[Scanned]) -> None:
        try:
            if first is not None:
                self._note(first)
            for item in items:
                self._note(item)
                if self._runner.stopped:
                    return
            self._scan_whole = True
        except BaseException as error:
            self._scan_error = error
            self._runner.stop()
        finally:
            self._scan_s = time.monotonic() - self._started
            self._scan_done.set()

    @contextmanager
    def _time_limit(self) -> Generator[None]:
        if self._options.max_minutes is None:
            yield
            return
        timer = threading.Timer(self._options.max_minutes * 60, self.stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _finished(self) -> bool:
        return self._scan_done.is_set() and not self._unfinished() and not self._unlocks()

    def _unlocks(self) -> bool:
        """Try files again that another worker, which has no password, found locked; tell whether there were such."""
        if not self._options.scan.retry_encrypted:
            return False
        asked = {*self._scanned, *self._within, *self._uploads} - self._attempted
        with self._database.read() as db:
            locked = [pk for pk in asked if files.exists(db, pk) and files.get(db, pk).error_code == "encrypted"]
        self._attempted.update(locked)
        return bool(locked) and self._runner.retry_here(locked)

    def _unfinished(self) -> int:
        """Return how many of the scanned files wait or are in other workers' hands."""
        with self._database.read() as db:
            return files.unfinished_of(db, self._project_pk, [*self._scanned, *self._within, *self._uploads])

    def _note(self, item: Scanned) -> None:
        if item.within:
            if item.pk is not None:
                self._within[item.pk] = item.failed_before
            return
        if item.uploaded:
            self._note_upload(item)
            return
        self._counts["discovered"] += 1
        self._fates[item.fate] += 1
        if item.pk is not None and item.fate in (Fate.QUEUED, Fate.DUPLICATE) and not self._options.dry_run:
            self._scanned[item.pk] = item
        else:
            self._tell(item, _OUTCOMES[item.fate], item.reason)
        self._progress.scanned(item)

    def _note_upload(self, item: Scanned) -> None:
        """Keep in mind an upload that is read anew: it is none of the files found in these folders."""
        if item.pk is None or item.fate is Fate.UNCHANGED:
            return
        if self._options.dry_run:
            self._counts["uploads"] += self._is_readable(item)
        self._uploads[item.pk] = item.failed_before
        self._progress.scanned(item)

    def _is_readable(self, upload: Scanned) -> bool:
        """Tell whether an upload can be read anew, or need not be: its bytes are there, or an equal serves it."""
        return upload.fate is Fate.DUPLICATE or os.path.exists(uploads.on_disk(self._path, upload.path))

    def _on_result(self, claim: Claim, result: Result) -> None:
        self._attempted.add(claim.pk)
        self._counts["chunks"] += result.chunks
        self._counts["attachments_left_out"] += result.left_out
        self._within.update(dict.fromkeys(result.parts, False))
        self._progress.finished(claim, result)

    # --- after the queue --------------------------------------------------------------------------

    def _prune(self) -> None:
        # What an unfinished walk has not met may still be there.
        if not self._scan_whole:
            return
        if self._options.prune:
            self._remove_lost()
        self._counts["gone"] = prune.still_held(self._database, self._project_pk, self._scan)

    def _remove_lost(self) -> None:
        lost, refusals = prune.judge(self._database, self._project_pk, self._scan.walk, force=self._options.force)
        # In front, as people are shown the first failures alone.
        self._failures[:0] = [Failure(shown(refusal.root), refusal.reason) for refusal in refusals]
        self._counts["removed"] = prune.remove(self._database, lost)

    def _count(self) -> None:
        """Count what became of the files that were queued, by what the database says of them now."""
        with self._database.read() as db:
            for pk, item in self._scanned.items():
                if not files.exists(db, pk):
                    self._tell(item, "vanished")
                    self._counts["discovered"] -= 1
                    continue
                file = files.get(db, pk)
                if item.failed_before:
                    self._note_locked(file)
                self._tell(item, _outcome(item, file.status), file.error_message or "")
            for pk, failed_before in self._within.items():
                self._count_apart(db, pk, "attachments", failed_before)
            for pk, failed_before in self._uploads.items():
                self._count_apart(db, pk, "uploads", failed_before)

    def _count_apart(self, db: Connection, pk: int, what: str, failed_before: bool) -> None:
        """Count a file that no walk meets, under a name of its own."""
        if not files.exists(db, pk):
            return
        file = files.get(db, pk)
        outcome = {Status.READY: what, Status.FAILED: f"{what}_failed"}.get(file.status, "pending")
        if file.status is Status.FAILED and failed_before:
            self._note_locked(file)
            return
        if file.status is Status.FAILED:
            self._failures.append(Failure(file.path, file.error_message or ""))
        self._counts[outcome] += 1
        if self._options.report is not None:
            self._lines.append({"path": file.path, "outcome": file.status.value, "reason": file.error_message or ""})

    def _note_locked(self, file: File) -> None:
        if self._options.scan.retry_encrypted and file.error_code == "encrypted":
            self._locked.append(Failure(file.path, file.error_message or ""))

    def _tell(self, item: Scanned, outcome: str, reason: str = "") -> None:
        path = shown(item.path)
        self._counts[outcome] += 1
        if item.moved_from is not None:
            self._counts["moved"] += 1
            reason = f"was {shown(item.moved_from)}"
        if item.fate in (Fate.UNCHANGED, Fate.MOVED) and item.pk in self._failed_before:
            reason = "; ".join(filter(None, (reason, self._failed_before[item.pk])))
        if outcome == "ingested":
            self._counts["bytes"] += item.size
            self._counts["outdated"] += item.outdated
        if outcome == "failed":
            self._failures.append(Failure(path, reason))
        if outcome == "skipped" and len(self._passed_over) < NAMED:
            self._passed_over.append(PassedOver(path, reason))
        if self._options.report is not None:
            self._lines.append({"path": path, "outcome": outcome, "reason": reason})

    def _report(self, seconds: float) -> Report:
        counted = (
            "discovered",
            "ingested",
            "unchanged",
            "duplicates",
            "removed",
            "skipped",
            "failed",
            "chunks",
            "bytes",
            "outdated",
            "moved",
            "attachments",
            "attachments_failed",
            "attachments_left_out",
            "gone",
            "uploads",
            "uploads_failed",
        )
        return Report(
            project=self._project,
            **{name: self._counts[name] for name in counted},
            seconds=round(seconds, 3),
            failures=tuple(self._failures),
            stages=self._stages(),
            slowest=tuple(Slow(shown(path), round(took, 3)) for took, path in self._runner.timings.slowest),
            passed_over=tuple(self._passed_over),
            locked=tuple(self._locked),
            unreadable_folders=tuple(Failure(shown(each.path), each.error) for each in self._scan.walk.unreadable),
        )

    def _stages(self) -> Stages:
        spent = self._runner.timings
        seconds = (round(each, 3) for each in (self._scan_s, spent.parse_s, spent.embed_s, spent.write_s))
        return Stages(*seconds, embedded=spent.embedded, reused=spent.reused)

    def _write_report(self) -> None:
        if self._options.report is None:
            return
        with replacing(self._options.report, self._path) as stream:
            stream.writelines(f"{json.dumps(line, ensure_ascii=False)}\n".encode() for line in self._lines)


def figures_of(spent: Timings) -> Figures:
    """Return what a runner did, as it is kept of a run."""
    return Figures(
        ready=spent.ready,
        failed=spent.failed,
        parsed=spent.parsed_files,
        bytes=spent.parsed_bytes,
        embedded=spent.embedded,
        reused=spent.reused,
        chunks=spent.chunks,
        parse_s=round(spent.parse_s, 3),
        embed_s=round(spent.embed_s, 3),
        write_s=round(spent.write_s, 3),
    )


def _outcome(item: Scanned, status: Status) -> str:
    """Name what became of a scanned file. A copy shares the fate of its equal, and counts as a copy."""
    if status in (Status.PENDING, Status.PROCESSING):
        return "pending"
    if status is Status.FAILED and item.failed_before:
        return "unchanged"
    if item.fate is Fate.DUPLICATE:
        return "duplicates"
    return "failed" if status is Status.FAILED else "ingested"


_OUTCOMES = {
    Fate.UNCHANGED: "unchanged",
    Fate.MOVED: "unchanged",
    Fate.DUPLICATE: "duplicates",
    Fate.QUEUED: "ingested",
    Fate.SKIPPED: "skipped",
    Fate.FAILED: "failed",
}
