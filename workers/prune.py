"""Forget files that are gone from disk, but never on thin evidence.

A folder that is missing or cannot be read looks like one whose files were all deleted, and so does the empty folder
that a disk was mounted on. So nothing is removed when that may be the case, and a large loss needs to be confirmed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.discover import is_gone
from storage import files, parts
from storage.database import Database
from storage.files import File
from storage.trial import Trial
from workers.scan import Scan, Walk, surely_gone

LARGE_SHARE = 0.2
"""Of the files on disk below one of the folders. What lies within files is not counted: it goes with them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A folder of which nothing may be forgotten, and why, with the remedy."""

    root: bytes
    reason: str


def judge(
    database: Database | Trial, project_pk: int, walk: Walk, *, force: bool
) -> tuple[list[File], tuple[Refusal, ...]]:
    """Return the files below the walked folders that may be forgotten, and the folders of which none may.

    A file below two of them goes only where both let it.
    """
    if reason := _unseen(walk):
        return [], (Refusal(walk.roots[0], reason),)
    roots = tuple(dict.fromkeys(walk.roots))
    look = _look(database, project_pk, roots)
    refusals = {root: reason for root in roots if (reason := look.refusal(root, force=force))}
    lost = [file for file, roots in look.gone if refusals.keys().isdisjoint(roots)]
    return lost, tuple(Refusal(root, reason) for root, reason in refusals.items())


def still_held(database: Database | Trial, project_pk: int, scan: Scan) -> int:
    """Return how many files below the walked folders are gone from disk and have their rows all the same.

    Only what the walk did not meet is looked for; what nobody can look for may still be there.
    """
    unmet = [path for path in scan.unmet if any(_below(path, root) for root in scan.walk.roots) and surely_gone(path)]
    with database.read() as db:
        return sum(files.by_path(db, project_pk, path) is not None for path in unmet)


def remove(database: Database | Trial, lost: Sequence[File]) -> int:
    """Delete the rows of `lost` and return how many went; each is one transaction.

    Copies go first: with an owner that went before them each would inherit its passages, and all the others follow it.
    """
    removed = 0
    for file in sorted(lost, key=lambda file: file.duplicate_of is None):
        with database.write() as db:
            if files.exists(db, file.pk):
                files.delete(db, files.get(db, file.pk))
                removed += 1
    return removed


def _unseen(walk: Walk) -> str | None:
    """Return why nobody can tell what is gone, or None."""
    if walk.unreadable:
        place = os.fsdecode(walk.unreadable[0].path)
        return f"nothing pruned: {place} cannot be read, so its files may still be there; mend its rights"
    if missing := [root for root in walk.roots if not os.path.lexists(root)]:
        return f"nothing pruned: {os.fsdecode(missing[0])} is missing; mount or restore it"
    return None


@dataclass(frozen=True, slots=True)
class _Look:
    """What is known below each folder, what of it is gone, and where the disk would not say."""

    held: Counter[bytes]
    gone: list[tuple[File, list[bytes]]]
    hidden: dict[bytes, tuple[bytes, OSError]]

    def refusal(self, root: bytes, *, force: bool) -> str | None:
        if root in self.hidden:
            path, error = self.hidden[root]
            return (
                f"nothing pruned: {os.fsdecode(path)} cannot be looked for ({error.strerror}), so it may still be"
                " there; mend the rights of its folder, or the disk"
            )
        lost, held = sum(root in roots for _, roots in self.gone), self.held[root]
        if lost > LARGE_SHARE * held and not force:
            return f"nothing pruned: {lost} of its {held} files are gone; if that is meant, run again with --force"
        return None


def _look(database: Database | Trial, project_pk: int, roots: Sequence[bytes]) -> _Look:
    look, real = _Look(Counter(), [], {}), dict[bytes, bool]()
    with database.read() as db:
        for file in files.every(db, project_pk):
            above = [root for root in roots if _below(file.path_bytes, root)]
            if not above or parts.is_part(file.path_bytes):
                continue
            look.held.update(above)
            try:
                if is_gone(file.path_bytes, real):
                    look.gone.append((file, above))
            except OSError as error:
                look.hidden.update((root, (file.path_bytes, error)) for root in above)
    return look


def _below(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")
