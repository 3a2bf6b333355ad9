"""The streaming runner: claims files and overlaps parsing, embedding and writing across them.

    feed ──claims──> parser threads (one child each) ──parsed──> embedding ──embedded──> writer

The steps are those of pipeline.ingest. Embedding takes a window of chunks from many files at once,
sorted by token count; each file still commits alone. Both buffers are bounded in chunks. A heartbeat
thread keeps the leases; `stop` ends everything within seconds and gives the files back.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pipeline import ingest
from pipeline.embed import Embedder
from pipeline.encode import encode, require_sound
from pipeline.ingest import Outcome, Result
from pipeline.model_files import ModelFiles
from pipeline.parse import Parsed, ParseSettings
from storage import files, queue, uploads, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import (
    ConfigurationError,
    DamagedValueError,
    DatabaseError,
    KnowlexError,
    LeaseLostError,
    ModelSwitchedError,
    PermanentError,
    TransientError,
)
from storage.event_log import EventLog, code_of
from storage.files import Versions
from storage.ids import now_ms
from storage.parts import is_part
from storage.queue import Claim
from storage.vectors import Model, Vector
from workers import owner
from workers.buffer import Buffer
from workers.parser import SCARCE, Parser, ParserLimits, ParserStoppedError

LOG = EventLog("knowlex.run")

IDLE_WAIT_S = 0.1
RECLAIM_EVERY_S = 5.0

SHARES = 8
"""A worker takes an eighth of what is due at most, so that the last files of a queue are left to others, too."""

FEWEST_CLAIMS = 2
"""So that a worker of all projects takes of two of them where two have files: `health` tells it by that."""

SLOWEST = 5
"""How many of the slowest files are remembered."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """How much runs at once. Sizes in chunks, times in seconds.

    workers: parser processes. window: chunks embedded together, sorted by token count. slice: chunks
    embedded between two looks at `stop`.
    """

    workers: int = 2
    window: int = 512
    slice: int = 128
    claims: int = 16
    lease_s: float = 60.0
    heartbeat_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the files of a project are read and cut for a model, and the marks that this leaves on them."""

    parse: ParseSettings
    versions: Versions
    model: ModelFiles


@dataclass(frozen=True, slots=True)
class Job:
    """How files are processed: what reads, cuts and embeds them.

    recipe: gives that of a project as it is now, by its key (None: of one without settings of its own), for the model
    that is live now; raises ConfigurationError, DamagedValueError, ModelMismatchError where that model is not here.
    """

    recipe: Callable[[Connection, int | None], Recipe]
    limits: ParserLimits
    load_model: Callable[[], tuple[Embedder, Model]]


@dataclass(slots=True)
class Timings:
    """Seconds spent in each stage, summed over threads, and what passed through.

    parsed_files, parsed_bytes: those parsed, well or not, and the size of those on disk that were parsed well.
    embedded, reused: chunks that the model made vectors for, and those whose vector was there already.
    ready, failed: files that were finished; chunks: written for them.
    slowest: seconds and path of the files that took the longest to parse, the slowest first.
    """

    parse_s: float = 0.0
    embed_s: float = 0.0
    write_s: float = 0.0
    parsed_files: int = 0
    parsed_bytes: int = 0
    embedded: int = 0
    reused: int = 0
    ready: int = 0
    failed: int = 0
    chunks: int = 0
    slowest: list[tuple[float, bytes]] = field(default_factory=list[tuple[float, bytes]])
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def parsed(self, path: bytes, size: int, seconds: float) -> None:
        """Count the parsing of a file, well or not."""
        with self.lock:
            self.parsed_files += 1
            self.parsed_bytes += size
            self.parse_s += seconds
            self.slowest = sorted([*self.slowest, (seconds, path)], reverse=True)[:SLOWEST]

    def finished(self, result: Result) -> None:
        """Count what became of a file."""
        with self.lock:
            self.ready += result.outcome is Outcome.READY
            self.failed += result.outcome is Outcome.FAILED
            self.chunks += result.chunks


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of the chunks of some files, by the hash of the model input, and the model that made them."""

    model: Model
    vectors: dict[bytes, Vector]


class Runner:
    """Processes the queue of one project, or of all, until told that nothing is left to wait for."""

    def __init__(
        self,
        database: Database,
        job: Job,
        settings: RunnerSettings,
        *,
        project_pk: int | None = None,
        on_result: Callable[[Claim, Result], None] = lambda claim, result: None,
        log: EventLog = LOG,
    ) -> None:
        self.owner = owner.name()
        self.timings = Timings()
        self._log = log
        self._spent: dict[Claim, dict[str, float]] = {}  # of the claims in hand, the milliseconds of each stage
        self._database = database
        self._job = job
        self._settings = settings
        self._project_pk = project_pk
        self._on_result = on_result
        self._stop = threading.Event()
        self._fatal: BaseException | None = None
        self._claims: deque[Claim] = deque()
        self._claim_lock = threading.Lock()
        # Of the files in hand; where its project's cannot be used, the error that its files fail with.
        self._recipes: dict[Claim, Recipe | PermanentError] = {}
        self._parsers = [Parser(job.limits, log=log) for _ in range(settings.workers)]
        # No more than the next window: who waits behind it could have been embedded by another worker.
        self._parsed: Buffer[tuple[Claim, Parsed]] = Buffer(settings.window)
        self._embedded: Buffer[tuple[Claim, Parsed, Embedded]] = Buffer(2 * settings.window)
        self._reclaimed_at = 0.0

    def run(self, finished: Callable[[], bool]) -> None:
        """Process files until the queue is empty and `finished` says so, or `stop` is called.

        Raises what made going on impossible (DatabaseError, ConfigurationError); the files in hand
        are back in the queue then.
        """
        self._reclaim()
        with self._threads():
            while not self._stop.is_set():
                batch = self._parsed.take(weight=self._settings.window, wait_s=IDLE_WAIT_S)
                if batch:
                    self._embed(batch)
                elif self._idle() and finished():
                    break
                if time.monotonic() - self._reclaimed_at > RECLAIM_EVERY_S:
                    self._reclaim()
        if self._fatal is not None:
            raise self._fatal

    def stop(self) -> None:
        """End soon: parsers at once, embedding after its slice, what is embedded is still written."""
        self._stop.set()
        for parser in self._parsers:
            parser.stop()

    def retry_here(self, pks: Collection[int]) -> bool:
        """Try failed files of its project again, claimed at once so that no other worker has them; tell whether any."""
        with self._database.write() as db:
            recipe = self._read_recipe(db, self._project_pk)
            if isinstance(recipe, PermanentError):
                return False
            for pk in pks:
                if files.exists(db, pk):
                    files.retry(db, files.get(db, pk), recipe.versions)
            claims = queue.claim_these(db, self.owner, pks, now_ms=now_ms(), lease_ms=self._lease_ms)
        with self._claim_lock:
            self._recipes.update(dict.fromkeys(claims, recipe))
            self._claims.extend(claims)
        return bool(claims)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    @contextmanager
    def _threads(self) -> Generator[None]:
        """Run parsers, writer and heartbeat beside the block; end them and give files back after it."""
        writer = threading.Thread(target=self._guarded, args=(self._write_all,), name="writer")
        others = [
            threading.Thread(target=self._guarded, args=(self._parse_all, parser), name="parser")
            for parser in self._parsers
        ]
        ended = threading.Event()
        heartbeat = threading.Thread(target=self._beat, args=(ended,), name="heartbeat")
        try:
            for thread in (writer, heartbeat, *others):
                _start(thread)
            yield
        finally:
            self.stop()
            self._parsed.close()
            for thread in others:
                _join(thread)
            self._embedded.close()
            _join(writer)
            ended.set()
            _join(heartbeat)
            self._give_back()

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """Run a thread's work; what ends it early ends the run."""
        try:
            work(*arguments)
        except BaseException as error:
            self._fatal = self._fatal or error
            self.stop()
            self._parsed.close()
            self._embedded.close()

    # --- parsing ---------------------------------------------------------------------------------

    def _parse_all(self, parser: Parser) -> None:
        try:
            while not self._stop.is_set():
                claim = self._next_claim()
                if claim is None:
                    self._stop.wait(IDLE_WAIT_S)
                else:
                    self._parse(parser, claim)
        except ParserStoppedError:
            pass  # the file in hand is given back with the rest
        finally:
            parser.close()

    def _parse(self, parser: Parser, claim: Claim) -> None:
        started = time.perf_counter()
        try:
            recipe = self._recipe(claim)
            parsed = parser.parse(self._opened(claim), recipe.parse, recipe.model)
        except ConfigurationError:
            raise
        except (KnowlexError, OSError) as error:
            cause = error
            self._count_parsed(claim, 0, started)
            self._finish(claim, lambda: ingest.record_failure(self._database, claim, cause, self._versions(claim)))
        else:
            self._count_parsed(claim, 0 if is_part(claim.path) else parsed.fingerprint.size, started)
            self._parsed.put((claim, parsed), len(parsed.chunks))

    def _opened(self, claim: Claim) -> Claim:
        """Return a claim with the path to open."""
        return replace(claim, path=uploads.on_disk(self._database.path, claim.path))

    def _count_parsed(self, claim: Claim, size: int, started: float) -> None:
        """Count the parsing of a file; waiting for the model, once its buffer is full, is none of it."""
        took = time.perf_counter() - started
        self.timings.parsed(claim.path, size, took)
        self._spent[claim] = {"parse_ms": _ms(took)}

    def _next_claim(self) -> Claim | None:
        with self._claim_lock:
            if not self._claims:
                self._claims.extend(self._claim())
            return self._claims.popleft() if self._claims else None

    def _claim(self) -> Sequence[Claim]:
        most = self._settings.claims
        with self._database.read() as db:
            due = queue.due(db, self._project_pk, now_ms=now_ms(), at_most=SHARES * most)
            if not due:
                return ()
            # Before anybody has to wait: of a model that has become live the files are looked for, and hashed.
            self._job.recipe(db, None)
            live = vectors.live_model(db)
        with self._database.write() as db:
            if vectors.live_model(db) != live:
                return ()  # the next turn looks for its files
            claims = queue.claim(
                db,
                self.owner,
                limit=min(most, max(FEWEST_CLAIMS, due // SHARES)),
                now_ms=now_ms(),
                project_pk=self._project_pk,
                lease_ms=self._lease_ms,
            )
            recipes = {pk: self._read_recipe(db, pk) for pk in {claim.project_pk for claim in claims}}
        self._recipes.update((claim, recipes[claim.project_pk]) for claim in claims)
        return claims

    def _read_recipe(self, db: Connection, project_pk: int | None) -> Recipe | PermanentError:
        """Return the recipe of a project as it is now: of many projects, one must not stop the others."""
        try:
            return self._job.recipe(db, project_pk)
        except (ConfigurationError, DamagedValueError) as error:
            return PermanentError(error.message, code="settings")

    def _recipe(self, claim: Claim) -> Recipe:
        """Return the recipe that a file was claimed with; raises PermanentError where it cannot be used."""
        recipe = self._recipes[claim]
        if isinstance(recipe, PermanentError):
            raise recipe
        return recipe

    def _versions(self, claim: Claim) -> Versions | None:
        recipe = self._recipes[claim]
        return None if isinstance(recipe, PermanentError) else recipe.versions

    # --- embedding -------------------------------------------------------------------------------

    def _embed(self, batch: Sequence[tuple[Claim, Parsed]]) -> None:
        """Give every chunk of a window its vector and pass it on; a file that the model has none for fails alone."""
        try:
            found = self._vectors(batch)
        except (PermanentError, TransientError) as error:
            self._embed_apart(batch, error)
            return
        if found is not None:
            for claim, parsed in batch:
                self._embedded.put((claim, parsed, found), len(parsed.chunks))

    def _embed_apart(self, batch: Sequence[tuple[Claim, Parsed]], cause: PermanentError | TransientError) -> None:
        """Embed the files of a window one by one, as the model has no vector for one of them; that one fails.

        Raises ConfigurationError where the model is at fault: all files would fail then.
        """
        if len(batch) > 1:
            for one in batch:
                self._embed([one])
            return
        require_sound(*self._job.load_model())
        for claim, _ in batch:
            self._finish(claim, lambda c=claim: ingest.record_failure(self._database, c, cause, self._versions(c)))

    def _vectors(self, batch: Sequence[tuple[Claim, Parsed]]) -> Embedded | None:
        """Return the vector of every chunk of a window: a stored one, or the model's; None when stopped meanwhile.

        Raises what `encode` does.
        """
        embedder, model = self._job.load_model()
        inputs: dict[bytes, str] = {}
        for claim, parsed in batch:
            inputs |= ingest.model_inputs(parsed) | ingest.added_inputs(self._database, claim, model)
        found = ingest.stored_vectors(self._database, model, inputs)
        missing = sorted((digest for digest in inputs if digest not in found), key=lambda d: len(inputs[d]))
        started = time.perf_counter()
        for start in range(0, len(missing), self._settings.slice):
            if self._stop.is_set():
                return None
            part = missing[start : start + self._settings.slice]
            found.update(zip(part, encode(embedder, model, [inputs[digest] for digest in part]), strict=True))
        took = time.perf_counter() - started
        self._share(batch, took)
        self.timings.embed_s += took
        self.timings.embedded += len(missing)
        self.timings.reused += len(inputs) - len(missing)
        return Embedded(model, found)

    def _share(self, batch: Sequence[tuple[Claim, Parsed]], seconds: float) -> None:
        """Note for each file of a window its share of the time, by its chunks."""
        chunks = max(1, sum(len(parsed.chunks) for _, parsed in batch))
        for claim, parsed in batch:
            self._spent[claim]["embed_ms"] = _ms(seconds * len(parsed.chunks) / chunks)

    # --- writing ---------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while batch := self._embedded.take(weight=1, wait_s=None):
            for claim, parsed, embedded in batch:
                started = time.perf_counter()
                self._finish(claim, lambda c=claim, p=parsed, e=embedded: self._commit(c, p, e))
                self.timings.write_s += time.perf_counter() - started

    def _commit(self, claim: Claim, parsed: Parsed, embedded: Embedded | None) -> Result:
        """Commit a file; where another model has become live since it was embedded, embed it anew before.

        None: stopped meanwhile; the file is given back with the rest. Raises ConfigurationError where that model is
        at fault.
        """
        if embedded is None:
            return Result(Outcome.CHANGED)
        versions = self._recipe(claim).versions
        try:
            return ingest.commit(
                self._database, claim, parsed, embedded.vectors, model=embedded.model, versions=versions
            )
        except ModelSwitchedError:
            self._log.info("model switched", file=claim.id)
        try:
            return self._commit(claim, parsed, self._vectors([(claim, parsed)]))
        except (PermanentError, TransientError) as error:
            require_sound(*self._job.load_model())
            return ingest.record_failure(self._database, claim, error, versions)

    def _finish(self, claim: Claim, step: Callable[[], Result]) -> None:
        """Take the last step of a claim, tell about it, and let go of it."""
        started = time.perf_counter()
        try:
            result = step()
        except LeaseLostError:
            self._log.info("lease lost", file=claim.id)
            result = Result(Outcome.CHANGED)
        self.timings.finished(result)
        self._tell(claim, result, time.perf_counter() - started)
        self._on_result(claim, result)
        with self._claim_lock:
            del self._recipes[claim]

    def _tell(self, claim: Claim, result: Result, write_s: float) -> None:
        self._log.info(
            "file processed",
            file=claim.id,
            status=result.outcome,
            error_code=result.error_code,
            attempt=claim.attempts + 1,
            chunks=result.chunks,
            **self._spent.pop(claim, {}),
            write_ms=_ms(write_s),
        )

    # --- leases ----------------------------------------------------------------------------------

    @property
    def _lease_ms(self) -> int:
        return int(self._settings.lease_s * 1000)

    def _idle(self) -> bool:
        with self._claim_lock:
            return not self._recipes

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(self._settings.heartbeat_s):
            if not self._recipes:
                continue  # who has nothing to lose asks for no lock
            try:
                with self._database.write() as db:
                    queue.extend(db, self.owner, now_ms=now_ms(), lease_ms=self._lease_ms)
            except DatabaseError as error:
                self._log.warning("heartbeat missed", error_code=code_of(error))  # the lease outlives three of them

    def _reclaim(self) -> None:
        self._reclaimed_at = time.monotonic()
        with self._database.read() as db:
            if not queue.lost(db, now_ms=now_ms(), is_dead=owner.is_dead):
                return
        with self._database.write() as db:
            taken = queue.reclaim(db, now_ms=now_ms(), is_dead=owner.is_dead)
        self._log.info("files of a lost worker taken back", files=taken)

    def _give_back(self) -> None:
        try:
            with self._database.write() as db:
                queue.give_back(db, self.owner)
        except DatabaseError as error:
            # The next run sees that this worker is gone and takes the files back at once. What ended this one is told.
            owner.retire(self.owner)
            self._log.info("files not given back", error_code=code_of(error))


def _start(thread: threading.Thread) -> None:
    """Start a thread. Raises ConfigurationError where the machine has none left."""
    try:
        thread.start()
    except RuntimeError as error:
        raise ConfigurationError(f"no worker can be started ({error}): {SCARCE[errno.EAGAIN]}") from error


def _join(thread: threading.Thread) -> None:
    """Wait for the end of a thread, if it was started."""
    if thread.ident is not None:
        thread.join()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
