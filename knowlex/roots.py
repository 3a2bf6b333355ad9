"""What callers of the server may have taken from its own disk: what lies in `ingest_roots`, and nothing else.

An answer must tell nothing of the rest: what is out there and what is not are refused alike, before anybody looks.
Within a root no link is followed, so that none leads out, whenever it is put there (pipeline.discover).
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.discover import starts
from pipeline.regular_file import REFUSES_LINKS
from storage.errors import ConfigurationError, ForbiddenError, TransientError, UsageError
from storage.fields import kind_of
from storage.paths import given_path

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from knowlex.ingestion import Ingestion
    from storage.projects import Project
    from workers.scan import Fate

AT_ONCE = 2
"""Callers who have folders looked through at a time: it may take long, and others want to be served."""

_LOOKING = threading.BoundedSemaphore(AT_ONCE)

SHOWN = 200
"""Characters of a path that its error shows."""


def confined(kb: Knowlex, project: str, paths: Sequence[str], **options: Any) -> tuple[Ingestion, list[Path]]:
    """Return a run of `ingest` that touches nothing outside `ingest_roots`, and the paths to run it with.

    paths: as a remote caller gave them. options: those of `Knowlex.ingest`. To be used as
    `with run: report = run.run(*paths)`.
    Raises ForbiddenError, NotFoundError, UsageError, ConfigurationError; see `permitted`.
    """
    roots = real_roots(kb.configuration.ingest_roots)
    chosen = [permitted(path, kb.configuration.ingest_roots) for path in paths]
    return kb.batch(project, within=roots, **options), chosen


def queue(
    kb: Knowlex, project: Project, paths: Sequence[str], *, stopped: Callable[[], bool] = lambda: False
) -> Counter[Fate]:
    """Put files and folders of `ingest_roots` into the queue, where workers find them; return how many had which fate.

    paths: as a remote caller gave them. Files that are known already, with the same bytes, stay as they are; one that
    cannot be read is recorded as failed. stopped: whether to end early; what was met is in the queue then.
    Raises what `confined` does, NotFoundError where the project is deleted, and TransientError where `AT_ONCE` callers
    have folders looked through already, or where it ended early.
    """
    from workers.scan import Scan, ScanOptions

    roots = real_roots(kb.configuration.ingest_roots)
    chosen = [permitted(path, kb.configuration.ingest_roots) for path in paths]
    database, job = kb.database, kb.engine.job()
    with database.read() as db:
        settings = kb.engine.settings_of(db, project.pk)
        versions = job.recipe(db, project.pk).versions
    options = ScanOptions(
        include=settings.include,
        exclude=settings.exclude,
        hidden=settings.hidden,
        max_file_bytes=settings.max_file_mb * 2**20,
        within=tuple(os.fsencode(root) for root in roots),
    )
    if not _LOOKING.acquire(blocking=False):
        raise TransientError("ingest: other folders are being looked through; ask again when they are done")
    try:
        scan = Scan(database, project.pk, versions, options).run(chosen, stopped)
        fates = Counter(scanned.fate for scanned in scan)
    finally:
        _LOOKING.release()
    if stopped():
        raise TransientError("ingest: the server ends; ask again, it goes on from there")
    return fates


def permitted(path: str, roots: Sequence[str]) -> Path:
    """Return the real path of a file or folder that a remote caller may have taken in.

    path: in full, without `..`. roots: the setting `ingest_roots`.
    Raises ForbiddenError for what lies in none of them, whether it is there or not; NotFoundError for what would lie
    in one and is not there, or only by way of a link; UsageError for what is no path; ConfigurationError on systems
    that cannot keep links from being followed.
    """
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # JSON from outside
        raise UsageError(f"path: is {kind_of(path)}; give a text")
    if not roots:
        raise ForbiddenError(
            f"path {_shown(path)}: this server takes no files from its own disk; send them, or ask its owner to name"
            " folders in the setting ingest_roots"
        )
    if not REFUSES_LINKS:
        raise ConfigurationError("ingest_roots: cannot be kept safe on this system; leave it empty, and send the files")
    real = _below(path, roots)
    if real is None:
        raise ForbiddenError(
            f"path {_shown(path)}: not in a folder that this server may take files from; give the full path of a file"
            " or folder in one, without '..', or ask the server's owner"
        )
    starts([real], [os.fsencode(root) for root in real_roots(roots)])
    return real


def real_roots(roots: Sequence[str]) -> tuple[Path, ...]:
    """Return the folders of the setting `ingest_roots` by their real paths; raises ConfigurationError.

    Links in these, and in the folders above them, are their owner's.
    """
    return tuple(Path(os.path.realpath(_root(root))) for root in roots)


def _root(root: str) -> Path:
    if "\0" in root or not (folder := given_path(root, "ingest_roots")).is_absolute():
        raise ConfigurationError(f"ingest_roots: {root!r} is no full path; give one that begins with /")
    return folder


def _below(path: str, roots: Sequence[str]) -> Path | None:
    """Return the real path of what a path names in a root, told by its text alone; None where it names none."""
    place = Path(path)
    if "\0" in path or ".." in place.parts or not _has_bytes(path):
        return None
    for root, real in zip(roots, real_roots(roots), strict=True):
        for top in (real, _root(root)):
            if place.is_relative_to(top):
                return real / place.relative_to(top)
    return None


def _has_bytes(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half a character
        return False
    return True


def _shown(path: str) -> str:
    return repr(path if len(path) <= SHOWN else f"{path[:SHOWN]}…")
