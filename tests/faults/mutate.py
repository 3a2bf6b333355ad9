"""Bytes damaged at random, as disks, transfers and attackers do it: the same number always damages in the same way."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
from collections.abc import Callable, Sequence

from faults.samples import packed

Change = Callable[[bytes, random.Random], bytes]


def mutated(data: bytes, number: int, others: Sequence[bytes]) -> bytes:
    """The damaged form of `data` with this number; others: what pieces are taken from.

    Of a zip archive, half the time one part of it is damaged, and the archive itself is sound.
    """
    rng = random.Random(number)
    if data.startswith(b"PK\3\4") and rng.random() < 0.5:
        return _within(data, rng, others)
    return _damaged(data, rng, others)


def _damaged(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _spliced(data, rng, others) if rng.random() < 0.1 else rng.choice(CHANGES)(data, rng)
    return data


def _within(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, OSError):
        return _damaged(data, rng, others)
    name = rng.choice(sorted(parts))
    return packed(parts | {name: _damaged(parts[name], rng, others)})


def _place(data: bytes, rng: random.Random, width: int = 1) -> int:
    return rng.randrange(max(1, len(data) - width + 1))


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 3, 20))):
        changed[_place(changed, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    at, length = _place(data, rng), rng.choice((1, 4, 64, 1024))
    filled = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return data[:at] + filled + data[at + length :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _cut_out(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 16, 256, 4096)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    """Write a piece several times over: what nests or lists then does so much more."""
    at, length = _place(data, rng), rng.choice((1, 8, 64, 512))
    return data[:at] + data[at : at + length] * rng.choice((2, 10, 1000)) + data[at + length :]


EDGES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _length_field(data: bytes, rng: random.Random) -> bytes:
    """Put a number at the edge of what its bytes hold where a length may lie."""
    code = rng.choice("BHIQ")
    width = struct.calcsize(f"={code}")
    number = rng.choice((*EDGES, len(data))) & (2 ** (8 * width) - 1)
    at = _place(data, rng, width)
    return data[:at] + struct.pack(rng.choice("<>") + code, number) + data[at + width :]


NUMBERS = (b"0", b"-1", b"1e309", b"4294967296", b"99999999999999999999", b"9" * 5_000, b"NaN")


def _written_number(data: bytes, rng: random.Random) -> bytes:
    """Put another number where one is written in digits."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return _flip_bits(data, rng)
    chosen = rng.choice(found)
    return data[: chosen.start()] + rng.choice(NUMBERS) + data[chosen.end() :]


def _tag(data: bytes, rng: random.Random) -> bytes:
    """Take out, double or nest a tag, or a bracket."""
    found = list(re.finditer(rb"<[^<>]{1,200}>|[\[\](){}]", data))
    if not found:
        return _flip_bits(data, rng)
    chosen = rng.choice(found)
    return data[: chosen.start()] + chosen[0] * rng.choice((0, 2, 300, 20_000)) + data[chosen.end() :]


CHANGES: tuple[Change, ...] = (
    *(_flip_bits, _overwrite, _truncate, _cut_out, _repeat, _length_field, _written_number, _tag),
)


def _spliced(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Put a piece of another file into this one."""
    other = rng.choice(others)
    begin, at = _place(other, rng), _place(data, rng)
    return data[:at] + other[begin : begin + rng.choice((16, 256, 4096))] + data[at:]
