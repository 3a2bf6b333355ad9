"""Files that were made to hang, starve or crash whoever reads them, and how each must end."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from faults.samples import DATA, PACKAGES, WORDS, packed

CONTAINED = ("memory", "timeout", "crashed")


@dataclass(frozen=True, slots=True)
class Hostile:
    """What is in a file, and the codes that it may end with; "ready" where it does no harm."""

    make: Callable[[], bytes]
    ends: tuple[str, ...]


def _part(extension: str, name: str, content: bytes) -> bytes:
    return packed(PACKAGES[extension] | {name: content})


def _docx(body: bytes) -> bytes:
    document = PACKAGES["docx"]["word/document.xml"].decode()
    head, _, tail = document.partition("<w:tbl>")
    return _part("docx", "word/document.xml", head.encode() + body + tail.partition("</w:tbl>")[2].encode())


def _pdf(objects: list[bytes]) -> bytes:
    """A PDF of numbered objects without an index, which readers make for themselves."""
    numbered = b"".join(b"%d 0 obj\n%b\nendobj\n" % (number, text) for number, text in enumerate(objects, 1))
    return b"%PDF-1.4\n" + numbered + b"trailer <</Root 1 0 R/Size 9>>\nstartxref\n0\n%%EOF\n"


def _circular_pdf() -> bytes:
    pages = b"<</Type/Pages/Count 1000000000/Kids[2 0 R 2 0 R]/Parent 2 0 R>>"
    return _pdf([b"<</Type/Catalog/Pages 2 0 R/Outlines 3 0 R>>", pages, b"<</First 3 0 R/Next 3 0 R/Last 3 0 R>>"])


def _swollen_pdf() -> bytes:
    packed_spaces = zlib.compress(bytes(60 * 2**20))
    stream = b"<</Filter/FlateDecode/Length %d>>stream\n%b\nendstream" % (len(packed_spaces), packed_spaces)
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents[" + b"4 0 R " * 20 + b"]>>"
    return _pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 1/Kids[3 0 R]>>", page, stream])


def _multipart(depth: int) -> bytes:
    head = b"From: a@b.example\nMessage-ID: <1@b.example>\nMIME-Version: 1.0\n"
    levels = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(depth))
    return head + levels + b"Content-Type: text/plain\n\n" + WORDS.encode()


REFUSED = ("corrupt", "no_text", "empty", "too_large", "unsupported", "too_many_chunks")
ANY = ("ready", *REFUSED, *CONTAINED)

HOSTILE: dict[str, Hostile] = {
    "starves.txt": Hostile(lambda: b"word " * (32 * 2**20), (*CONTAINED, "too_many_chunks")),
    "hangs.html": Hostile(lambda: b"<i>a" * 300_000, ("timeout",)),
    "dense.html": Hostile(lambda: b"<p>" * 1_500_000, ("too_large",)),
    "deep.html": Hostile(lambda: b"<div>" * 20_000 + WORDS.encode(), ANY),
    "deep.json": Hostile(lambda: b"[" * 200_000, ANY),
    "deep.xml": Hostile(lambda: b"<?xml version='1.0'?>" + b"<a>" * 200_000, ANY),
    "deep.rtf": Hostile(lambda: rb"{\rtf1" + b"{" * 200_000 + b"x", ANY),
    "deep.eml": Hostile(lambda: _multipart(2_000), ANY),
    "deep.docx": Hostile(lambda: _docx(b"<w:p>" * 5_000 + b"</w:p>" * 5_000), REFUSED),
    "deep.odt": Hostile(lambda: _part("odt", "content.xml", b"<a>" * 5_000), REFUSED),
    "digits.docx": Hostile(
        lambda: _part(
            "docx",
            "word/numbering.xml",
            PACKAGES["docx"]["word/numbering.xml"].replace(
                b'w:start w:val="1"', b'w:start w:val="%b"' % (b"9" * 5_000)
            ),
        ),
        ("ready",),
    ),
    "far.xlsx": Hostile(
        lambda: _part(
            "xlsx",
            "xl/worksheets/sheet1.xml",
            PACKAGES["xlsx"]["xl/worksheets/sheet1.xml"].replace(b'r="B1"', b'r="XFD1048576"'),
        ),
        ("too_large",),
    ),
    "circle.pdf": Hostile(_circular_pdf, ANY),
    "swollen.pdf": Hostile(_swollen_pdf, ANY),
    "half.pdf": Hostile(lambda: (DATA / "bad/truncated.pdf").read_bytes(), ("corrupt",)),
    "locked.pdf": Hostile(lambda: (DATA / "bad/encrypted.pdf").read_bytes(), ("encrypted",)),
    "wide.csv": Hostile(lambda: b"a," * 300_000 + b"\n" + b"1," * 300_000, ANY),
    "halves.json": Hostile(lambda: b'{"' + WORDS.encode() + rb'": "\ud83d \udc00 \u0000"}', ("ready",)),
    "nul.txt": Hostile(lambda: WORDS.encode() + b"\0" * 500 + b"\x01\x02", ANY),
    "no.docx": Hostile(lambda: (DATA / "bad/not-a-zip.docx").read_bytes(), ("corrupt",)),
    "odd.ipynb": Hostile(lambda: b'{"cells": [{"cell_type": 7, "source": {"a": [1e999]}}, null, [[]]]}', ANY),
}
