"""What a reader is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read the text of.

    data: all of its bytes. name: its base name, for formats whose bytes do not tell one dialect from another.
    parser: name and version of the reader, for the document it makes. passwords: to try on an encrypted PDF.
    """

    data: bytes
    name: str
    parser: str
    passwords: Sequence[str] = ()
