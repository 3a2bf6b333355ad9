"""Builds what ingestion and retrieval need from the settings. Models load when first needed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from knowlex import project_settings
from knowlex.config import Settings
from storage import projects, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, UsageError
from storage.event_log import EventLog
from storage.files import Versions
from storage.projects import Project
from storage.vectors import Model

if TYPE_CHECKING:
    from pipeline.chunk import ChunkSettings
    from pipeline.embed import Embedder, EmbedSettings, ModelIdentity
    from pipeline.model_files import ModelFiles
    from workers.runner import Job, Recipe

log = EventLog("knowlex")

# sentence-transformers puts the first of these prompts that a model has before a document.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
# Shares of the longest chunk, as pipeline.chunk chose them for 256 tokens: 200 aimed at, 48 for headings.
_TARGET_SHARE = 200 / 256
_HEADING_SHARE = 48 / 256


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
        self._warned: set[tuple[int, str]] = set()

    def embedder(self) -> tuple[Embedder, Model]:
        """Return the embedding model, and its row in the database; both are made at the first call.

        Raises ModelMismatchError when the database's vectors come from another model.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> tuple[Embedder, Model]:
        from pipeline import embed

        embedder = embed.load(self._embed_settings())
        with self.database.read() as db:
            model = _ensure(db, embedder.identity) if vectors.live_model(db) else None
        if model is None:  # only the first one is written: a database that may only be read can be searched
            with self.database.write() as db:
                model = _ensure(db, embedder.identity)
        return embedder, model

    @cached_property
    def encoder(self) -> str:
        """What makes vectors under these settings: another model or another way to run it has another name.

        Found without loading the model. Raises ConfigurationError where there is none.
        """
        from pipeline import model_files

        chosen = self.settings
        files = model_files.resolve(chosen.model, cache_dir=self._cache_dir())
        return f"{files.hash} {chosen.backend} {chosen.precision} {chosen.device}"

    def job(self, passwords: tuple[str, ...] = ()) -> Job:
        """Return how files are processed under these settings; `passwords` open encrypted PDFs."""
        from pipeline import model_files
        from workers.parser import ParserLimits
        from workers.runner import Job

        settings = self.settings
        model = model_files.resolve(settings.model, cache_dir=self._cache_dir())
        recipe = lru_cache(partial(self._recipe, model, passwords))
        recipe(settings)  # what no project can be processed with is told at once
        return Job(
            recipe=partial(self._recipe_of, recipe),
            limits=ParserLimits(settings.parse_timeout_s, settings.parse_memory_mb * 2**20),
            model=model,
            load_model=self.embedder,
        )

    def settings_of(self, db: Connection, project_pk: int | None) -> Settings:
        """Return the settings in force for the files of a project; None: of one without settings of its own.

        Raises ConfigurationError where the project's own cannot be used, NotFoundError.
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
        model = model_files.resolve(settings.model, cache_dir=self._cache_dir())
        try:
            self._chunk_settings(model, settings)
        except ConfigurationError as error:
            raise UsageError(error.message) from error

    def _warn_of_unknown(self, project: Project) -> None:
        for key in project_settings.unknown(project):
            if (project.pk, key) not in self._warned:
                log.warning("setting of a newer version ignored", project=project.id, setting=key)
            self._warned.add((project.pk, key))

    def _recipe_of(self, make: Callable[[Settings], Recipe], db: Connection, project_pk: int | None) -> Recipe:
        settings = self.settings_of(db, project_pk)
        try:
            return make(settings)
        except ConfigurationError as error:  # of the model's limit: the settings of all projects were tried before
            assert project_pk is not None
            raise project_settings.unusable(projects.by_pk(db, project_pk), error) from error

    def _recipe(self, model: ModelFiles, passwords: tuple[str, ...], settings: Settings) -> Recipe:
        from pipeline.detect import Kind
        from pipeline.extract import parser_version
        from pipeline.parse import ParseSettings
        from workers.runner import Recipe

        pdf_engine = cast(Literal["pypdf", "pypdfium2"], settings.pdf_engine)
        parsers = frozenset(parser_version(kind, pdf_engine=pdf_engine) for kind in Kind)
        chunks = self._chunk_settings(model, settings)
        parse = ParseSettings(
            chunks=chunks,
            passwords=passwords,
            pdf_engine=pdf_engine,
            max_file_bytes=settings.max_file_mb * 2**20,
            max_chunks_per_file=settings.max_chunks_per_file,
        )
        return Recipe(parse, Versions(chunks.fingerprint(), parsers))

    def _cache_dir(self) -> Path | None:
        """Return where compiled models are kept; None means the user's cache folder."""
        chosen = self.settings.cache_dir
        return Path(chosen).expanduser().absolute() if chosen else None

    def _embed_settings(self) -> EmbedSettings:
        from pipeline.embed import EmbedSettings

        settings = self.settings
        return EmbedSettings(
            model=settings.model,
            backend=cast(Literal["auto", "openvino", "torch"], settings.backend),
            precision=cast(Literal["auto", "bf16", "fp32"], settings.precision),
            device=settings.device,
            threads=settings.threads,
            batch_size=settings.batch_size,
            cache_dir=self._cache_dir(),
        )

    def _chunk_settings(self, model: ModelFiles, settings: Settings) -> ChunkSettings:
        """Return how texts are cut: as long as asked for, or as the model takes beside its prompt."""
        from pipeline import model_files
        from pipeline.chunk import ChunkSettings

        limit = model_files.max_tokens(model)
        longest = settings.max_tokens or limit
        if longest > limit:
            raise ConfigurationError(
                f"max_tokens = {longest}: {settings.model} takes {limit}; lower it, or give 0 for just that"
            )
        longest = min(longest, limit - _prompt_tokens(model))
        try:
            return ChunkSettings(
                max_tokens=longest,
                target_tokens=round(longest * _TARGET_SHARE),
                min_tokens=min(32, round(longest * _TARGET_SHARE)),
                overlap_tokens=settings.overlap_tokens,
                heading_tokens=round(longest * _HEADING_SHARE),
            )
        except UsageError as error:
            raise ConfigurationError(f"[chunking] {error.message}") from error


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
