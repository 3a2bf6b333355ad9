"""What a caller of the server may not choose, whatever its token: models, places on the disk, and what bounds the work.

Models run as native code on the owner's machine, and the name of one is fetched or read from disk; so no door that
strangers reach takes one. `kb.settings` is none of this: Knowlex itself reads nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from knowlex import project_settings
from knowlex.config import Settings
from storage.errors import ForbiddenError

OF_THE_OWNER = frozenset(field.name for field in fields(Settings)) - {"given", *project_settings.KEYS}
"""The settings that only the owner of the server has: no request names one."""

BOUNDS = ("max_file_mb", "max_chunks_per_file")
"""The settings of a project that a caller may make smaller than its owner has them, and no larger."""

OWNERS_CALLS = frozenset(
    {
        "reembed",
        "reembedding",
        "evaluate",
        "migrate",
        "backup",
        "restore",
        "repair",
        "maintain",
        "erase",
        "find_to_erase",
    }
)
"""What no request leads to: calls that take a model or a place on the disk, or concern the database as a whole."""


ON_THE_COMMAND_LINE = "give it with --pdf-password-file"
ELSEWHERE = "give an unprotected copy, or have the owner run knowlex retry with --pdf-password-file"


def why(message: str | None) -> str | None:
    """Return why a file failed, with the remedy that there is for who is not at the owner's command line."""
    return None if message is None else message.replace(ON_THE_COMMAND_LINE, ELSEWHERE)


def require_settable(
    configuration: Settings, settings: Mapping[str, Any] | None = None, set: Mapping[str, Any] | None = None
) -> None:
    """Raise ForbiddenError where a caller would give a project a setting that is the owner's, or a larger bound.

    configuration: the owner's. settings, set: what `Projects.create` and `Projects.update` are given.
    """
    own = (settings or {}).get(project_settings.NAME)
    kept = cast(dict[str, Any], own) if isinstance(own, dict) else {}  # anything else is refused by whoever keeps it
    for key, value in (*kept.items(), *(set or {}).items()):
        if key in OF_THE_OWNER:
            raise ForbiddenError(f"{key}: is for the server's owner to set; a project may have {_settable()}")
        if key in BOUNDS and isinstance(value, int | float) and value > getattr(configuration, key):
            most = getattr(configuration, key)
            raise ForbiddenError(f"{key} = {value}: is more than the server's owner allows; give at most {most}")


def _settable() -> str:
    return ", ".join(project_settings.KEYS)
