"""What can be searched."""

from __future__ import annotations

from enum import StrEnum


class Source(StrEnum):
    """Where a passage comes from; the value is what the tables keep."""

    FILE = "file"
    MEMORY = "memory"
    MESSAGE = "message"


NO_PROJECT = 0
"""Stands for "of no project" where a project's pk is part of a key."""
