"""From folders to the queue: what is on disk is compared with what is known, and recorded.

The comparison goes from cheap to dear: an equal stat fingerprint is believed; otherwise the bytes are
hashed, and only new bytes enter the queue. A new name of bytes whose old name is gone is that file, moved.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pipeline import ingest
from pipeline.detect import HEAD_BYTES, detect
from pipeline.discover import Passed, Unreadable, discover, is_gone, starts
from pipeline.regular_file import Found, hash_file, open_regular
from storage import files, parts, uploads
from storage.connection import Connection
from storage.database import Database
from storage.errors import KnowlexError, TransientError
from storage.files import File, Known, Registered, Seen, Status, Versions
from storage.fingerprint import Fingerprint
from storage.paths import own_files
from storage.trial import Trial

BATCH = 64
BATCH_S = 0.25


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What is taken from the folders. Patterns are those of .gitignore, relative to each root.

    set_aside: files that the run itself reads or writes: they are never taken. within: the real paths of folders
    outside of which nothing may be touched; None for no such bound.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    max_file_bytes: int = 200 * 2**20
    retry_encrypted: bool = False
    set_aside: tuple[Path, ...] = ()
    within: tuple[bytes, ...] | None = None


class Fate(StrEnum):
    """What a scan decided about a file."""

    UNCHANGED = "unchanged"
    MOVED = "moved"
    DUPLICATE = "duplicate"
    QUEUED = "queued"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Scanned:
    """One file of the tree: what was decided, and why where it is not taken."""

    path: bytes
    fate: Fate
    size: int = 0
    pk: int | None = None
    reason: str = ""
    failed_before: bool = False
    """It failed with these bytes in an earlier run, and is tried again because something else changed."""
    outdated: bool = False
    """Its bytes are as before; it is read anew because its reader, the chunking or the model's tokenizer changed."""
    moved_from: bytes | None = None
    """The name it had before, which is gone."""

    @property
    def within(self) -> bool:
        """Whether this is a file within a file, which a walk does not meet by itself."""
        return parts.is_part(self.path)

    @property
    def uploaded(self) -> bool:
        """Whether this came over the network, so that it lies in none of the folders."""
        return uploads.is_upload(self.path)


@dataclass(slots=True)
class Walk:
    """What a scan saw of the folders: enough for `prune` to know what is gone, and where nobody could look."""

    roots: list[bytes] = field(default_factory=list[bytes])
    unreadable: list[Unreadable] = field(default_factory=list[Unreadable])


class Scan:
    """Walks folders, records what is new in the queue, and yields the fate of every file.

    On a `Trial` nothing is kept, and the fates are those that a scan of the database would decide.
    """

    def __init__(self, database: Database | Trial, project_pk: int, versions: Versions, options: ScanOptions) -> None:
        self.walk = Walk()
        self._database = database
        self._project_pk = project_pk
        self._versions = versions
        self._options = options
        self._known: dict[bytes, Known] = {}
        self.unmet: set[bytes] = set()
        """The names that were known before, of which the walk, once it is whole, has met none or passed them over."""
        self._settled: set[bytes] = set()
        self._sizes: set[int] = set()
        self._equals = _Equals()
        self._passed_over: list[tuple[Found, str]] = []

    def run(self, roots: Sequence[Path], stopped: Callable[[], bool] = lambda: False) -> Iterator[Scanned]:
        """Yield the fate of every file below `roots`; raises NotFoundError when a root is missing.

        stopped: asked for each of them; what was met until it says so is recorded.
        """
        found = self._found(roots)
        with self._database.read() as db:
            self._known = files.known(db, self._project_pk)
        self.unmet = {path for path in self._known if not parts.is_part(path)}
        self._sizes = {known.size for known in self._known.values() if known.size is not None}
        waiting: list[_Candidate] = []
        since = time.monotonic()
        for item in found:
            if stopped():
                yield from self._record(waiting)
                return
            if not isinstance(item, Passed):  # which may be a link or a folder where a file was
                self.unmet.discard(item.path)
            match item:
                case Passed():
                    yield Scanned(item.path, Fate.SKIPPED, reason=item.reason)
                case Unreadable():
                    self.walk.unreadable.append(item)
                case Found():
                    look = self._look(item)
                    if isinstance(look, Scanned):
                        yield look
                    elif look is not None:
                        waiting.append(look)
            if len(waiting) >= BATCH or (waiting and time.monotonic() - since > BATCH_S):
                yield from self._record(waiting)
                waiting, since = [], time.monotonic()
        yield from self._record(waiting)
        yield from self._tell_passed_over()
        yield from self._revisit_within()

    def _found(self, roots: Sequence[Path]) -> Iterator[Found | Passed | Unreadable]:
        self.walk.roots = starts(roots, self._options.within)
        place = uploads.folder(self._database.path)
        inside = [root for root in self.walk.roots if root.startswith(os.path.join(os.fsencode(place), b""))]
        return discover(
            [Path(os.fsdecode(root)) for root in self.walk.roots],
            include=self._options.include,
            exclude=self._options.exclude,
            hidden=self._options.hidden,
            never_open=_identities(self._options.set_aside, "belongs to this run: its report, or its passwords")
            | _identities(own_files(self._database.path), "the database itself")
            | _identities([place, *(Path(os.fsdecode(root)) for root in inside)], "of the uploads of this database"),
            within=self._options.within,
        )

    def _revisit_within(self) -> Iterator[Scanned]:
        """Queue what lies within files that have not changed themselves, and uploads, where older versions read them.

        Those that changed name their parts when they are read.
        """
        within = [path for path in self._known if parts.is_part(path) or uploads.is_upload(path)]
        for path in [path for path in within if self._outdated(self._known[path])]:
            if parts.on_disk(path) in self._settled or uploads.is_upload(path):
                yield from self._redo(path)

    def _outdated(self, known: Known) -> bool:
        if known.status not in (Status.READY, Status.FAILED):
            return False
        return self._to_retry(known) or not self._versions.current(known.settings, known.parser)

    def _redo(self, path: bytes) -> Iterator[Scanned]:
        with self._database.write() as db:
            file = files.by_path(db, self._project_pk, path)
            if file is None:
                return
            failed = file.status is Status.FAILED
            fate, pk = Fate.QUEUED, file.pk
            if file.content_hash is not None:
                seen = Seen(path, Fingerprint(file.size or 0, 0, 0, 0), file.content_hash, file.mime_type)
                retry = self._to_retry(self._known[path])
                pk, registered = files.register(db, self._project_pk, seen, self._versions, scanned_ns=0, retry=retry)
                fate = _FATES[registered]
            elif self._is_back(path):
                files.retry(db, file, self._versions)
            else:
                return
        yield Scanned(path, fate, file.size or 0, pk, failed_before=failed)

    def _is_back(self, path: bytes) -> bool:
        """Tell whether the bytes that something lies in, which could not be read once, are there."""
        return os.path.exists(parts.on_disk(uploads.on_disk(self._database.path, path)))

    def _to_retry(self, known: Known | None) -> bool:
        """Tell whether a failed file is tried again though its bytes are as before: what held it up may be over."""
        code = known.error_code if known is not None else None
        return code == "changing" or (code == "encrypted" and self._options.retry_encrypted)

    def _look(self, item: Found) -> Scanned | _Candidate | None:
        """Decide about a file without the database where that is possible; otherwise read its bytes."""
        known = self._known.get(item.path)
        fingerprint = Fingerprint(item.size, item.mtime_ns, item.ctime_ns, item.inode)
        retry = self._to_retry(known)
        if known is not None and not retry and known.settled(fingerprint, self._versions):
            self._settled.add(item.path)
            return Scanned(item.path, Fate.UNCHANGED, item.size, known.pk)
        return self._read(item, fingerprint, retry)

    def _read(self, item: Found, fingerprint: Fingerprint, retry: bool) -> Scanned | _Candidate | None:
        started_ns = time.time_ns()
        try:
            detection = detect(_head(item), os.fsdecode(os.path.basename(item.path)))
            digest = ""
            if detection.kind is not None:
                digest, fingerprint = hash_file(item.path, self._options.max_file_bytes, expect=item)
        except (KnowlexError, OSError) as error:
            code = error.code if isinstance(error, KnowlexError) else "unreadable"
            return _Candidate(item, fingerprint, started_ns, error=(code, ingest.describe(error)))
        if detection.kind is None:
            self._skip(item, detection.reason)
            return None
        seen = Seen(item.path, fingerprint, digest, detection.mime_type)
        self._sizes.add(fingerprint.size)
        return _Candidate(item, fingerprint, started_ns, seen=seen, retry=retry)

    def _skip(self, item: Found, reason: str) -> None:
        """Pass a file over; what was indexed of an earlier, readable version of it goes."""
        if item.path in self._known:
            with self._database.write() as db:
                file = files.by_path(db, self._project_pk, item.path)
                if file is not None:  # another process may have removed it since the scan began
                    files.delete(db, file)
        self._passed_over.append((item, reason))

    def _tell_passed_over(self) -> Iterator[Scanned]:
        """Yield the files that no reader exists for, those that equal another one as copies.

        At the end, as a file that is read, under another extension, may come after its copy that is not.
        """
        twins = _Twins(self._options.max_file_bytes, self._sizes, self._is_read)
        for item, reason in self._passed_over:
            fate = Fate.DUPLICATE if twins.has(item) else Fate.SKIPPED
            yield Scanned(item.path, fate, item.size, reason=reason)

    def _is_read(self, content_hash: str) -> bool:
        """Tell whether a file of these bytes is read under another name."""
        with self._database.read() as db:
            return bool(files.same_bytes(db, self._project_pk, content_hash))

    def _record(self, candidates: Sequence[_Candidate]) -> Iterator[Scanned]:
        if not candidates:
            return
        with self._database.write() as db:
            recorded = [each.record(db, self._project_pk, self._versions, self._equals) for each in candidates]
        self._settled.update(scanned.path for scanned in recorded if scanned.fate is Fate.UNCHANGED)
        yield from recorded


class _Twins:
    """Tells copies among files that are passed over, of each other and of files that are read.

    Only what has the size of another one is ever read and hashed. sizes: of the files that are read; is_read: tells
    whether one of them has these bytes.
    """

    def __init__(self, max_bytes: int, sizes: Collection[int], is_read: Callable[[str], bool]) -> None:
        self._max_bytes = max_bytes
        self._sizes = sizes
        self._is_read = is_read
        self._first: dict[int, Found] = {}
        self._hashes: dict[int, set[str]] = {}

    def has(self, item: Found) -> bool:
        """Tell whether it has an equal that is read or was asked about before; False where it cannot be read."""
        if not 0 < item.size <= self._max_bytes:
            return False
        try:
            seen_before = self._seen_before(item)
            return seen_before or (item.size in self._sizes and self._is_read(self._hash(item)))
        except (TransientError, OSError):
            return False

    def _seen_before(self, item: Found) -> bool:
        first = self._first.setdefault(item.size, item)
        if first is item:
            return False
        if item.size not in self._hashes:
            self._hashes[item.size] = {self._hash(first)}
        digest = self._hash(item)
        known = digest in self._hashes[item.size]
        self._hashes[item.size].add(digest)
        return known

    def _hash(self, item: Found) -> str:
        return hash_file(item.path, self._max_bytes, expect=item)[0]


class _Equals:
    """Files of a project with the bytes of one that is new, by their hash.

    They are looked for once a scan, and of them only those are kept that are gone: of one licence there may be
    thousands of copies, each of which would else be looked for on disk again with every further one.
    """

    def __init__(self) -> None:
        self._names: dict[str, int] = {}  # how many there were
        self._gone: dict[str, list[File]] = {}

    def take_moved(self, db: Connection, project_pk: int, seen: Seen) -> File | None:
        """Return the file of these bytes whose name is gone from disk: what renaming leaves. None where there is none.

        Of several, the one with the same inode, else the oldest. None is given twice.
        """
        gone = self._looked_for(db, project_pk, seen.content_hash)
        while gone:
            found = gone.pop(
                next((place for place, file in enumerate(gone) if file.inode == seen.fingerprint.inode), 0)
            )
            now = files.by_path(db, project_pk, found.path_bytes)
            if now and now.content_hash == seen.content_hash and surely_gone(now.path_bytes):
                return now
        return None

    def _looked_for(self, db: Connection, project_pk: int, content_hash: str) -> list[File]:
        if content_hash in self._gone:
            return self._gone[content_hash]
        equal = files.same_bytes(db, project_pk, content_hash)
        if not equal:  # as of most files: nothing is kept of them
            return []
        self._names[content_hash] = len(equal)
        known = (file for file in equal if not uploads.is_upload(file.path_bytes))
        return self._gone.setdefault(content_hash, [file for file in known if surely_gone(file.path_bytes)])

    def has_other(self, content_hash: str, moved: File | None) -> bool:
        """Tell whether there were others than the one that moved, whatever became of them."""
        return self._names.get(content_hash, 0) > (moved is not None)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file whose bytes had to be looked at: their hash, or why they could not be read."""

    item: Found
    fingerprint: Fingerprint
    scanned_ns: int
    seen: Seen | None = None
    error: tuple[str, str] | None = None
    retry: bool = False

    def record(self, db: Connection, project_pk: int, versions: Versions, equals: _Equals) -> Scanned:
        if self.seen is None:
            code, message = self.error or ("unreadable", "cannot be read")
            pk, news = files.record_unreadable(
                db, project_pk, self.item.path, self.fingerprint, code=code, message=message
            )
            return self.failed(pk) if news else Scanned(self.item.path, Fate.UNCHANGED, self.item.size, pk)
        before = files.by_path(db, project_pk, self.item.path)
        moved = None if before else equals.take_moved(db, project_pk, self.seen)
        if moved is not None:
            files.move(db, moved, self.item.path)
        pk, registered = files.register(
            db, project_pk, self.seen, versions, scanned_ns=self.scanned_ns, retry=self.retry
        )
        failed = before is not None and before.status is Status.FAILED and before.content_hash == self.seen.content_hash
        if moved is not None and registered is Registered.UNCHANGED:
            return Scanned(self.item.path, Fate.MOVED, self.item.size, pk, moved_from=moved.path_bytes)
        if registered is Registered.QUEUED and before is None and equals.has_other(self.seen.content_hash, moved):
            # Its equal failed before this one came: the count must not depend on who is faster.
            registered = Registered.DUPLICATE
        outdated = registered is Registered.QUEUED and _same_bytes(before, self.seen)
        return Scanned(self.item.path, _FATES[registered], self.item.size, pk, failed_before=failed, outdated=outdated)

    def failed(self, pk: int) -> Scanned:
        return Scanned(self.item.path, Fate.FAILED, self.item.size, pk, reason=self.error[1] if self.error else "")


def _same_bytes(before: File | None, seen: Seen) -> bool:
    """Tell whether a file was ready with the bytes it has now."""
    return before is not None and before.status is Status.READY and before.content_hash == seen.content_hash


def surely_gone(path: bytes) -> bool:
    """Tell whether a name is gone from disk; one that nobody can look for may still be there."""
    try:
        return is_gone(path)
    except OSError:
        return False


_FATES = {
    Registered.UNCHANGED: Fate.UNCHANGED,
    Registered.DUPLICATE: Fate.DUPLICATE,
    Registered.QUEUED: Fate.QUEUED,
}


def _head(item: Found) -> bytes:
    with open_regular(item.path, expect=item) as descriptor:
        return os.read(descriptor, HEAD_BYTES)


def _identities(paths: Sequence[Path], reason: str) -> dict[tuple[int, int], str]:
    """Return why they are not taken, by device and inode, of those files that exist."""
    found: dict[tuple[int, int], str] = {}
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found[status.st_dev, status.st_ino] = reason
    return found
