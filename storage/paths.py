"""Where the database lies when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

from storage.errors import DatabaseError, NotFoundError, UsageError
from storage.fields import kind_of

DATABASE_NAME = "knowlex.db"


def database_path(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the database to open.

    `path` where given, else `KNOWLEX_DB`, else `./data/knowlex.db` when `KNOWLEX_ENV` is
    `development`, else the user's data folder (platformdirs). Absolute and without links, as the engine
    keeps its log beside the file itself, and so do we our copies; nothing is created.
    """
    return Path(os.path.realpath(_chosen(path)))


def given_path(path: str | os.PathLike[str], what: str) -> Path:
    """Return a path as a program gave it, ~ replaced where that is somebody's folder; `what` names it in the error.

    Raises UsageError for what is no path.
    """
    try:
        given = Path(path)
    except TypeError:
        raise UsageError(f"{what}: is {kind_of(path)}; give a path, as a text or a Path") from None
    if "\0" in str(given):
        raise UsageError(f"{what}: holds a NUL character; remove it")
    try:
        return given.expanduser()
    except RuntimeError:  # ~ and the name of nobody
        return given


def _chosen(path: str | os.PathLike[str] | None) -> Path:
    chosen = os.environ.get("KNOWLEX_DB", "") if path is None or path == "" else path
    return given_path(chosen, "path") if chosen != "" else _usual()


def _usual() -> Path:
    if os.environ.get("KNOWLEX_ENV") == "development":
        return Path("data", DATABASE_NAME)
    import platformdirs  # 17 ms of start-up that most calls do not need

    return Path(platformdirs.user_data_dir("knowlex", appauthor=False)) / DATABASE_NAME


def require_folder(path: Path) -> None:
    """Raise NotFoundError where the folder of a database that somebody named is missing: the name may be mistyped."""
    if not is_there(path.parent) and path != Path(os.path.realpath(_usual())):
        raise NotFoundError(f"{path.parent}: no such folder; make it, or correct --db or KNOWLEX_DB")


def is_there(path: Path) -> bool:
    """Tell whether anything is at a path; raises DatabaseError where the rights of its folders hide that."""
    try:
        return path.exists()
    except OSError as error:
        raise DatabaseError(
            f"{path}: cannot be looked for ({error.strerror}); check the rights of the folders above it"
        ) from error


def may(path: Path, rights: int) -> bool:
    """Tell whether this process has rights (os.R_OK, os.W_OK) on what is at a path, and on a disk that lets it."""
    return os.access(path, rights, effective_ids=os.access in os.supports_effective_ids)


def no_database(path: Path) -> NotFoundError:
    """Return the error for a database that is not there."""
    return NotFoundError(
        f"{path}: no such database; name an existing one with --db, or make it with knowlex ingest PROJECT PATH"
    )


def own_files(database: Path) -> tuple[Path, ...]:
    """Return the files SQLite keeps for `database`; nothing but the engine may ever open them.

    Opening and closing one of them elsewhere in the process drops the engine's locks
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    return tuple(database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm", "-journal"))


def size_of(file: Path) -> int:
    """Return the bytes in a file; 0 where there is none, as the last to use a database removes its log."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
