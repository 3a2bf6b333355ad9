"""Knowlex: which passages of a project's files, conversations and memories matter for a question?

    from knowlex import Knowlex

    with Knowlex() as kb:
        kb.ingest("notes", "~/notes")
        kb.search("notes", "what did we decide about refunds?")

Importing this package loads neither a model nor a database driver; each comes when first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.errors import (
    ConfigurationError,
    ConstraintError,
    CorruptDatabaseError,
    DamagedValueError,
    DatabaseError,
    DiskFullError,
    ExtractError,
    ForbiddenError,
    ForeignKeyError,
    KnowlexError,
    LeaseLostError,
    LockedError,
    ModelMismatchError,
    ModelSwitchedError,
    NewerSchemaError,
    NotADatabaseError,
    NotFoundError,
    PermanentError,
    ReadOnlyError,
    ReplacedError,
    TransientError,
    UniqueError,
    UsageError,
)

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from knowlex.hits import Hit, Hits

    __version__: str

__all__ = [
    "ConfigurationError",
    "ConstraintError",
    "CorruptDatabaseError",
    "DamagedValueError",
    "DatabaseError",
    "DiskFullError",
    "ExtractError",
    "ForbiddenError",
    "ForeignKeyError",
    "Hit",
    "Hits",
    "Knowlex",
    "KnowlexError",
    "LeaseLostError",
    "LockedError",
    "ModelMismatchError",
    "ModelSwitchedError",
    "NewerSchemaError",
    "NotADatabaseError",
    "NotFoundError",
    "PermanentError",
    "ReadOnlyError",
    "ReplacedError",
    "TransientError",
    "UniqueError",
    "UsageError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    match name:
        case "__version__":
            from importlib.metadata import version

            return version("knowlex")
        case "Knowlex":
            from knowlex.facade import Knowlex

            return Knowlex
        case "Hit" | "Hits":
            from knowlex import hits

            return getattr(hits, name)
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
