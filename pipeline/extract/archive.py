"""The guard before any zip-based format is parsed: nothing is inflated that its directory does not allow.

A zip's central directory states every size, so bombs are refused before a byte of them is unpacked; and
as the directory may lie, no entry is inflated further than it states.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable

from storage.errors import ExtractError

MAX_ENTRIES = 2_000
MAX_TOTAL_BYTES = 200_000_000
MAX_RATIO = 100
RATIO_FREE_BYTES = 1_000_000
"""Below this size an entry may be packed at any ratio."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


def unpack(data: bytes, *, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The wanted entries of a zip archive, by name with forward slashes.

    Raises ExtractError: too_large for a bomb, encrypted, corrupt for anything else that is wrong with it.
    Source of the limits: the figures Apache POI and Tika use, Fifield's overlapping-entry bombs.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check(archive)
            entries = [e for e in archive.infolist() if wanted(_name(e)) and not _name(e).endswith("/")]
            for entry in entries:
                _check_ratio(entry)
            return {_name(entry): _inflate(archive, entry) for entry in entries}
    except _DAMAGE as error:
        cause = f"its archive cannot be read ({type(error).__name__})"
        raise ExtractError(f"corrupt: {cause}: save it again with the program it comes from") from error


def check(archive: zipfile.ZipFile) -> None:
    """Refuse a bomb, overlapping or repeated entries and names that climb out of the archive."""
    entries = archive.infolist()
    _check_sizes(entries)
    _check_names(entries)
    _check_overlap(entries, archive.start_dir)
    if any(entry.flag_bits & 1 for entry in entries):
        raise ExtractError("encrypted archive: save an unprotected copy", code="encrypted")


def _check_sizes(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise _too_large(f"it has {len(entries):,} parts, more than the {MAX_ENTRIES:,} allowed")
    total = sum(entry.file_size for entry in entries)
    if total > MAX_TOTAL_BYTES:
        allowed = f"{MAX_TOTAL_BYTES / 1e6:,.0f} MB"
        raise _too_large(f"it unpacks to {total / 1e6:,.0f} MB, more than the {allowed} allowed")


def _check_ratio(entry: zipfile.ZipInfo) -> None:
    # Of what is inflated only: real documents hold blank pictures packed at more than 100:1.
    if entry.file_size > RATIO_FREE_BYTES and entry.file_size > MAX_RATIO * entry.compress_size:
        raise _too_large(f"a part of it is packed more than {MAX_RATIO}:1, as in a zip bomb")


def _too_large(reason: str) -> ExtractError:
    return ExtractError(f"too large: {reason}: split it, or save it again if you trust it", code="too_large")


def _check_names(entries: list[zipfile.ZipInfo]) -> None:
    names = [_name(entry) for entry in entries]
    if len(set(names)) < len(names):
        raise ExtractError("corrupt: two entries of its archive have the same name: save it again")
    if any(name.startswith("/") or name[1:2] == ":" or ".." in name.split("/") for name in names):
        raise ExtractError("corrupt: a name in its archive leads out of it: do not trust this file")


_LOCAL_HEADER_BYTES = 30
"""Without the name and the extra field that follow it."""


def _check_overlap(entries: list[zipfile.ZipInfo], end: int) -> None:
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        if entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size > end:
            raise ExtractError("corrupt: the entries of its archive overlap: do not trust this file")
        end = entry.header_offset


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.orig_filename.replace("\\", "/")


def _inflate(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:
        return stream.read(entry.file_size + 1)  # a bound: read() without one inflates all there is
