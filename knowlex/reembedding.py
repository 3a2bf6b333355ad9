"""`reembed`: give every passage a vector of another model beside the live one, then search by that.

    begin    the model is entered as the one to be built
    build    page by page: what has no vector of it yet is embedded and kept; an interrupted build goes on here
    catch up the same with what came in meanwhile, again and again, until next to nothing is left
    switch   one transaction, in which nothing lacks a vector
    drop     the former model's vectors, some at a time

Each step commits by itself, so that a run that is killed anywhere is finished by the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol

from knowlex.engine import Engine, as_row
from knowlex.progress import Count, Counted, counting
from knowlex.run_limits import require_minutes
from storage import files, succession, vectors
from storage.connection import Connection
from storage.errors import ConfigurationError
from storage.event_log import EventLog
from storage.sources import Source
from storage.succession import FIRST, Key, Newest, Page, Passage
from storage.vectors import Model, Vector

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from pipeline.embed import Embedder
    from pipeline.reembed import Input

log = EventLog("knowlex.reembed")

PAGE = 128
"""Passages embedded between two looks at `stop` and stored in one transaction: about a second of work."""

LOCKED_S = 0.3
"""For about how long the last passages may be embedded under the write lock, which everybody else waits for."""

DROPPED = 1_000
"""Vectors removed in one transaction."""


@dataclass(frozen=True, slots=True)
class Reembedded:
    """What a run of `reembed` did.

    model: the new one; replaced: the one that was live when the run began, None before the first.
    switched: whether the new one was made live since then; live: whether it is live now.
    made: texts that the model was asked for; reused: passages (also memories and messages) whose vector was there
    already, from an earlier run or for the same text; left: those that still lack one.
    cut: passages longer than the model takes: their vectors are the mean of those of their parts, of 8 at most.
    outdated: files that the next ingestion reads and cuts anew, as they were cut for another model or have such
    passages.
    removed: vectors of former models that went.
    """

    model: str
    replaced: str | None
    switched: bool
    live: bool
    made: int
    reused: int
    left: int
    cut: int
    outdated: int
    removed: int
    seconds: float


class Reembedding:
    """One run of `reembed`; to be used once.

    progress: called with how many passages are done and how many there are; True for a bar, False for none, None for
    one where a person looks on.
    """

    def __init__(
        self,
        engine: Engine,
        model: str,
        *,
        max_minutes: float | None = None,
        discard: bool = False,
        progress: Counted | bool | None = None,
    ) -> None:
        require_minutes(max_minutes)
        self._engine = engine
        self._database = engine.database
        self._name = model
        self._discard = discard
        self._progress = progress
        self._ends = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._told = threading.Event()
        self._made = self._reused = self._cut = 0
        self._slowest_s = inf
        self._cut_files: set[int] = set()

    def run(self) -> Reembedded:
        """Build the model's vectors, switch to it, remove the former one's, and return what was done.

        Raises ConfigurationError for a model that cannot be had, UsageError where another one is half built,
        DatabaseError. What was made until then stays, and the next run goes on with it.
        """
        started = time.monotonic()
        embedder, tokenizer = self._engine.load_another(self._name)
        with self._database.read() as db:
            before = vectors.live_model(db)
        with self._database.write() as db:
            model = succession.begin(db, as_row(embedder.identity), discard=self._discard)
        if model.status == "building":
            self._build(_Work(embedder, tokenizer, model))
        removed = self._drop()
        with self._database.read() as db:
            live = vectors.live_model(db)
            is_live = live is not None and live.pk == model.pk
            left = 0 if is_live else succession.count_lacking(db, model.pk)
        return Reembedded(
            model=model.name,
            replaced=None if before is None else before.name,
            switched=is_live and (before is None or before.pk != model.pk),
            live=is_live,
            made=self._made,
            reused=self._reused,
            left=left,
            cut=self._cut,
            outdated=self._outdated() if is_live else 0,
            removed=removed,
            seconds=round(time.monotonic() - started, 3),
        )

    def stop(self) -> None:
        """End the run soon, from any thread; the next run of the same model goes on."""
        self._told.set()

    @property
    def stopped(self) -> bool:
        """Whether the run was told to end, or its time is up."""
        return self._told.is_set() or (self._ends is not None and time.monotonic() > self._ends)

    # --- building and switching --------------------------------------------------------------------

    def _build(self, work: _Work) -> None:
        with self._database.read() as db:
            total = succession.count(db)
        with counting(self._progress, total, "embedding") as count:
            self._pass(work, succession.page, count)
            self._catch_up(work, count, passed=total)

    def _catch_up(self, work: _Work, count: Count, *, passed: int) -> None:
        """Embed what came in meanwhile until the model can be made live, and make it that.

        Where as much comes in as is embedded, this goes on until less does: nobody is kept from writing for it.
        passed: how many passages the pass before this went through.
        """
        told = False
        while not self.stopped:
            with self._database.read() as db:
                left = succession.count_lacking(db, work.model.pk)
            if not self._within_the_lock(left):
                if left >= passed and not told:
                    log.warning("passages come in as fast as they are embedded", left=left)
                    told = True
                passed = left
                count.expect(left)
                self._pass(work, succession.lacking, count)
            elif self._switch(work, left):
                return

    def _pass(self, work: _Work, read: _Read, count: Count) -> None:
        """Give what is there now the vectors that it lacks. What comes in meanwhile is left out, so that this ends."""
        for page in self._pages(work, read):
            wanted, found = self._vectors(work, page)
            if wanted:
                with self._database.write() as db:
                    _keep(db, work, wanted, found)
            count(page.looked_at)

    def _pages(self, work: _Work, read: _Read) -> Iterator[Page]:
        """Yield pages of what is there now until there are no more, or the run is to end."""
        after = FIRST
        with self._database.read() as db:
            until = succession.newest(db)
        while not self.stopped:
            with self._database.read() as db:
                page = read(db, work.model.pk, after, PAGE, until)
            if not page.looked_at:
                return
            yield page
            after = page.last

    def _vectors(self, work: _Work, page: Page) -> tuple[list[Input], dict[bytes, Vector]]:
        """Return the passages of a page that lack a vector, and the vectors for them by hash."""
        from pipeline import reembed

        every = reembed.inputs(page.passages)
        wanted = [each for each in every if each.passage.key not in page.done]
        with self._database.read() as db:
            found = reembed.stored(db, work.model, wanted)
        made = self._embed(work, [each for each in wanted if each.hash not in found])
        self._note_cut(reembed.too_long(work.tokenizer, work.embedder.identity, every))
        self._made += len(made)
        self._reused += len(every) - sum(each.hash in made for each in wanted)
        return wanted, found | made

    def _embed(self, work: _Work, wanted: Sequence[Input]) -> dict[bytes, Vector]:
        from pipeline import reembed

        started = time.perf_counter()
        made = reembed.embed(self._database, work.embedder, work.model, wanted)
        if made:
            each_s = (time.perf_counter() - started) / len(made)
            self._slowest_s = each_s if self._slowest_s == inf else max(self._slowest_s, each_s)
        return made

    def _note_cut(self, cut: Sequence[Passage]) -> None:
        self._cut += len(cut)
        chunks = [passage.key.pk for passage in cut if passage.source is Source.FILE]
        if chunks:
            with self._database.read() as db:
                self._cut_files.update(succession.files_of(db, chunks))

    def _within_the_lock(self, passages: int) -> bool:
        """Tell whether so many can be embedded under the write lock, as slow as the model was at its slowest."""
        return passages == 0 or (passages <= PAGE and passages * self._slowest_s <= LOCKED_S)

    def _switch(self, work: _Work, left: int) -> bool:
        """Make the model live once the few passages that are left are embedded, too; tell whether it is."""
        with self._database.write() as db:
            if left:
                last = succession.lacking(db, work.model.pk, FIRST, PAGE + 1)
                if not self._within_the_lock(last.looked_at):
                    return False
                _keep(db, work, *self._vectors(work, last))
            return succession.switch(db, work.model.pk, self._cut_files)

    # --- afterwards --------------------------------------------------------------------------------

    def _drop(self) -> int:
        """Remove the vectors of former models; what is left when the run is to end, `maintain` removes."""
        removed = 0
        while not self.stopped:
            with self._database.read() as db:
                if not succession.is_left(db):
                    break
            with self._database.write() as db:
                removed += succession.drop(db, DROPPED)
        return removed

    def _outdated(self) -> int:
        """Return how many files the next ingestion cuts anew, but for those of projects with unusable settings."""
        job = self._engine.job()
        outdated = 0
        with self._database.read() as db:
            for project_pk, settings, count in files.count_cut(db):
                with suppress(ConfigurationError):
                    outdated += count * (settings != job.recipe(db, project_pk).versions.settings)
        return outdated


@dataclass(frozen=True, slots=True)
class _Work:
    """The model that is built; tokenizer: its own, not truncating."""

    embedder: Embedder
    tokenizer: Tokenizer
    model: Model


class _Read(Protocol):
    """Reads a page; see `succession.page`."""

    def __call__(self, db: Connection, model_pk: int, after: Key, limit: int, until: Newest, /) -> Page: ...


def _keep(db: Connection, work: _Work, wanted: Sequence[Input], found: dict[bytes, Vector]) -> None:
    from pipeline import reembed

    reembed.keep(db, work.model, wanted, found)
