"""Every error that Knowlex raises on purpose, as one tree.

KnowlexError                   what happened and what to do; `code` names the cause for machines
├── UsageError                 a value the caller gave cannot be used            (exit 2)
├── NotFoundError              a project, file, path or record does not exist    (exit 3)
├── ForbiddenError             the caller's token does not allow this            (exit 1)
├── ConfigurationError         a setting, model folder or cache cannot be used   (exit 4)
├── DatabaseError              the database cannot do what was asked             (exit 4)
│   ├── NotADatabaseError      the file is something else
│   ├── CorruptDatabaseError   pages are damaged
│   │   └── DamagedValueError  a value that no function of Knowlex writes; the rows beside it can be read
│   ├── LockedError            another process held the lock past the time-out
│   ├── ReadOnlyError          the file or its folder cannot be written
│   ├── DiskFullError          no space left for the transaction
│   ├── NewerSchemaError       written by a newer Knowlex
│   ├── ReplacedError          a restore put another content in the place of the one that was opened
│   ├── ConstraintError        what a table demands of its rows was violated
│   │   ├── UniqueError        a row with this name or key exists already
│   │   └── ForeignKeyError    a row refers to one that does not exist
│   ├── ModelMismatchError     vectors in the database come from another model
│   └── ModelSwitchedError     another model became live; make the vectors anew with that
├── LeaseLostError             another worker owns the file now; discard the work
├── PermanentError             this file will fail again with the same bytes
│   └── ExtractError           the bytes hold no text that can be read
└── TransientError             trying again later may help

A message is one line: the input, the cause, the remedy. Each door maps the tree once.
"""

from __future__ import annotations


class KnowlexError(Exception):
    """Something went wrong that the user can understand and act on."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class UsageError(KnowlexError, ValueError):
    """A value the caller gave cannot be used."""

    code = "usage"


class NotFoundError(KnowlexError, LookupError):
    """A project, file, path or record does not exist. project: what was given for one that does not; else None."""

    code = "not_found"

    def __init__(self, message: str, *, code: str | None = None, project: str | None = None) -> None:
        super().__init__(message, code=code)
        self.project = project


class ForbiddenError(KnowlexError):
    """The caller's token does not allow this."""

    code = "forbidden"


class ConfigurationError(KnowlexError):
    """A setting, model folder or cache cannot be used."""

    code = "configuration"


class DatabaseError(KnowlexError):
    """The database cannot do what was asked."""

    code = "database"


class NotADatabaseError(DatabaseError):
    """The file is not a Knowlex database."""

    code = "not_a_database"


class CorruptDatabaseError(DatabaseError):
    """Pages of the database are damaged."""

    code = "corrupt_database"


class DamagedValueError(CorruptDatabaseError):
    """A row holds a value that no function of Knowlex writes; the rows beside it can be read."""

    code = "damaged_value"


class LockedError(DatabaseError):
    """Another process held the write lock past the time-out."""

    code = "locked"


class ReadOnlyError(DatabaseError):
    """The database or its folder cannot be written."""

    code = "read_only"


class DiskFullError(DatabaseError):
    """No space is left for the transaction; nothing of it was kept."""

    code = "disk_full"


class NewerSchemaError(DatabaseError):
    """The database was written by a newer Knowlex."""

    code = "newer_schema"


class ReplacedError(DatabaseError):
    """A restore put another content in the place of the one that was opened."""

    code = "replaced"


class ConstraintError(DatabaseError):
    """What a table demands of its rows was violated."""

    code = "constraint"


class UniqueError(ConstraintError):
    """A row with this name or key exists already."""

    code = "unique"


class ForeignKeyError(ConstraintError):
    """A row refers to one that does not exist."""

    code = "foreign_key"


class ModelMismatchError(DatabaseError):
    """The vectors in the database come from another embedding model."""

    code = "model_mismatch"


class ModelSwitchedError(DatabaseError):
    """Another embedding model became live meanwhile; what the former made must be made anew."""

    code = "model_switched"


OF_THE_WHOLE = (
    LockedError,
    ModelSwitchedError,
    NewerSchemaError,
    NotADatabaseError,
    ReadOnlyError,
    ReplacedError,
)
"""Errors of no part of a database alone: whatever is asked of it fails by them, or can be asked again."""


class LeaseLostError(KnowlexError):
    """Another worker owns the file now; what was computed must be discarded."""

    code = "lease_lost"


class PermanentError(KnowlexError):
    """This file will fail again with the same bytes."""

    code = "permanent"


class ExtractError(PermanentError):
    """The bytes hold no text that can be read.

    `code` is one of: empty, corrupt, encrypted, no_text, too_large, timeout, memory, crashed,
    too_many_chunks.
    """

    code = "corrupt"


class TransientError(KnowlexError):
    """Trying again later may help."""

    code = "transient"
