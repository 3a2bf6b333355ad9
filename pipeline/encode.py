"""Texts to vectors as they are stored, and whose fault it is where there is none: the text's or the model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage import vectors
from storage.errors import (
    ConfigurationError,
    DatabaseError,
    KnowlexError,
    PermanentError,
    TransientError,
    UsageError,
)
from storage.vectors import Model, Vector

if TYPE_CHECKING:
    from pipeline.embed import Embedder, Vectors

PROBE = "The harbour opens at high water."
"""A text that every model has a vector for: one that has none for it is at fault, and not a text."""


def encode(embedder: Embedder, model: Model, texts: Sequence[str], *, whole: bool = False) -> list[Vector]:
    """Return the model's vectors of texts, in their order.

    whole: they may be longer than the model takes; see `embed.embed_whole`.
    Raises PermanentError where one is unsound, TransientError where the model fails in another way, as if of one text.
    """
    try:
        made = vectors.encode(_embedded(embedder, texts, whole=whole), dim=model.dim)
        if len(made) != len(texts):
            raise UsageError(f"{len(made)} vectors for {len(texts)} texts")
    except (ConfigurationError, DatabaseError):
        raise
    except KnowlexError as error:
        raise PermanentError(
            "the model gives no sound vector for it: leave it out, or set precision to fp32 and run knowlex retry",
            code="no_vector",
        ) from error
    except Exception as error:  # the libraries of models raise whatever they meet
        raise TransientError(
            f"the model fails on it ({type(error).__name__}): leave it out, or run knowlex retry", code="no_vector"
        ) from error
    return made


def _embedded(embedder: Embedder, texts: Sequence[str], *, whole: bool) -> Vectors:
    if not whole:
        return embedder.embed_documents(texts)
    from pipeline.embed import embed_whole

    return embed_whole(embedder, texts)


def require_sound(embedder: Embedder, model: Model) -> None:
    """Raise ConfigurationError where the model gives no sound vector for a plain text."""
    try:
        encode(embedder, model, [PROBE])
    except (PermanentError, TransientError) as error:
        cause = error.__cause__
        told = cause.message if isinstance(cause, KnowlexError) else type(cause).__name__
        raise ConfigurationError(
            f"{model.name}: gives no sound vector for any text ({told}); set precision to fp32, or choose another model"
        ) from error
