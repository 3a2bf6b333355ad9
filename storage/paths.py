"""Where the database lies when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

DATABASE_NAME = "knowlex.db"


def database_path(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the database to open.

    `path` where given, else `KNOWLEX_DB`, else `./data/knowlex.db` when `KNOWLEX_ENV` is
    `development`, else the user's data folder (platformdirs). Absolute; nothing is created.
    """
    chosen = path or os.environ.get("KNOWLEX_DB")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if os.environ.get("KNOWLEX_ENV") == "development":
        return Path("data", DATABASE_NAME).absolute()
    import platformdirs  # 17 ms of start-up that most calls do not need

    return Path(platformdirs.user_data_dir("knowlex", appauthor=False)) / DATABASE_NAME


def own_files(database: Path) -> tuple[Path, ...]:
    """Return the files SQLite keeps for `database`; nothing but the engine may ever open them.

    Opening and closing one of them elsewhere in the process drops the engine's locks
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    return tuple(database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm", "-journal"))
