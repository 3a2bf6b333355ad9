"""Forget files that are gone from disk, but never on thin evidence.

A folder that is missing or cannot be read looks like one whose files were all deleted. So nothing is
removed when that may be the case, and a large loss needs to be confirmed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from storage import files, parts
from storage.database import Database
from storage.files import File
from storage.trial import Trial
from workers.scan import Walk

LARGE_SHARE = 0.2


def gone(database: Database | Trial, project_pk: int, walk: Walk) -> list[File]:
    """Return the files of a project below the walked folders that are no longer on disk.

    What lies within files goes with them.
    """
    with database.read() as db:
        return [
            file
            for file in files.every(db, project_pk)
            if not parts.is_part(file.path_bytes)
            and any(_below(file.path_bytes, root) for root in walk.roots)
            and not os.path.lexists(file.path_bytes)
        ]


def refusal(walk: Walk, lost: Sequence[File], total: int, *, force: bool) -> str | None:
    """Return why nothing may be pruned, with the remedy, or None when it may."""
    if walk.unreadable:
        place = os.fsdecode(walk.unreadable[0].path)
        return f"nothing pruned: {place} cannot be read, so its files may still be there; mend its rights"
    if missing := [root for root in walk.roots if not os.path.lexists(root)]:
        return f"nothing pruned: {os.fsdecode(missing[0])} is missing; mount or restore it"
    if len(lost) > LARGE_SHARE * total and not force:
        return f"nothing pruned: {len(lost)} of {total} files are gone; if that is meant, run again with --force"
    return None


def remove(database: Database | Trial, lost: Sequence[File]) -> int:
    """Delete the rows of `lost` and return how many went; each is one transaction."""
    removed = 0
    for file in lost:
        with database.write() as db:
            if files.exists(db, file.pk):
                files.delete(db, files.get(db, file.pk))
                removed += 1
    return removed


def _below(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")
