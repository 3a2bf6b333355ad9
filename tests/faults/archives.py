"""Archives that unpack to far more than they are, or to places where nothing of theirs belongs.

Source of the kinds: D. Fifield, "A better zip bomb", WOOT 2019; Snyk, "Zip Slip", 2018.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator

from faults.samples import PACKAGES, Parts, packed

MAIN = {
    "docx": "word/document.xml",
    "pptx": "ppt/presentation.xml",
    "xlsx": "xl/worksheets/sheet1.xml",
    "odt": "content.xml",
    "odp": "content.xml",
    "ods": "content.xml",
    "epub": "a.xhtml",
}
"""The part with the text of each format."""

_SIZE, _METHOD_AND_FLAGS, _OFFSET = 24, 8, 42
"""Where a record of the central directory states the unpacked size, the flags, and where the entry begins."""


def stating(data: bytes, name: str, field: int, value: int) -> bytes:
    """The archive with a number of four bytes changed in the directory's record of an entry."""
    record = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    at = record + field
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


def _padded(parts: Parts, name: str, count: int) -> dict[str, bytes]:
    """A part followed by so many spaces, which XML allows at its end."""
    return {**parts, name: parts[name] + b" " * count}


def _dense(parts: Parts, main: str) -> bytes:
    return packed(_padded(parts, main, 3_000_000))


def _large(parts: Parts, main: str) -> bytes:
    return stating(packed({**parts, "media/a.bin": b"x"}), "media/a.bin", _SIZE, 210_000_000)


def _understated(parts: Parts, main: str) -> bytes:
    return stating(packed(_padded(parts, main, 900_000)), main, _SIZE, 10)


def _many(parts: Parts, main: str) -> bytes:
    return packed({**parts, **{f"x/{number}.xml": b"" for number in range(2_001)}})


def _overlapping(parts: Parts, main: str) -> bytes:
    """All entries begin where the first one does, as in a bomb of one kernel."""
    names = [f"y{number}.xml" for number in range(30)]
    data = packed({**parts, **dict.fromkeys(names, b"lol" * 1_000)})
    first = _offset(data, names[0])
    for name in names[1:]:
        data = stating(data, name, _OFFSET, first)
    return data


def _quoted(parts: Parts, main: str) -> bytes:
    """An entry that begins within the one before it."""
    data = packed({**parts, "y0.xml": b"lol" * 100, "y1.xml": b"lol" * 100})
    return stating(data, "y1.xml", _OFFSET, _offset(data, "y0.xml") + 1)


def _offset(data: bytes, name: str) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.getinfo(name).header_offset


def _twice(parts: Parts, main: str) -> bytes:
    """Two entries of one name, as readers differ in which of them they take."""
    at = f"{main[:-1]}?"
    data = packed({**parts, at: b"<another/>"})
    return data.replace(at.encode(), main.encode())


def _nested(parts: Parts, main: str) -> bytes:
    """An archive in an archive in an archive, in the place of the text."""
    inner = packed({**parts})
    for _ in range(6):
        inner = packed({**parts, main: inner})
    return inner


OUTSIDE = "outside"
"""The folder beside the one that is ingested, the current one and that for temporary files: the aim of every climb."""


def _climbing(name: str) -> Callable[[Parts, str], bytes]:
    return lambda parts, main: packed({**parts, name: b"escaped"})


KINDS: dict[str, tuple[Callable[[Parts, str], bytes], tuple[str, ...]]] = {
    "dense": (_dense, ("too_large",)),
    "large": (_large, ("too_large",)),
    "understated": (_understated, ("corrupt",)),
    "many": (_many, ("too_large",)),
    "overlapping": (_overlapping, ("corrupt",)),
    "quoted": (_quoted, ("corrupt",)),
    "twice": (_twice, ("corrupt",)),
    "nested": (_nested, ("corrupt", "no_text")),
    "climbs": (_climbing(f"../{OUTSIDE}/a.xml"), ("corrupt",)),
    "climbs-on": (_climbing(f"word/../../{OUTSIDE}/b.xml"), ("corrupt",)),
    "climbs-windows": (_climbing(f"..\\{OUTSIDE}\\c.xml"), ("corrupt",)),
    "drive": (_climbing("C:/d.xml"), ("corrupt",)),
    "absolute": (_climbing("/ABSOLUTE/e.xml"), ("corrupt",)),
}
"""What is done to a sound archive, of its parts and the name of the one with the text, and the codes it ends with."""


def every(outside: str) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Yield each attack on each format: file name, bytes, and the codes it may end with.

    outside: the full path of the folder `OUTSIDE`.
    """
    for extension, parts in PACKAGES.items():
        for kind, (make, ends) in KINDS.items():
            data = make(parts, MAIN[extension])
            if kind == "absolute":
                data = packed({**parts, f"{outside}/e.xml": b"escaped"})
            yield f"{kind}.{extension}", data, ends
