"""Files that come in a multipart body: written to the disk as they come, then registered, all of them or none.

A body is never held in memory. Each file goes to a scratch file in the folder of uploads (storage.uploads), is hashed
on the way and synced at its end; what a broken connection or a killed server leaves is no upload.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from anyio import CancelScope, CapacityLimiter
from anyio.to_thread import run_sync
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from knowlex.facade import Knowlex
from pipeline.detect import HEAD_BYTES, Detection, detect
from storage import files, projects, scratch, uploads
from storage.errors import UsageError
from storage.files import Seen
from storage.fingerprint import Fingerprint
from storage.projects import Project

MAX_FILES = 100
"""Files of one request."""

NAME_BYTES = 255

UNNAMED = "upload"

FIELDS = ("file", "files")
"""Names of the parts that hold files."""

_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
_CONTROLS = ("Cc", "Cf", "Zl", "Zp")
"""Unicode's categories of what is not shown, turns the direction of writing or breaks a line."""


@dataclass(slots=True)
class Received:
    """A file on its way in: what its sender calls it, where it is written, and what is known of its bytes so far."""

    name: str
    unfinished: Path
    stream: BinaryIO
    size: int = 0
    head: bytes = b""
    sha256: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> None:
        """Write what comes next."""
        if len(self.head) < HEAD_BYTES:
            self.head += data[: HEAD_BYTES - len(self.head)]
        self.size += len(data)
        self.sha256.update(data)
        with scratch.writing(self.unfinished):
            self.stream.write(data)

    def finish(self) -> None:
        """Have all of it on the disk."""
        with scratch.writing(self.unfinished):
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()

    def detected(self) -> Detection:
        """Tell what it is."""
        return detect(self.head, self.name)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not taken, as there is no reader for it, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the files of a request: the ids of those that wait to be read, and those that are not taken."""

    ids: tuple[str, ...]
    skipped: tuple[Skipped, ...]


async def receive(
    kb: Knowlex, project: Project, content_type: str, body: AsyncIterator[bytes], writing: CapacityLimiter
) -> Taken:
    """Take in the files of a multipart body, and register them in a project, where workers find them.

    writing: the turns of those that may wait for the write lock.
    Raises UsageError for a body that is no such one, HTTPException (413) for a file that is too large, NotFoundError
    where the project was deleted meanwhile, ConfigurationError without a model, DiskFullError, DatabaseError: nothing
    is taken then.
    """
    boundary = _boundary(content_type)
    unfinished = ExitStack()
    try:
        receiver = await run_sync(lambda: _Receiver(kb, boundary, unfinished))
        async for data in body:
            await run_sync(receiver.feed, data)
        return await run_sync(lambda: _register(kb, project, receiver.finished()), limiter=writing)
    finally:
        with CancelScope(shield=True):  # to delete what is large takes its time, which is not that of all others
            await run_sync(unfinished.close)


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UsageError("the body: is no multipart/form-data with a boundary; send the files as a form does")
    return boundary


class _Receiver:
    """Takes a multipart body apart."""

    def __init__(self, kb: Knowlex, boundary: bytes, unfinished: ExitStack) -> None:
        self._database = kb.database.path
        self._folder = uploads.made_folder(self._database)
        self._max_bytes = kb.configuration.max_upload_mb * 2**20
        self._unfinished = unfinished
        self._received: list[Received] = []
        self._ended = False
        self._header = bytearray(), bytearray()
        self._disposition = b""
        with _readable():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._header_ended,
                    "on_headers_finished": self._begin,
                    "on_part_data": lambda data, start, end: self._write(data[start:end]),
                    "on_part_end": lambda: self._received[-1].finish(),
                    "on_end": self._end,
                },
            )

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        with _readable():
            self._parser.write(data)

    def finished(self) -> list[Received]:
        """Return the files, once the body is at its end."""
        if not self._ended:
            raise UsageError("the body: ends before its last boundary; send it again")
        if not self._received:
            raise UsageError(f"the body: holds no file; send each as a part named {FIELDS[0]}")
        return self._received

    def _end(self) -> None:
        self._ended = True

    def _header_ended(self) -> None:
        name, value = self._header
        if bytes(name.lower()) == b"content-disposition":
            self._disposition = bytes(value)
        self._header = bytearray(), bytearray()

    def _begin(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        part = options.get(b"name", b"").decode("utf8", "replace")
        if part not in FIELDS:
            raise UsageError(f"part {part!r}: is unknown; send each file as a part named {FIELDS[0]}")
        if len(self._received) == MAX_FILES:
            raise HTTPException(413, f"the request has more than {MAX_FILES} files; send them in several requests")
        path = self._unfinished.enter_context(scratch.beside(self._folder / UNNAMED, self._database))
        stream = self._unfinished.enter_context(path.open("wb"))
        name = client_name(options.get(b"filename", b"").decode("utf8", "replace"))
        self._received.append(Received(name, path, stream))

    def _write(self, data: bytes) -> None:
        file = self._received[-1]
        if file.size + len(data) > self._max_bytes:
            limit = self._max_bytes // 2**20
            raise HTTPException(413, f"{file.name}: is larger than {limit} MB; split it, or have max_upload_mb raised")
        file.write(data)


@contextmanager
def _readable() -> Generator[None]:
    try:
        yield
    except FormParserError as error:
        raise UsageError(f"the body: is no multipart/form-data as it should be ({error}); send it again") from error


def _register(kb: Knowlex, project: Project, received: Sequence[Received]) -> Taken:
    """Give the files their places and rows, in one transaction."""
    kinds = [(file, file.detected()) for file in received]
    job, database, ids = kb.engine.job(), kb.database, list[str]()
    with database.write() as db:
        pk = projects.get(db, project.id).pk
        versions = job.recipe(db, pk).versions
        for file, kind in kinds:
            if kind.kind is not None:
                path = uploads.new_path(file.name)
                uploads.keep(database.path, file.unfinished, path)
                seen = Seen(path, Fingerprint(file.size, 0, 0, 0), file.sha256.hexdigest(), kind.mime_type)
                ids.append(files.get(db, files.register(db, pk, seen, versions, scanned_ns=0)[0]).id)
        uploads.sync(database.path)
    skipped = (Skipped(file.name, kind.reason) for file, kind in kinds if kind.kind is None)
    return Taken(tuple(ids), tuple(skipped))


def client_name(given: str) -> str:
    """Return a base name that is safe to show and to keep, of what a client calls a file.

    Folders before it go, as do characters that cannot be seen; what Windows takes for a device gets an underscore in
    front, and of more than 255 bytes the end of the stem goes. Without anything left, it is `upload`.
    """
    seen = "".join(character for character in given if unicodedata.category(character) not in _CONTROLS)
    name = seen.replace("\\", "/").rpartition("/")[2].strip().rstrip(". ")
    stem, extension = os.path.splitext(name)
    if stem.lower() in _DEVICES:
        stem = f"_{stem}"
    if len(extension.encode()) > NAME_BYTES // 2:
        stem, extension = stem + extension, ""
    room = NAME_BYTES - len(extension.encode())
    return stem.encode()[:room].decode("utf8", "ignore") + extension or UNNAMED
