"""One file, from disk to searchable.

    parsed = parse(path)                  in a child process: read, hash, extract, cut (pipeline.parse)
    have   = stored_vectors(inputs)       texts whose vector some chunk of the database has already
    new    = encode(embed(the others))    the model's work
    commit(database, claim, ...)          one transaction: old out, chunks, text, vectors, ready

The runner (workers.runner) takes these steps, and overlaps them across files. Nothing slow happens inside the
transaction, and it is fenced by the claim.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline.chunk import embedding_input
from pipeline.parse import Parsed
from storage import changes, chunks, files, parts, queue, uploads, vectors
from storage.chunks import NewChunk
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConstraintError, KnowlexError, PermanentError, TransientError, UsageError
from storage.event_log import EventLog, code_of
from storage.files import File, Ready, Registered, Seen, Versions
from storage.fingerprint import Fingerprint
from storage.ids import now_ms
from storage.queue import Claim
from storage.sources import Source
from storage.vectors import Model, Vector

log = EventLog("knowlex.ingest")

MAX_ATTEMPTS = 3
RETRY_FIRST_MS = 500

NO_TEXT = frozenset({"empty", "no_text", "unsupported"})
"""Codes of files without text: what an earlier version said is said no longer."""


class Outcome(StrEnum):
    """What became of a claimed file."""

    READY = "ready"
    FAILED = "failed"
    LATER = "later"
    CHANGED = "changed"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a claimed file, and how many chunks were written for it.

    error, error_code: why an attempt failed. parts: keys of the files within it that wait to be read now. left_out: how
    many files within it, beyond what one file may hold, are not.
    """

    outcome: Outcome
    chunks: int = 0
    error: str | None = None
    parts: tuple[int, ...] = ()
    error_code: str | None = None
    left_out: int = 0


def model_inputs(parsed: Parsed) -> dict[bytes, str]:
    """Return what the model is to see of a file, each distinct text once, by its hash."""
    texts = (embedding_input(chunk.heading, chunk.text) for chunk in parsed.chunks)
    return {vectors.input_hash(text): text for text in texts}


def added_inputs(database: Database, claim: Claim, model: Model) -> dict[bytes, str]:
    """Return what the model is to see of chunks that were added to a file and have no vector of it, by hash."""
    with database.read() as db:
        return {digest: text for _, digest, text in _added(db, claim, model)}


def _added(db: Connection, claim: Claim, model: Model) -> list[tuple[int, bytes, str]]:
    texts = (
        (each.pk, embedding_input(each.heading, each.content)) for each in chunks.unembedded(db, claim.pk, model.pk)
    )
    return [(pk, vectors.input_hash(text), text) for pk, text in texts]


def stored_vectors(database: Database, model: Model, inputs: Mapping[bytes, str]) -> dict[bytes, Vector]:
    """Return the vectors that the database holds already for some of the inputs: no text is embedded twice."""
    with database.read() as db:
        return vectors.known(db, model.pk, list(inputs))


def commit(
    database: Database,
    claim: Claim,
    parsed: Parsed,
    found: Mapping[bytes, Vector],
    *,
    model: Model,
    versions: Versions,
) -> Result:
    """Make a parsed and embedded file searchable in one transaction.

    found: the vector of every model input of the file and of the chunks added to it, by hash.
    Raises LeaseLostError when the claim no longer stands, ModelSwitchedError when another model is live; then
    nothing was written. A file that was edited since it was discovered is made searchable as it was parsed, unless an
    equal file serves or reads these bytes: a log that grows all the time would else be read for ever, and never be
    found. One that no table takes fails alone; that is a fault in Knowlex, and is logged as one.
    """
    try:
        return _commit(database, claim, parsed, found, model, versions)
    except (ConstraintError, UsageError) as error:
        log.error("file not stored", file=claim.id, error_code=code_of(error), cause=type(error.__cause__).__name__)
        return record_failure(database, claim, _not_stored(error), versions)


def _not_stored(error: ConstraintError | UsageError) -> TransientError:
    return TransientError(
        f"cannot be stored ({error.__cause__ or error}): a fault in Knowlex; report it with this line",
        code="not_stored",
    )


def _commit(
    database: Database, claim: Claim, parsed: Parsed, found: Mapping[bytes, Vector], model: Model, versions: Versions
) -> Result:
    new = _new_chunks(parsed, found)
    with database.write() as db:
        queue.require_lease(db, claim)
        vectors.require_live(db, model.pk)
        if parsed.content_hash != claim.content_hash and not _register_anew(db, claim, parsed, versions):
            return Result(Outcome.CHANGED)
        files.make_room(db, files.get(db, claim.pk), parsed.content_hash)
        written = chunks.replace(db, claim.project_pk, claim.pk, model.pk, new)
        added = [(pk, digest, found[digest]) for pk, digest, _ in _added(db, claim, model) if digest in found]
        vectors.put(db, model.pk, claim.project_pk, Source.FILE, added)
        files.mark_ready(db, claim.pk, _ready(parsed, versions))
        inner = files.replace_within(db, files.get(db, claim.pk), _parts(claim, parsed), versions)
        changes.bump(db, claim.project_pk)
    left_out = parsed.metadata.get("attachments_left_out", 0)
    return Result(Outcome.READY, chunks=written, parts=tuple(inner), left_out=left_out)


def _parts(claim: Claim, parsed: Parsed) -> list[Seen]:
    """The files within a file, as if found on disk; their time stamps are never compared."""
    return [
        Seen(parts.path_in(claim.path, part.name), Fingerprint(part.size, 0, 0, 0), part.content_hash, part.mime_type)
        for part in parsed.parts
    ]


def _new_chunks(parsed: Parsed, found: Mapping[bytes, Vector]) -> list[NewChunk]:
    return [
        NewChunk(
            content=chunk.text,
            token_count=chunk.token_count,
            char_start=chunk.char_start,
            char_end=chunk.char_end,
            page_start=chunk.page_start,
            page_end=chunk.page_end,
            heading=chunk.heading,
            tokens=tokens,
            input_hash=digest,
            vector=found[digest],
            repeated=chunk.repeated,
        )
        for chunk, tokens, digest in zip(parsed.chunks, parsed.tokens, _hashes(parsed), strict=True)
    ]


def _hashes(parsed: Parsed) -> list[bytes]:
    return [vectors.input_hash(embedding_input(chunk.heading, chunk.text)) for chunk in parsed.chunks]


def _ready(parsed: Parsed, versions: Versions) -> Ready:
    return Ready(
        content_hash=parsed.content_hash,
        chunk_count=len(parsed.chunks),
        page_count=parsed.page_count,
        parser=parsed.parser,
        settings_fingerprint=versions.settings,
        metadata=parsed.metadata,
    )


def _register_anew(db: Connection, claim: Claim, parsed: Parsed, versions: Versions) -> bool:
    """Record the bytes that a file edited since its discovery was parsed with; tell whether it serves them itself.

    Its time stamps are not kept, so that the next scan reads it again.
    """
    seen = Seen(claim.path, parsed.fingerprint, parsed.content_hash, parsed.mime_type)
    return files.register(db, claim.project_pk, seen, versions, scanned_ns=0)[1] is Registered.QUEUED


def record_failure(
    database: Database,
    claim: Claim,
    error: KnowlexError | OSError,
    versions: Versions | None,
    *,
    rng: Callable[[], float] = random.random,
) -> Result:
    """Record that an attempt failed: for good, or to be tried again after a while.

    What lies in the bytes (PermanentError) fails at once; an attempt that killed its parser or found
    the file changing is tried `MAX_ATTEMPTS` times; a file that cannot be opened fails by its name alone,
    and equal files go on without it. One that went before anything was read of it is forgotten; one that was emptied
    is no longer found by what it said. error: an OSError is one of the file itself, never of the machine that was to
    read it. versions: None where nothing could read it, so that the next run tries again.
    """
    if isinstance(error, FileNotFoundError) and uploads.is_upload(claim.path):
        error = PermanentError("its bytes are no longer there: delete it, and upload it again", code="unreadable")
    message = describe(error)
    code = error.code if isinstance(error, KnowlexError) else "unreadable"
    with database.write() as db:
        queue.require_lease(db, claim)
        if _vanished(files.get(db, claim.pk), error):
            files.delete(db, files.get(db, claim.pk))
            return Result(Outcome.VANISHED, error=message, error_code=code)
        if isinstance(error, OSError):
            files.mark_unreadable(db, claim.pk, code=code, message=message)
        elif isinstance(error, TransientError) and claim.attempts + 1 < MAX_ATTEMPTS:
            wait_ms = int(RETRY_FIRST_MS * 2**claim.attempts * (0.5 + rng()))
            queue.try_later(db, claim, now_ms=now_ms(), wait_ms=wait_ms, code=code, message=message)
            return Result(Outcome.LATER, error=message, error_code=code)
        elif code in NO_TEXT:
            files.mark_empty(db, claim.pk, code=code, message=message, versions=versions)
        else:
            files.mark_failed(db, claim.pk, code=code, message=message, versions=versions)
    return Result(Outcome.FAILED, error=message, error_code=code)


def _vanished(file: File, error: KnowlexError | OSError) -> bool:
    """Tell whether a scan met a file that was gone before anything was read of it.

    What lies within files is looked for again with them only, and who noted a path (repair) is to see that it is gone.
    """
    is_gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
    is_met = file.content_hash is not None and not parts.is_part(file.path_bytes)
    return is_gone and is_met and not files.was_read(file)


def describe(error: KnowlexError | OSError) -> str:
    """Return one line for the user: the cause and the remedy."""
    if isinstance(error, KnowlexError):
        return error.message
    match error:
        case FileNotFoundError():
            return "no longer there: put it back, or forget it with ingest --prune"
        case PermissionError():
            return "may not be read: give this user the right to read it"
        case _:
            return f"cannot be read ({error.strerror or type(error).__name__}): check the disk it lies on"
