"""Passages that are searched already, from one model's vectors to another's.

inputs = model_input(passage)       what ingestion gave the model, made again from what is stored
known  = stored(inputs)             inputs that the new model has seen before
made   = embed(the others)          the model's work, outside any transaction
succession.keep(made)               one transaction; see storage.succession
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from pipeline.chunk import embedding_input
from pipeline.embed import Embedder, ModelIdentity
from pipeline.encode import encode, require_sound
from pipeline.model_files import token_ids
from storage import succession, vectors
from storage.connection import Connection
from storage.database import Database
from storage.errors import ConfigurationError, KnowlexError, PermanentError, TransientError
from storage.sources import Source
from storage.succession import Passage
from storage.vectors import Model, Vector


@dataclass(frozen=True, slots=True)
class Input:
    """A passage, what a model is to see of it, and the hash of that."""

    passage: Passage
    text: str
    hash: bytes


def inputs(passages: Iterable[Passage]) -> list[Input]:
    """Return what a model is to see of passages: the same that it saw when they came in."""
    texts = ((passage, model_input(passage)) for passage in passages)
    return [Input(passage, text, vectors.input_hash(text)) for passage, text in texts]


def model_input(passage: Passage) -> str:
    """Return what a model is to see of a passage."""
    return embedding_input(passage.heading, passage.text) if passage.source is Source.FILE else passage.text


def stored(db: Connection, model: Model, wanted: Sequence[Input]) -> dict[bytes, Vector]:
    """Return the vectors that the model has already for some of the inputs, by their hash."""
    return vectors.known(db, model.pk, [each.hash for each in wanted])


def embed(database: Database, embedder: Embedder, model: Model, wanted: Sequence[Input]) -> dict[bytes, Vector]:
    """Return the model's vectors of inputs, each distinct one asked for once, by their hash.

    Raises ConfigurationError where the model gives no sound vector, naming the passage where it does for others.
    """
    return _embed(database, embedder, model, list({each.hash: each for each in wanted}.values()))


def _embed(database: Database, embedder: Embedder, model: Model, distinct: Sequence[Input]) -> dict[bytes, Vector]:
    if not distinct:
        return {}
    try:
        made = encode(embedder, model, [each.text for each in distinct], whole=True)
    except (PermanentError, TransientError) as error:
        if len(distinct) == 1:
            require_sound(embedder, model)
            raise _refused(database, model, distinct[0].passage, error) from error
    else:
        return dict(zip((each.hash for each in distinct), made, strict=True))
    middle = len(distinct) // 2
    halves = distinct[:middle], distinct[middle:]
    return {digest: vector for half in halves for digest, vector in _embed(database, embedder, model, half).items()}


def _refused(database: Database, model: Model, passage: Passage, error: KnowlexError) -> ConfigurationError:
    cause = error.__cause__
    told = cause.message if isinstance(cause, KnowlexError) else type(cause).__name__
    with database.read() as db:
        name = succession.name_of(db, passage.key)
    return ConfigurationError(
        f"{model.name}: gives no sound vector for {name} ({told}); set precision to fp32, change or delete it, or"
        " choose another model"
    )


def too_long(tokenizer: Tokenizer, identity: ModelIdentity, wanted: Sequence[Input]) -> list[Passage]:
    """Return the passages that are longer than the model takes at once; see `embed.embed_whole`.

    tokenizer: the model's, not truncating.
    """
    counts = map(len, token_ids(tokenizer, [identity.document_prompt + each.text for each in wanted]))
    return [each.passage for each, count in zip(wanted, counts, strict=True) if count > identity.max_tokens]


def keep(db: Connection, model: Model, wanted: Sequence[Input], found: dict[bytes, Vector]) -> None:
    """Store the vectors of passages, beside the live ones; what was edited or deleted meanwhile gets none.

    Raises ModelSwitchedError where the model was dropped meanwhile.
    """
    succession.keep(db, model.pk, [(each.passage, each.hash, found[each.hash]) for each in wanted])
