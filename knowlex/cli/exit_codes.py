"""What the process says to its caller when it ends."""

from __future__ import annotations

import signal

from storage.errors import ConfigurationError, DatabaseError, KnowlexError, NotFoundError, UsageError

OK = 0
SOME_FAILED = 1
USAGE = 2
NOT_FOUND = 3
DATABASE = 4
BUG = 70
"""An error that nobody foresaw (EX_SOFTWARE of sysexits.h)."""

BROKEN_PIPE = 128 + signal.SIGPIPE
"""The reader of the output went away: what the shell shows for any program that ends by it."""

INTERRUPTED = 128 + signal.SIGINT


def of_error(error: KnowlexError) -> int:
    """Return the exit code of an error."""
    match error:
        case UsageError():
            return USAGE
        case NotFoundError():
            return NOT_FOUND
        case DatabaseError() | ConfigurationError():
            return DATABASE
        case _:
            return SOME_FAILED
