"""What a caller of the server may not choose, whatever its token: models, places on the disk, and what bounds the work.

Models run as native code on the owner's machine, and the name of one is fetched or read from disk; so no door that
strangers reach takes one. `kb.settings` is none of this: Knowlex itself reads nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from knowlex import project_settings
from knowlex.config import Settings
from storage.errors import ForbiddenError

SETTABLE = ("include", "exclude", "hidden", "pdf_engine", *project_settings.CHUNKING)
"""The settings of its own that a caller who may write may give a project."""

OF_THE_OWNER = frozenset(field.name for field in fields(Settings)) - {"given", *SETTABLE}
"""The settings that only the owner of the server has: no request names one."""

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


def require_settable(
    settings: Mapping[str, Any] | None = None, set: Mapping[str, Any] | None = None, unset: Iterable[str] = ()
) -> None:
    """Raise ForbiddenError where a caller of the server would change a setting of a project that is its owner's.

    settings, set, unset: what `Projects.create` and `Projects.update` are given.
    """
    own = (settings or {}).get(project_settings.NAME)
    named = [*(own if isinstance(own, dict) else ()), *(set or ()), *unset]  # pyright: ignore[reportUnknownVariableType]
    for key in named:
        if key in OF_THE_OWNER:
            raise ForbiddenError(f"{key}: is for the server's owner to set; a caller may set {', '.join(SETTABLE)}")
