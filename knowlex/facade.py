"""Knowlex for Python programs: one object, synchronous, safe to use from many threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from knowlex.accessors import AppSettings, Conversations, Memories, Projects, Tokens
from knowlex.config import Settings, load_settings
from knowlex.engine import Engine, said_by
from knowlex.projects import Project
from knowlex.search_log import LAST_WAIT_MS, SearchLog, SlowSearch, slow_searches
from storage import files as table
from storage import projects, vectors
from storage.database import Database, require_made
from storage.errors import (
    OF_THE_WHOLE,
    ConfigurationError,
    DatabaseError,
    KnowlexError,
    ModelMismatchError,
    ModelSwitchedError,
    TransientError,
    UsageError,
)
from storage.event_log import EventLog, code_of
from storage.fields import kind_of
from storage.files import File, Status
from storage.paths import database_path, given_path, require_folder
from storage.runs import Kind
from storage.sources import Source

if TYPE_CHECKING:
    from knowlex.drain import Drain, Drained
    from knowlex.evaluation import Evaluation
    from knowlex.files import FileDetails, FileFacts, FileRow, Files
    from knowlex.hits import Hits
    from knowlex.ingestion import Ingestion
    from knowlex.passages import Passages
    from knowlex.pending_vectors import Part
    from knowlex.progress import Counted
    from knowlex.reembedding import Reembedded, Reembedding
    from knowlex.watching import Watch
    from pipeline.answer import Answer, Mode
    from pipeline.embed import Vectors as Floats
    from pipeline.options import SearchOptions
    from pipeline.order import Rerank
    from storage.backup import Backup, Restored
    from storage.chunks import Chunk
    from storage.connection import Connection
    from storage.erase import Erased, Target
    from storage.filters import Filter
    from storage.growth import Growth, Sample
    from storage.health import Health
    from storage.maintain import Maintained
    from storage.message_search import MessagePage
    from storage.paging import Page
    from storage.repair import Repaired
    from storage.runs import Run
    from storage.statistics import ProjectSize, Statistics, TableSize
    from storage.text_mirror import TextMirror
    from storage.text_query import Syntax
    from storage.usage import DayUsage, ProjectUsage
    from storage.vector_mirror import VectorMirror
    from storage.verify import Problem
    from workers.batch import Progress, Report

log = EventLog("knowlex")

PathLike = str | os.PathLike[str]
SOURCES = {"files": Source.FILE, "memories": Source.MEMORY, "messages": Source.MESSAGE}
MODES = ("hybrid", "text", "vector")
EMBED_WAIT_MS = 200
"""How long a search waits for other writers to keep the vectors it made, and for a thread that embeds what it lacks."""

NO_MODEL = 0
"""The key of no model's row."""

DRAINED_BEFORE_SEARCH = 256
"""Memories and messages that a search by meaning embeds first, where they still wait for it."""


class Knowlex:
    """A database of projects, and all that can be done with it.

    path: the database; by default `KNOWLEX_DB`, else `./data/knowlex.db` when `KNOWLEX_ENV` is
    `development`, else the user's data folder. config: a TOML file. settings: single settings by
    name, as in configs/default.toml; they go before everything else.

    Nothing is opened before it is needed, and the model is loaded by the first call that embeds. A
    process forked off opens the database anew. The first call that writes, or lists all projects, conversations or
    settings, makes the database, and its folder where nobody named it: for a path that was given, or `KNOWLEX_DB`, a
    missing folder raises NotFoundError.
    """

    def __init__(self, path: PathLike | None = None, *, config: PathLike | None = None, **settings: Any) -> None:
        self.path = database_path(path)
        self.configuration: Settings = load_settings(settings, config=_path(config, "config"))
        self.projects = Projects(self, self._existing)
        self.memories = Memories(self._existing, self._find)
        self.conversations = Conversations(self, self._existing, self._find_messages)
        self.settings = AppSettings(self, self._existing)
        self.tokens = Tokens(self, self._existing)
        self.schema_copy: Path | None = None
        """The copy that was made beside the database before this object changed its schema; None where it did not."""
        self.on_new: Callable[[Path], None] | None = None
        """Called with the path of a database that was made, where one was."""
        self.on_answer: Callable[[Answer], None] | None = None
        """Called with what each search found, and how long it took; for counts."""
        self.waits_for_model = True
        """Whether a search waits while the model is loaded; else it is answered by words meanwhile, and says so."""
        self.reason_of: Callable[[Exception], str] = said_by
        """What a search that does without the model says of the reason to whoever asked."""
        self._own()

    def _own(self) -> None:
        """Begin with nothing open, in this process."""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._engine: Engine | None = None
        self._mirrors: tuple[VectorMirror, TextMirror] | None = None
        self._searched = False
        self._search_log = self._new_search_log()

    def _new_search_log(self) -> SearchLog:
        return SearchLog(counted=self.configuration.usage_counts, slow_ms=self.configuration.slow_query_ms)

    # --- files -------------------------------------------------------------------------------------

    def ingest(
        self,
        project: str,
        *paths: PathLike,
        prune: bool = False,
        force: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        passwords: Sequence[str] = (),
        workers: int | None = None,
        max_minutes: float | None = None,
        dry_run: bool = False,
        report: PathLike | None = None,
        progress: Progress | bool | None = None,
    ) -> Report:
        """Bring files and folders into a project, which is created if missing, and return what was done.

        A file that cannot be read fails alone: see `failures`. prune: forget files that are gone from
        these folders; more than a fifth of one only with force. include, exclude: patterns as in
        .gitignore, on top of those in the settings. passwords: for encrypted PDFs. report: a file to
        write one JSON line a file to. progress: True for a bar, False for none; None shows one where a
        person looks on. dry_run: write nothing, and count as ingested what would be read, whatever would
        come of it.
        Raises NotFoundError for a missing path, UsageError, ConfigurationError, DatabaseError.
        """
        with self.batch(
            project,
            prune=prune,
            force=force,
            include=include,
            exclude=exclude,
            passwords=passwords,
            workers=workers,
            max_minutes=max_minutes,
            dry_run=dry_run,
            report=report,
            progress=progress,
        ) as batch:
            return batch.run(*paths)

    def batch(
        self,
        project: str,
        *,
        report: PathLike | None = None,
        progress: Progress | bool | None = None,
        kind: Kind = Kind.INGEST,
        **options: Any,
    ) -> Ingestion:
        """Return a run of `ingest` that another thread can stop; options are those of `ingest`."""
        self._require_no_transaction("ingest")
        options |= {name: _listed(options.get(name, ()), name) for name in ("include", "exclude", "passwords")}
        from knowlex.ingestion import Ingestion, IngestOptions

        chosen = IngestOptions(**options, report=_path(report, "report"))
        return Ingestion(lambda: self.engine, self.path, self.configuration, project, chosen, progress, kind=kind)

    def watch(self, project: str, *, max_minutes: float | None = None, **options: Any) -> Watch:
        """Return runs of `ingest` that go on whenever something changes; options are those of `ingest`."""
        from knowlex.watching import Watch

        return Watch(lambda: self.batch(project, kind=Kind.WATCH, **options), self.path, max_minutes=max_minutes)

    def files(self, project: str, status: str | None = None) -> Files:
        """Return all files of a project and what became of them. Raises NotFoundError, UsageError."""
        from knowlex import files

        with self._existing().read() as db:
            return files.rows(db, projects.find(db, project).pk, _status(status))

    def files_page(
        self, project: str, status: str | None = None, *, limit: int = 100, after: str | None = None
    ) -> Page[FileRow]:
        """Return a page of the files of a project, in the order they came. Raises NotFoundError, UsageError.

        limit: 1 to 1000. after: `next` of the page before.
        """
        from knowlex import files

        with self._existing().read() as db:
            return files.page(db, projects.find(db, project).pk, _status(status), limit=limit, after=after)

    def passages(self, project: str, *, vectors: bool = False) -> Passages:
        """Return all passages of a project's files, to look into the index rather than to search it.

        vectors: with their vectors, 1.5 kB a passage of the default model; all of it is in memory at once.
        Raises NotFoundError, and DamagedValueError where a passage cannot be read.
        """
        from knowlex import passages

        with self._existing().read() as db:
            return passages.of_project(db, projects.find(db, project).pk, with_vectors=vectors)

    def file(self, id: str) -> FileDetails:
        """Return one file with its other names and its passages.

        id: an id, or a path. Raises NotFoundError, and UsageError for a path that several projects have.
        """
        from knowlex import files

        with self._existing().read() as db:
            return files.details(db, id)

    def file_in(self, project: str, id: str) -> FileFacts:
        """Return what is known of a file of a project, by its id; raises NotFoundError, for one of another, too."""
        from knowlex import files

        with self._existing().read() as db:
            return files.facts(db, table.of_project(db, projects.find(db, project).pk, id))

    def passages_of_file(
        self, project: str, id: str, *, on_page: int | None = None, limit: int = 100, after: str | None = None
    ) -> Page[Chunk]:
        """Return a page of the passages of a file of a project, in their order; of a duplicate, those that serve it.

        on_page: only those on this page of the document. limit: 1 to 1000. after: `next` of the page before.
        Raises NotFoundError, UsageError.
        """
        from storage import chunks

        with self._existing().read() as db:
            file = table.of_project(db, projects.find(db, project).pk, id)
            owner = file.pk if file.duplicate_of is None else file.duplicate_of
            return chunks.listed(db, owner, on_page=on_page, limit=limit, after=after)

    def delete_file(self, id: str, *, project: str | None = None) -> File:
        """Forget a file and its passages, and return what it was; the file on disk stays, but for an upload.

        id: an id, or a path; with project, the id of a file of that. Raises NotFoundError, and UsageError for a path
        that several projects have.
        """
        from storage import uploads

        database = self._existing()
        with database.write() as db:
            file = table.find(db, id) if project is None else table.of_project(db, projects.find(db, project).pk, id)
            table.delete(db, file)
        uploads.discard(database, [file.path_bytes])
        return file

    def retry_file(self, project: str, id: str) -> FileFacts:
        """Put a failed file of a project back into the queue, and return what is known of it; others stay as they are.

        Raises NotFoundError, ConfigurationError.
        """
        from knowlex import files

        database, job = self._existing(), self.engine.job()
        with database.write() as db:
            pk = projects.find(db, project).pk
            table.retry(db, table.of_project(db, pk, id), job.recipe(db, pk).versions)
            return files.facts(db, table.of_project(db, pk, id))

    def reembed(
        self,
        model: str,
        *,
        max_minutes: float | None = None,
        discard: bool = False,
        progress: Counted | bool | None = None,
    ) -> Reembedded:
        """Give all passages, memories and messages vectors of another model, and search by that from then on.

        Searches, ingestion and edits go on meanwhile, by the former model until all is there. What was made by a run
        that ended early is there for the next one. model: as in the settings. discard: drop another model that is half
        built. progress: called with passages done and to do; True for a bar, False for none; None shows one where a
        person looks on.
        Raises ConfigurationError for a model that cannot be had, UsageError where another is half built, DatabaseError.
        """
        return self.reembedding(model, max_minutes=max_minutes, discard=discard, progress=progress).run()

    def reembedding(self, model: str, **options: Any) -> Reembedding:
        """Return a run of `reembed` that another thread can stop; options are those of `reembed`."""
        self._require_no_transaction("reembed")
        from knowlex.reembedding import Reembedding

        self._existing()
        return Reembedding(self.engine, model, **options)

    def retry(self, project: str, progress: Progress | bool | None = None, *, passwords: Sequence[str] = ()) -> Drained:
        """Try the failed files of a project again and return what came of it. Raises NotFoundError.

        passwords: for encrypted PDFs.
        """
        self._require_no_transaction("retry")
        given = _listed(passwords, "passwords")
        self.requeue_failed(project)
        with self.drain(project, progress, passwords=given) as drain:
            return drain.run(once=True)

    def requeue_failed(self, project: str) -> int:
        """Put the failed files of a project back into the queue and return their number.

        Its memories and messages that the model had no sound vector for are tried again, too.
        """
        from storage import pending

        database, job = self._existing(), self.engine.job()
        with database.write() as db:
            pk = projects.find(db, project).pk
            pending.retry(db, pk)
            return table.retry_failed(db, pk, job.recipe(db, pk).versions)

    def drain(
        self,
        project: str | None = None,
        progress: Progress | bool | None = None,
        *,
        passwords: Sequence[str] = (),
    ) -> Drain:
        """Return a run over the queue of a project, or of all, that another thread can stop.

        passwords: for encrypted PDFs.
        """
        self._require_no_transaction("drain")
        given = _listed(passwords, "passwords")
        from knowlex.drain import Drain

        chosen = None if project is None else self.project(project)
        return Drain(self.engine, chosen, progress, passwords=given)

    # --- search ------------------------------------------------------------------------------------

    def search(
        self,
        project: str,
        query: str,
        k: int = 10,
        *,
        mode: str = "hybrid",
        sources: Iterable[str] = ("files",),
        filters: str | Mapping[str, Any] | None = None,
        window: int = 0,
        max_tokens: int | None = None,
        min_score: float | None = None,
        explain: bool = False,
        syntax: str = "plain",
        collapse: bool = False,
        rerank: bool | str = False,
        mmr: float | bool = False,
        section: bool = False,
        merge: bool = False,
    ) -> Hits:
        """Return the passages of a project that answer a question best.

        mode: "hybrid", "text" (by words) or "vector" (by meaning). sources: of "files", "memories",
        "messages", also as one text with commas. filters: what must be true of a passage, such as "kind = 'pdf' and
        page >= 3", or the same as JSON; applied before ranking, see docs/search.md. window: neighbouring passages to
        add on either side. section: add those with the same headings. merge: make one hit of those that touch in their
        file. max_tokens: what all hits may have; those that do not fit are left out, and `notes` says how many.
        min_score: what scores less is left out. explain: say how each score came about. collapse: show a text that
        stands in several files once; `also` has the others. rerank: order the first passages by a cross-encoder, that
        of the settings or the one named. mmr: put what says something new before what repeats a hit above it; True, or
        how much relevance counts against that, 0 to 1.
        Where the embedding model is not to be had, or what one leg looks in is damaged, hybrid answers by the other,
        and `legs` says why; `notes` names passages that cannot be read. Where the cross-encoder is not to be had, the
        order stays as it is without, and the leg `rerank` says why.
        Raises NotFoundError for an unknown project, UsageError for a bad value; for a model that cannot be had in mode
        vector, ConfigurationError and ModelMismatchError; to rerank where no cross-encoder is set, ConfigurationError.
        """
        options = self._options(
            k=k,
            mode=mode,
            sources=sources,
            filter=_filter(filters),
            window=window,
            max_tokens=max_tokens,
            min_score=min_score,
            explain=explain,
            syntax=syntax,
            collapse=collapse,
            mmr=mmr,
            section=section,
            merge=merge,
        )
        return self._search(project, query, options, rerank=rerank)

    def _options(self, *, mode: str, sources: Iterable[str], syntax: str = "plain", **more: Any) -> SearchOptions:
        """Return what is asked for as the pipeline calls it; raises UsageError."""
        from pipeline.options import SearchOptions

        return SearchOptions(
            mode=_mode(mode),
            sources=_sources(sources),
            syntax=cast("Syntax", syntax),
            candidates=self.configuration.candidates,
            reranked=self.configuration.rerank_candidates,
            **more,
        )

    def _find(self, project: str, query: str, **wanted: Any) -> Hits:
        return self._search(project, query, self._options(**wanted))

    def _search(self, project: str, query: str, options: SearchOptions, *, rerank: bool | str = False) -> Hits:
        """Do what `search` does, as the options say."""
        from knowlex.hits import Hits
        from pipeline.retrieve import Retriever

        database = self._existing()
        with database.read() as db:
            pk = projects.find(db, project).pk
        reranker = self._reranker(rerank)
        mirror, text_mirror = self._kept_in_memory() or (None, None)

        def ask() -> Answer:
            asking = _Asking() if options.mode == "text" else self._query_embedder(pk, options.sources)
            by = Retriever(
                database,
                pk,
                asking.embed_query,
                asking.model_pk,
                mirror,
                text_mirror,
                reranker,
                self.reason_of,
                asking.known_letters,
                asking.cut_at,
            )
            return by.retrieve(query, options)

        answer = _until_no_switch(ask)
        # Without the embedding, the first of which also compiles the model for this process.
        searched_ms = answer.took_ms - answer.embed_ms
        self._note_search(options.mode, pk, searched_ms, found=bool(answer.hits))
        if self.on_answer is not None:
            self.on_answer(answer)
        around, explain = options.window or options.section, options.explain
        asked_for = {
            "before": around,
            "after": around,
            "merged": options.merge,
            "also": explain or options.collapse,
            "why": explain,
        }
        return Hits(answer, project, more=[key for key, asked in asked_for.items() if asked])

    def _reranker(self, rerank: bool | str) -> Rerank | None:
        """Return what reranks, if anything is to; where the model is not to be had, that raises the reason.

        It is loaded before the search, whose time is not that of loading. Raises ConfigurationError where none is set.
        """
        if not rerank:
            return None
        name = self.engine.reranker_name(None if rerank is True else rerank)
        try:
            return self.engine.reranker(name).scores
        except Exception as error:  # whatever a model's libraries raise; the search goes on without, and tells it
            return partial(_raise, error)

    def _find_messages(
        self, query: str | None, *, project_pks: Callable[[Connection], Collection[int] | None], **filters: Any
    ) -> MessagePage:
        """Return messages by their words and by filters; see `storage.message_search.search`."""
        from storage import message_search

        database = self._existing()
        kept = self._kept_in_memory() if query else None
        start = time.perf_counter()
        with database.read() as db:
            chosen = project_pks(db)
            page = message_search.search(db, query, project_pks=chosen, mirror=kept[1] if kept else None, **filters)
        if query:
            one = next(iter(chosen)) if chosen is not None and len(chosen) == 1 else None
            self._note_search("text", one, 1000 * (time.perf_counter() - start), found=bool(page.items))
        return page

    def _query_embedder(self, project_pk: int, sources: Sequence[Source]) -> _Asking:
        """Return what embeds a question; before, those of what is searched that wait are embedded.

        Where the model is not to be had, that raises the reason: it matters to a search by meaning alone.
        """
        try:
            waiting = None if self.database.batching else self._waiting(project_pk, sources)
            if not self.waits_for_model and (waiting or self._is_searched()):
                self.engine.loaded_embedder()  # before anything that would load it here
            if waiting:
                self._embed_pending(waiting)
            # Without vectors there is nothing to compare with, and no model is loaded; the vector leg says so.
            if not self._is_searched():
                return _Asking(_no_vector, NO_MODEL)
            embedder, model = self.engine.embedder()
        except OF_THE_WHOLE:
            raise
        except (ConfigurationError, DatabaseError, TransientError) as error:
            reason = self.reason_of(error)
            told = error if reason == error.message else type(error)(reason, code=error.code)
            return _Asking(partial(_raise, told), NO_MODEL)
        from pipeline.embed import cut_at

        return _Asking(embedder.embed_query, model.pk, embedder.known_letters, partial(cut_at, embedder))

    def load_model(self) -> bool:
        """Have the model that is searched by loaded in the background; tell whether it is there.

        False where there is none yet: a database knows its model from the first vectors on. Raises TransientError while
        it is being loaded, and where it is not to be had ConfigurationError or ModelMismatchError.
        """
        if not self._is_searched():
            return False
        self.engine.loaded_embedder()
        return True

    def _is_searched(self) -> bool:
        """Tell whether there are vectors to search: a database knows its model from the first ones on."""
        with self.database.read() as db:
            return vectors.live_model(db) is not None

    def _waiting(self, project_pk: int, sources: Sequence[Source]) -> Part | None:
        """Return the part of the queue that a search is to embed first, where anything of that waits."""
        embedded_here = {Source.MEMORY, Source.MESSAGE} & set(sources)
        if not embedded_here:
            return None
        from knowlex.pending_vectors import Part, waits

        part = Part(project_pk, embedded_here)
        try:
            return part if waits(self.engine, part) else None
        except OF_THE_WHOLE:
            raise
        except DatabaseError as error:
            log.warning("memories and messages added last are found by words only", error_code=code_of(error))
            return None

    def _embed_pending(self, part: Part) -> None:
        """Embed what waits; where that fails, and not for the model, the vector leg tells how much is lacking."""
        from knowlex.pending_vectors import embed_pending

        try:
            embed_pending(self.engine, DRAINED_BEFORE_SEARCH, part=part, timeout_ms=EMBED_WAIT_MS)
        except (ConfigurationError, ModelMismatchError, TransientError):
            raise
        except KnowlexError as error:
            log.warning("memories and messages added last are found by words only", error_code=code_of(error))

    def _kept_in_memory(self) -> tuple[VectorMirror, TextMirror] | None:
        """Return the vectors and postings kept in memory, from the second search on: one alone is quicker without."""
        if self.database.batching:
            return None  # what a batch reads may never be committed
        with self._mine():
            if self._searched and self._mirrors is None:
                from storage.text_mirror import TextMirror
                from storage.vector_mirror import VectorMirror

                self._mirrors = VectorMirror(), TextMirror()
            self._searched = True
            return self._mirrors

    def _note_search(self, mode: str, project_pk: int | None, took_ms: float, *, found: bool) -> None:
        self._search_log.note(mode, project_pk, took_ms, found=found)
        if self._search_log.due:
            self._search_log.write(self.database)

    def evaluate(
        self,
        folder: PathLike,
        *,
        mode: str = "hybrid",
        k: int = 100,
        run: PathLike | None = None,
        compare: PathLike | None = None,
        report: PathLike | None = None,
        progress: Counted | bool | None = None,
        rerank: bool | str = False,
    ) -> Evaluation:
        """Judge how well the documents of a collection in BEIR's layout are found, under the settings in force.

        They are ingested into a database of their own, which is gone at the end; this one is not touched.
        k: documents to rank for each question, 100 at least. run: a file to write the rankings to, in TREC's format.
        compare: such a file, of another run, to compare with. report: a file to write one JSON line a question to.
        progress: as of `reembed`. rerank: as of `search`.
        Raises NotFoundError and UsageError for files that cannot be read or written, ConfigurationError.
        """
        from knowlex.evaluation import EvalOptions, evaluation

        files = _path(run, "run"), _path(compare, "compare"), _path(report, "report")
        options = EvalOptions(_mode(mode), k, *files, progress, rerank)
        return evaluation(given_path(folder, "folder"), self.path, self.configuration, options)

    # --- the database ------------------------------------------------------------------------------

    def stats(self, project: str | None = None) -> Statistics:
        """Return how much the database, or one project, holds, and how its ingestion went. Raises NotFoundError."""
        from storage import statistics

        with self._existing().read() as db:
            return statistics.of(db, None if project is None else projects.find(db, project).pk)

    def runs(self, project: str | None = None, *, limit: int = 100, after: str | None = None) -> Page[Run]:
        """Return the runs of ingestion of a project, or all, the latest first: of each project the last hundred.

        Raises NotFoundError, UsageError.
        """
        from storage import runs

        pk = None if project is None else self.project(project).pk
        with self._existing().read() as db:
            return runs.listed(db, pk, limit=limit, after=after)

    def table_sizes(self) -> list[TableSize]:
        """Return what each table takes on disk, the largest first; seconds where the file is large.

        Raises NotFoundError.
        """
        from storage import statistics

        with self._existing().read() as db:
            return statistics.tables(db)

    def project_sizes(self, *, limit: int = 100) -> list[ProjectSize]:
        """Return the largest projects, the one with the most passages first; counts every passage of all of them.

        Raises NotFoundError, UsageError.
        """
        from storage import statistics

        with self._existing().read() as db:
            return statistics.largest(db, limit=limit)

    def slow_queries(self, *, limit: int = 100, after: str | None = None) -> Page[SlowSearch]:
        """Return searches slower than `slow_query_ms`, the latest first. Raises NotFoundError, UsageError."""
        with self._with_searches().read() as db:
            return slow_searches(db, limit=limit, after=after)

    def usage(self, project: str | None = None, *, limit: int = 100, after: str | None = None) -> Page[DayUsage]:
        """Return how often a project, or everything, was searched on each day (UTC), the latest day first.

        Raises NotFoundError, UsageError.
        """
        from storage import usage

        with self._with_searches().read() as db:
            pk = None if project is None else projects.find(db, project).pk
            return usage.by_day(db, pk, limit=limit, after=after)

    def usage_by_project(self, days: int = 30, *, limit: int = 100, after: str | None = None) -> Page[ProjectUsage]:
        """Return how often each project was searched on the last `days` days, the busiest first.

        Raises NotFoundError, UsageError.
        """
        from storage import usage

        with self._with_searches().read() as db:
            return usage.by_project(db, days, limit=limit, after=after)

    def growth(self, *, limit: int = 100, after: str | None = None) -> Page[Sample]:
        """Return how large the database was on each day (UTC) on which it was looked at, the latest first.

        Raises NotFoundError, UsageError.
        """
        from storage import growth

        with self._existing().read() as db:
            return growth.samples(db, limit=limit, after=after)

    def growth_over(self, days: int) -> Growth | None:
        """Return what was added in the `days` days up to the latest sample; None with fewer than two samples.

        Raises NotFoundError, UsageError.
        """
        from storage import growth

        with self._existing().read() as db:
            return growth.over(db, days)

    def _with_searches(self) -> Database:
        """Return the database with the searches of this object written to it, where the write lock is free."""
        database = self._existing()
        self._search_log.write(database)
        return database

    def health(self) -> Health:
        """Tell whether the database can be used and its queue moves on, and why not. Raises and changes nothing."""
        from storage import health
        from workers import owner

        return health.check(
            self.path, is_dead=owner.is_dead, stuck_after_minutes=self.configuration.stuck_after_minutes
        )

    def verify(self, *, deep: bool = False) -> list[Problem]:
        """Compare what the database says with what it holds; an empty list means that all is well.

        deep: every page, token and vector, on a copy made for it.
        """
        self._require_no_transaction("verify")
        from storage.verify import damaged_pages, unreadable, verify

        try:
            database = self._existing()
        except DatabaseError as error:
            if (problem := unreadable(error)) is None:
                raise
            return [problem, *(damaged_pages(self.path) if deep else ())]
        return verify(database, deep=deep)

    def repair(self) -> Repaired:
        """Mend what `verify(deep=True)` finds, after a copy beside the database; return what was done and what is left.

        Files that have to be read again are queued: `work` or `ingest` finishes them. What people wrote is never
        deleted. Raises LockedError, ReadOnlyError, DiskFullError, DatabaseError; nothing was changed then.
        """
        self._require_no_transaction("repair")
        from storage.repair import cannot_open, repair

        try:
            database = self._existing()
        except DatabaseError as error:
            if (left := cannot_open(error)) is None:
                raise
            return left
        return repair(database)

    def migrate(self, to: int | None = None) -> tuple[int, list[int]]:
        """Bring the schema up, or to version `to`; return where it stands and the versions taken.

        A copy is made first, beside the database. The next call brings an older schema up again.
        Raises UsageError.
        """
        self._require_no_transaction("migrate")
        self.close()
        with self._open(bring_up=False) as database:
            taken = database.migrate(to)
            self.schema_copy = database.schema_copy or self.schema_copy
            return database.version, taken

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Make one transaction of all calls of this thread in the block: all of them or nothing.

        A call that fails is undone alone where the block catches its error; an error that leaves the block
        undoes everything. Keep it short: other processes cannot write meanwhile. What works on its own
        (ingest, drain, retry, reembed, backup, restore, verify, repair, maintain, erase, migrate, close) raises
        UsageError within it.
        """
        with self.database.batch():
            yield

    def backup(self, file: PathLike) -> Backup:
        """Copy the database to `file` while it is used; the copy is read through before it gets its name.

        Raises UsageError for a file that is no older backup, NotFoundError without a database,
        CorruptDatabaseError, DiskFullError, DatabaseError.
        """
        self._require_no_transaction("backup")
        from storage import backup

        return backup.make(self._existing(), given_path(file, "file"))

    def restore(self, file: PathLike) -> Restored:
        """Put a backup in the place of the database; what was there is kept beside it.

        Raises NotFoundError (also where the folder of the database is missing, which may be mistyped),
        NotADatabaseError, CorruptDatabaseError, NewerSchemaError for what is no whole backup, LockedError,
        DiskFullError, DatabaseError; the database is as it was then.
        """
        self._require_no_transaction("restore")
        from storage import backup

        require_folder(self.path)
        self.close()
        return backup.restore(self.path, given_path(file, "file"))

    def maintain(self, *, vacuum: bool = False) -> Maintained:
        """Count the indexes, merge the full text, cut the change log, give free space back, fold the log.

        vacuum: write the file anew also where that saves little. Raises LockedError, DatabaseError.
        """
        self._require_no_transaction("maintain")
        from storage import maintain

        return maintain.maintain(self._existing(), vacuum=vacuum)

    def find_to_erase(self, target: str) -> Target:
        """Return what an id, a project's name or a file's path stands for. Raises NotFoundError, UsageError."""
        from storage import erase

        with self._existing().read() as db:
            return erase.find(db, target)

    def erase(self, target: str) -> Erased:
        """Delete a project, file, conversation, message or memory so that no byte of its text is left.

        target: an id, a project's name or a file's path. The report says where the text was looked for.
        What could not be cleared yet is told there, and `maintain` or the next erasure clears it.
        Raises NotFoundError, UsageError, LockedError, DiskFullError; nothing is deleted then.
        """
        self._require_no_transaction("erase")
        from storage import erase

        return erase.erase(self._existing(), self.find_to_erase(target))

    def close(self) -> None:
        """Close the database; a later call opens it again. Raises UsageError within a transaction."""
        self._require_no_transaction("close")
        with self._mine():
            engine, self._engine, self._mirrors = self._engine, None, None
        if engine is not None:
            self._search_log.write(engine.database, wait_ms=LAST_WAIT_MS)
            engine.database.close()

    @property
    def engine(self) -> Engine:
        """What ingestion and retrieval run on; made when first asked for."""
        with self._mine():
            if self._engine is not None and self._engine.database.replaced:
                self._let_go()
            if self._engine is None:
                database = self._open()
                self._engine = Engine(database, self.configuration)
                self._search_log.write_at_end(self, self._engine.database)
            return self._engine

    def _open(self, *, bring_up: bool = True) -> Database:
        require_folder(self.path)
        database = Database.open(self.path, bring_up=bring_up)
        self.schema_copy = database.schema_copy or self.schema_copy
        if database.is_new and self.on_new is not None:
            self.on_new(self.path)
        return database

    def _let_go(self) -> None:
        """Begin anew after a restore: what is in memory has keys of the content that was replaced.

        The database is not closed: what another thread is in the middle of is to end with the error that says why
        (ReplacedError), not with that of a closed one. Its connections end with the last call that has it.
        """
        self._engine, self._mirrors = None, None
        self._search_log.void()
        self._search_log = self._new_search_log()

    @property
    def database(self) -> Database:
        """The database, opened when first asked for, and made where there was none."""
        return self.engine.database

    def project(self, name_or_id: str) -> Project:
        """Return a project. Raises NotFoundError."""
        with self._existing().read() as db:
            return Project.of(projects.find(db, name_or_id))

    def _require_no_transaction(self, call: str) -> None:
        if self._engine is not None and self._pid == os.getpid() and self._engine.database.batching:
            raise UsageError(f"{call}: cannot be part of a transaction; end the transaction first")

    def require_database(self) -> None:
        """Raise NotFoundError where there is none yet, for who would rather be told than read of an empty one.

        Raises CorruptDatabaseError for a file of no bytes.
        """
        self._existing()

    def _existing(self) -> Database:
        """Return the database; raises as `require_database` instead of making one, for calls that need it filled."""
        if self._engine is None:
            require_made(self.path)
        return self.database

    def _mine(self) -> threading.RLock:
        """Return the lock; in a process forked off, let go of what belongs to the parent first."""
        if os.getpid() != self._pid:
            # Kept alive for ever: closing the parent's connections here would disturb its locks.
            _inherited.append(self._engine)
            self._own()
        return self._lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Knowlex({str(self.path)!r})"


_inherited: list[Engine | None] = []


def _path(path: PathLike | None, what: str) -> Path | None:
    return None if path is None else given_path(path, what)


def _listed(values: object, what: str) -> tuple[Any, ...]:
    """Return what was given as a list; UsageError for a text alone, each character of which would be an item."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UsageError(f"{what}: is {kind_of(values)}; give a list of texts")
    return tuple(cast("Iterable[Any]", values))


def _mode(mode: str) -> Mode:
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}: is unknown; give one of {', '.join(MODES)}")
    return mode


def _status(status: str | None) -> Status | None:
    try:
        return None if status is None else Status(status)
    except ValueError:
        raise UsageError(f"status {status!r}: no such status; give one of {', '.join(Status)}") from None


def _sources(names: Iterable[str]) -> tuple[Source, ...]:
    parts = [part for item in names.split(",") if (part := item.strip())] if isinstance(names, str) else names
    chosen = [str(name) for name in _listed(parts, "sources")]
    unknown = [name for name in chosen if name not in SOURCES]
    if unknown or not chosen:
        raise UsageError(f"source {', '.join(unknown) or 'missing'}: give some of {', '.join(SOURCES)}")
    return tuple(SOURCES[name] for name in chosen)


def _filter(filters: str | Mapping[str, Any] | None) -> Filter | None:
    if filters is None:
        return None
    from pipeline.filter_language import read

    return read(filters)


def _until_no_switch(ask: Callable[[], Answer]) -> Answer:
    """Ask, and again where another model became live between embedding the question and searching."""
    while True:
        try:
            return ask()
        except ModelSwitchedError:
            log.info("model switched during a search")


def _raise(error: Exception, *asked: object) -> Floats:
    raise error


class _Asking(NamedTuple):
    """What a search does with its question; see `pipeline.retrieve.Retriever`."""

    embed_query: Callable[[str], Floats] | None = None
    model_pk: int | None = None
    known_letters: Callable[[str], float] | None = None
    cut_at: Callable[[str], int | None] | None = None


def _no_vector(question: str) -> Floats:
    import numpy as np

    return np.zeros(0, np.float32)
