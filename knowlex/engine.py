"""Builds what ingestion and retrieval need from the settings. Models load when first needed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from knowlex import project_settings
from knowlex.config import Settings
from storage import projects, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, KnowlexError, ModelMismatchError, TransientError, UsageError
from storage.event_log import EventLog, code_of
from storage.files import Versions
from storage.paths import given_path
from storage.projects import Project
from storage.vectors import Model

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from pipeline.chunk import ChunkSettings
    from pipeline.embed import Embedder, EmbedSettings, ModelIdentity
    from pipeline.model_files import ModelFiles
    from pipeline.rerank import Reranker
    from workers.runner import Job, Recipe

log = EventLog("knowlex")

# sentence-transformers puts the first of these prompts that a model has before a document.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
# Shares of the longest chunk, as pipeline.chunk chose them for 256 tokens: 200 aimed at, 48 for headings.
_TARGET_SHARE = 200 / 256
_HEADING_SHARE = 48 / 256

RETRY_S = 30.0
"""How long after a model could not be loaded in the background that is tried again."""


class Engine:
    """The model and the recipes that settings describe, for one database.

    The imports stand inside the methods on purpose: a command that lists files must not wait for
    tokenizers, parsers or a model runtime.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self._lock = threading.Lock()
        self._loaded: tuple[Embedder, Model] | None = None
        self._loading_lock = threading.Lock()
        self._loading: Future[None] | None = None
        self._loading_ended_at = 0.0
        self._rerank_lock = threading.Lock()
        self._reranker: tuple[str, Reranker] | None = None
        self._warned: set[tuple[int, int]] = set()
        self.embedding_pending = threading.Lock()
        """Held by the thread that embeds waiting memories and messages: nobody embeds what another one has in hand."""

    def embedder(self) -> tuple[Embedder, Model]:
        """Return the model that made the database's vectors, and its row; loaded when first asked for.

        Where another one has become live since, that is loaded. The first model of a database is that of the settings.
        Raises ModelMismatchError when the database's model is not to be had here, ConfigurationError where it cannot be
        loaded, whatever its libraries or the system raise.
        """
        with self._lock:
            live = self._live()
            if self._loaded is None or self._loaded[1] != live:
                try:
                    self._loaded = self._load(live)
                except KnowlexError:
                    raise
                except Exception as error:
                    raise _not_loaded(live.name if live else self.settings.model, error) from error
            return self._loaded

    def loaded_embedder(self) -> tuple[Embedder, Model]:
        """Return what `embedder` does where that is loaded by now; else have it loaded in the background, and raise.

        For whoever rather answers without the model than waits for it. Raises TransientError (code "loading") until it
        is there, and then what `embedder` does where it is not to be had.
        """
        live, loaded = self._live(), self._loaded
        if loaded is not None and loaded[1] == live:
            return loaded
        with self._loading_lock:
            loading = self._loading
            if loading is None or (loading.done() and self._is_due(loading)):
                loading = self._loading = Future()
                threading.Thread(target=self._load_for, args=(loading,), name="model", daemon=True).start()
        if loading.done() and (error := loading.exception()) is not None:
            # As it is raised to everyone who asks, the frames of all of them would be kept with it.
            raise error.with_traceback(None)
        raise TransientError("the embedding model is still being loaded; ask again in some seconds", code="loading")

    def _is_due(self, loading: Future[None]) -> bool:
        """Tell whether the model is to be loaded once more: it was another one, or could not be had for a while."""
        return loading.exception() is None or time.monotonic() - self._loading_ended_at > RETRY_S

    def _load_for(self, loading: Future[None]) -> None:
        try:
            self.embedder()
        except Exception as error:  # it is raised to whoever asks for the model
            if not self.database.closed:  # else the program ends, and nobody will ask
                log.warning("model not loaded", error_code=code_of(error))
            self._loading_ended_at = time.monotonic()
            loading.set_exception(error)
        else:
            loading.set_result(None)

    def reranker_name(self, model: str | None = None) -> str:
        """Return which cross-encoder is asked for, by default that of the settings; ConfigurationError without any."""
        name = model or self.settings.rerank_model
        if not name:
            raise ConfigurationError(
                "rerank_model: is not set, so nothing can be reranked; set it to a cross-encoder (a folder or hub name,"
                " such as cross-encoder/ms-marco-MiniLM-L6-v2) by KNOWLEX_RERANK_MODEL or in a file for --config"
            )
        return name

    def reranker(self, model: str | None = None) -> Reranker:
        """Return a cross-encoder, by default that of the settings; the one used last is kept loaded.

        Raises ConfigurationError where none is set, or it is not to be had here or cannot be loaded, whatever its
        libraries or the system raise.
        """
        from pipeline import model_files, rerank

        name = model_files.lasting_name(self.reranker_name(model))
        with self._rerank_lock:
            if self._reranker is None or self._reranker[0] != name:
                try:
                    self._reranker = name, rerank.load(self._embed_settings(name))
                except KnowlexError:
                    raise
                except Exception as error:
                    raise _not_loaded(name, error) from error
            return self._reranker[1]

    def _live(self) -> Model | None:
        with self.database.read() as db:
            return vectors.live_model(db)

    def _load(self, live: Model | None) -> tuple[Embedder, Model]:
        from pipeline import embed

        name = self._model_name(live)
        embedder = embed.RememberingEmbedder(embed.load(self._embed_settings(name)))
        if live is None:
            with self.database.write() as db:
                return embedder, _ensure(db, embedder.identity)
        # Not written: a database that may only be read can be searched.
        vectors.require_same(self.database.path, live, as_row(embedder.identity))
        if self.settings.model not in (name, embed.DEFAULT_MODEL):
            log.warning("model of the settings not used", model=live.hash[:8])
        return embedder, live

    def load_another(self, model: str) -> tuple[Embedder, Tokenizer]:
        """Load a model that is to make the database's vectors from now on, and its tokenizer, not truncating.

        Raises ConfigurationError where it cannot be had, or files could not be ingested with it under the settings, or
        those of a project.
        """
        from pipeline import embed, model_files

        name = model_files.lasting_name(model)
        found = model_files.resolve(name, self._cache_dir())
        self._chunk_settings(name, found, self.settings)
        live = self._live()
        if live is None or live.hash != found.hash:
            self._require_fit(name, found)
        return embed.load(self._embed_settings(name)), model_files.tokenizer(found)

    def _require_fit(self, name: str, model: ModelFiles) -> None:
        """Raise ConfigurationError, naming the project, where a model takes less than a project asks for."""
        with self.database.read() as db:
            for project in projects.with_settings(db):
                try:
                    settings = self.settings_of(db, project.pk)
                except ConfigurationError:
                    continue  # with any model, the next ingestion of it says so
                try:
                    self._chunk_settings(name, model, settings)
                except ConfigurationError as error:
                    raise project_settings.unusable(project, error) from error

    def _model_name(self, live: Model | None) -> str:
        """Return a name by which the live model is found here: its own or the settings'; these say it before the first.

        A hub is asked only for what the settings name, and last. Raises ModelMismatchError.
        """
        from pipeline import model_files

        configured = self.settings.model
        if live is None:
            return model_files.lasting_name(configured)
        causes: list[str] = []
        names = (configured, live.name) if model_files.is_here(configured) else (live.name, configured)
        for name in dict.fromkeys(names):
            try:
                if model_files.resolve(name, self._cache_dir(), fetch=name == configured).hash == live.hash:
                    return name
                causes.append(f"{name} has other files")
            except ConfigurationError as error:
                causes.append(error.message)
        raise ModelMismatchError(
            f"{self.database.path}: its vectors come from {live.name}, which is not to be had here"
            f" ({'; '.join(causes)});"
            f" set model to {live.name}, run knowlex reembed FOLDER with the folder it lies in now, or"
            f" knowlex reembed {configured}"
        )

    def encoder(self, model: Model) -> str:
        """Return a name of what makes a model's vectors here: another way to run it has another one."""
        chosen = self.settings
        return f"{model.hash} {chosen.backend} {chosen.precision} {chosen.device}"

    def job(self, passwords: tuple[str, ...] = ()) -> Job:
        """Return how files are processed under these settings; `passwords` open encrypted PDFs."""
        from workers.parser import ParserLimits
        from workers.runner import Job

        settings = self.settings
        find, make = lru_cache(self._found), lru_cache(partial(self._recipe, passwords))
        make(*find(self._live()), settings)  # what no project can be processed with is told at once
        return Job(
            recipe=partial(self._recipe_of, find, make),
            limits=ParserLimits(settings.parse_timeout_s, settings.parse_memory_mb * 2**20),
            load_model=self.embedder,
        )

    def longest(self) -> int | None:
        """Return how many tokens the model takes; None where it is not to be had here."""
        from pipeline import model_files

        try:
            return model_files.max_tokens(self._found(self._live())[1])
        except (ConfigurationError, ModelMismatchError):
            return None

    def _found(self, live: Model | None) -> tuple[str, ModelFiles]:
        """Return by which name the live model is found here, and its files. Raises ModelMismatchError."""
        from pipeline import model_files

        name = self._model_name(live)
        return name, model_files.resolve(name, self._cache_dir())

    def settings_of(self, db: Connection, project_pk: int | None) -> Settings:
        """Return the settings in force for the files of a project; None: of one without settings of its own.

        Raises ConfigurationError where the project's own cannot be used, DamagedValueError, NotFoundError.
        """
        if project_pk is None:
            return self.settings
        project = projects.by_pk(db, project_pk)
        self._warn_of_unknown(project)
        return project_settings.applied(self.settings, project_settings.stored(project), project.name)

    def require_usable(self, settings: Settings, *, chunking: bool) -> None:
        """Raise UsageError for patterns that are none and, where chunking is looked at, for lengths beyond the model's.

        Raises ConfigurationError where the model cannot be found.
        """
        from pipeline import model_files
        from pipeline.discover import discover

        discover((), include=settings.include, exclude=settings.exclude)  # checks them before it walks
        if not chunking:
            return
        name = self._model_name(self._live())
        model = model_files.resolve(name, cache_dir=self._cache_dir())
        try:
            self._chunk_settings(name, model, settings)
        except ConfigurationError as error:
            raise UsageError(error.message) from error

    def _warn_of_unknown(self, project: Project) -> None:
        count = len(project_settings.unknown(project))
        if count and (project.pk, count) not in self._warned:
            log.warning("setting of a newer version ignored", project=project.id, unknown=count)
            self._warned.add((project.pk, count))

    def _recipe_of(
        self,
        find: Callable[[Model | None], tuple[str, ModelFiles]],
        make: Callable[[str, ModelFiles, Settings], Recipe],
        db: Connection,
        project_pk: int | None,
    ) -> Recipe:
        """Return how the files of a project are processed now; find, make: `_found` and `_recipe`, which are dear."""
        settings = self.settings_of(db, project_pk)
        name, model = find(vectors.live_model(db))
        try:
            return make(name, model, settings)
        except ConfigurationError as error:
            if project_pk is None or settings == self.settings:
                raise
            raise project_settings.unusable(projects.by_pk(db, project_pk), error) from error

    def _recipe(self, passwords: tuple[str, ...], name: str, model: ModelFiles, settings: Settings) -> Recipe:
        from pipeline import model_files
        from pipeline.detect import Kind
        from pipeline.extract import parser_version
        from pipeline.parse import ParseSettings
        from workers.runner import Recipe

        pdf_engine = cast(Literal["pypdf", "pypdfium2"], settings.pdf_engine)
        parsers = frozenset(parser_version(kind, pdf_engine=pdf_engine) for kind in Kind)
        chunks = self._chunk_settings(name, model, settings)
        parse = ParseSettings(
            chunks=chunks,
            passwords=passwords,
            pdf_engine=pdf_engine,
            max_file_bytes=settings.max_file_mb * 2**20,
            max_chunks_per_file=settings.max_chunks_per_file,
        )
        return Recipe(parse, Versions(chunks.fingerprint(model_files.tokenizer_hash(model)), parsers), model)

    def _cache_dir(self) -> Path | None:
        return cache_dir(self.settings)

    def _embed_settings(self, model: str) -> EmbedSettings:
        from pipeline.embed import EmbedSettings

        settings = self.settings
        return EmbedSettings(
            model=model,
            backend=cast(Literal["auto", "openvino", "torch"], settings.backend),
            precision=cast(Literal["auto", "bf16", "fp32"], settings.precision),
            device=settings.device,
            threads=settings.threads,
            batch_size=settings.batch_size,
            cache_dir=self._cache_dir(),
        )

    def _chunk_settings(self, name: str, model: ModelFiles, settings: Settings) -> ChunkSettings:
        """Return how texts are cut: as long as asked for, or as the model takes beside its prompt."""
        from pipeline import model_files
        from pipeline.chunk import ChunkSettings

        limit = model_files.max_tokens(model)
        longest = settings.max_tokens or limit
        if longest > limit:
            raise ConfigurationError(f"max_tokens = {longest}: {name} takes {limit}; lower it, or give 0 for just that")
        longest = min(longest, limit - _prompt_tokens(model))
        heading, overlap = round(longest * _HEADING_SHARE), settings.overlap_tokens
        if overlap > (most := max(longest // 2 - heading, 0)):
            raise ConfigurationError(
                f"overlap_tokens = {overlap}: passages of {longest} tokens may overlap by {most}; lower it"
            )
        try:
            return ChunkSettings(
                max_tokens=longest,
                target_tokens=round(longest * _TARGET_SHARE),
                min_tokens=min(32, round(longest * _TARGET_SHARE)),
                overlap_tokens=overlap,
                heading_tokens=heading,
            )
        except UsageError as error:
            raise ConfigurationError(f"[chunking] {error.message}") from error


def said_by(error: Exception) -> str:
    """Return what an error says, on one line; of one that is not Knowlex's its name too, as it may say nothing."""
    if isinstance(error, KnowlexError):
        return error.message
    return " ".join([f"{type(error).__name__}:", *str(error).split()]).removesuffix(":")


def _not_loaded(name: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"{name}: could not be loaded ({said_by(error)}); see to memory, disk and the model's files, then try again"
    )


def as_row(identity: ModelIdentity) -> Model:
    """Return a model as its row in a database would be, before it has one."""
    return Model(
        pk=0,
        id="",
        name=identity.name,
        hash=identity.hash,
        dim=identity.dim,
        pooling=identity.pooling,
        query_prompt=identity.query_prompt,
        document_prompt=identity.document_prompt,
        precision=identity.precision,
        status="building",
    )


def _ensure(db: Connection, identity: ModelIdentity) -> Model:
    return vectors.ensure_model(
        db,
        name=identity.name,
        hash=identity.hash,
        dim=identity.dim,
        pooling=identity.pooling,
        query_prompt=identity.query_prompt,
        document_prompt=identity.document_prompt,
        precision=identity.precision,
    )


@cache
def _prompt_tokens(model: ModelFiles) -> int:
    """Return how many tokens the model's own prompt takes before each document."""
    from pipeline import model_files

    prompt = _document_prompt(model.folder)
    if not prompt:
        return 0
    return len(model_files.tokenizer(model).encode(prompt, add_special_tokens=False).ids)


def _document_prompt(folder: Path) -> str:
    """Return what sentence-transformers puts before a document, read without loading the model."""
    path = folder / "config_sentence_transformers.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read as JSON ({error}); fetch the model again") from error
    prompts: dict[str, str] = config.get("prompts") or {}
    name = next((name for name in _DOCUMENT_PROMPTS if name in prompts), config.get("default_prompt_name"))
    return prompts.get(name or "") or ""


def cache_dir(settings: Settings) -> Path | None:
    """Return where compiled models are kept; None means the user's cache folder."""
    return given_path(settings.cache_dir, "cache_dir").absolute() if settings.cache_dir else None


def require_model(settings: Settings) -> None:
    """Raise ConfigurationError where the model that a new database would begin with is not to be had here."""
    from pipeline import model_files

    model_files.resolve(model_files.lasting_name(settings.model), cache_dir(settings))
