"""What the two PDF engines do for each other, whichever comes first."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pypdf import PdfWriter
from reportlab.pdfgen.canvas import Canvas

from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import PdfEngine, extract, parser_version
from pipeline.extract.pdf_engines import _truer
from storage.errors import ExtractError

PASSWORD = "heron-42"
BOTH: list[PdfEngine] = ["pypdfium2", "pypdf"]

either_first = pytest.mark.parametrize("engine", BOTH)


def read(data: bytes, engine: PdfEngine, *passwords: str) -> Document:
    return extract(data, kind=Kind.PDF, name="a.pdf", passwords=passwords, pdf_engine=engine)


def failure(data: bytes, engine: PdfEngine) -> ExtractError:
    with pytest.raises(ExtractError) as caught:
        read(data, engine)
    return caught.value


def pdf(*pages: str) -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out, invariant=1, pageCompression=0)
    for words in pages:
        canvas.drawString(50, 800, words)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def locked(data: bytes) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(PASSWORD, algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def without_index(data: bytes) -> bytes:
    """The line that says where the index of objects begins, and all after it, is cut off: pypdf opens no such file."""
    return data[: data.rindex(b"startxref")]


def misplaced(data: bytes, one: int, other: int) -> bytes:
    """The index of objects takes one for the other: pdfium believes it, pypdf looks for them."""
    rows = re.findall(rb"\d{10} 00000 n ", data)
    swapped = dict(zip(rows, rows, strict=True)) | {rows[one - 1]: rows[other - 1], rows[other - 1]: rows[one - 1]}
    return re.sub(rb"\d{10} 00000 n ", lambda row: swapped[row[0]], data)


def with_a_locked_attachment(data: bytes) -> bytes:
    """The file's encryption leaves its own strings and streams as they are."""
    rules = b"/Filter/Standard/V 4/R 4/Length 128/P -4/StmF/Identity/StrF/Identity/EFF/StdCF"
    filters = b"/CF<</StdCF<</CFM/AESV2/AuthEvent/EFOpen/Length 16>>>>"
    keys = b"/O<%b>/U<%b>" % (b"41" * 32, b"42" * 32)
    return data.replace(b"trailer\n<<", b"trailer\n<</Encrypt<<%b%b%b>>" % (rules, filters, keys))


def damaged(data: bytes) -> bytes:
    """A bracket that closes nothing stands in each page's content."""
    return data.replace(b"BT 1 0", b"BT ) 0")


@either_first
def test_the_first_engine_reads_what_it_can(sample_data: Path, engine: PdfEngine) -> None:
    document = read((sample_data / "demo/tern-40-manual.pdf").read_bytes(), engine)
    assert "engine" not in document.metadata
    assert document.parser == parser_version(Kind.PDF, pdf_engine=engine)
    assert re.fullmatch(rf"{engine} .*, {BOTH[engine == 'pypdfium2']} .*, rules \d+", document.parser)


@either_first
@pytest.mark.parametrize(
    ("data", "only"),
    [
        (without_index(pdf("one")), "pypdfium2"),
        (with_a_locked_attachment(pdf("one")), "pypdfium2"),
        (misplaced(pdf("one"), 3, 2), "pypdf"),
        (misplaced(pdf("one"), 7, 5), "pypdf"),  # pdfium finds the page, and nothing on it
    ],
)
def test_the_second_engine_reads_what_the_first_does_not(data: bytes, only: PdfEngine, engine: PdfEngine) -> None:
    document = read(data, engine)
    assert document.text == "one"
    assert document.metadata.get("engine") == (None if engine == only else only)
    assert document.parser == parser_version(Kind.PDF, pdf_engine=engine)


@either_first
def test_damage_is_told_from_emptiness(engine: PdfEngine) -> None:
    assert failure(damaged(pdf("one")), engine).code == "corrupt"
    assert "it is cut off" in failure(without_index(pdf("", "")), engine).message
    assert "no text layer on any of its 2 pages" in failure(pdf("", ""), engine).message
    assert "no text layer on its only page" in failure(with_a_locked_attachment(pdf("")), engine).message


@either_first
def test_a_locked_file_asks_for_its_password_even_if_it_is_damaged(engine: PdfEngine) -> None:
    for data in (locked(pdf("behind a lock")), without_index(locked(pdf("behind a lock")))):
        assert failure(data, engine).code == "encrypted"
        assert read(data, engine, "wrong", PASSWORD).text == "behind a lock"


@pytest.mark.parametrize(
    ("pdfium", "pypdf", "truer"),
    [
        ("corrupt", "corrupt", "pypdf"),
        ("corrupt", "no_text", "pypdf"),
        ("corrupt", "encrypted", "pypdf"),
        ("no_text", "corrupt", "pypdf"),
        ("no_text", "no_text", "pypdf"),
        ("no_text", "encrypted", "pdfium"),
        ("encrypted", "corrupt", "pdfium"),
        ("encrypted", "no_text", "pypdf"),
        ("encrypted", "encrypted", "pypdf"),
    ],
)
def test_which_verdict_counts(pdfium: str, pypdf: str, truer: str) -> None:
    verdict = _truer(ExtractError("pdfium", code=pdfium), ExtractError("pypdf", code=pypdf))
    assert verdict.message == truer


def stream(packed: bytes, values: bytes = b"/Filter/FlateDecode") -> bytes:
    return b"<<%b/Length %d>>stream\n%b\nendstream" % (values, len(packed), packed)


def spaces(unpacked_mb: int, after: bytes = b"") -> bytes:
    return zlib.compress(after + b" " * (unpacked_mb * 2**20))


def objects_of(contents: bytes) -> dict[int, bytes]:
    """Objects 1 to 4 of a file: its catalog, its page tree, a page with these contents, and a stream with a word."""
    font = b"<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    return {
        1: b"<</Type/Catalog/Pages 2 0 R>>",
        2: b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
        3: b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents[%b]/Resources%b>>" % (contents, font),
        4: stream(b"BT /F 9 Tf 9 9 Td (tick) Tj ET", b""),
    }


def written(objects: dict[int, bytes], index_mb: int = 0) -> bytes:
    """A file of objects 1 to 5, of which those left out lie in object 5; its index ends in so many bytes of nothing."""
    data, index = b"%PDF-1.7\n", b""
    for number in range(1, 6):
        index += b"\1%b\0" % len(data).to_bytes(4, "big") if number in objects else b"\2\0\0\0\5\0"
        data += b"%d 0 obj\n%b\nendobj\n" % (number, objects[number]) if number in objects else b""
    values = b"/Type/XRef/Size 7/Index[1 5]/W[1 4 1]/Root 1 0 R/Filter/FlateDecode"
    packed = stream(zlib.compress(index + bytes(index_mb * 2**20)), values)
    return data + b"6 0 obj\n%b\nendobj\nstartxref\n%d\n%%%%EOF\n" % (packed, len(data))


def bomb_of_objects(unpacked_mb: int) -> bytes:
    """The page tree lies in a stream of objects that unpacks to that much."""
    objects = objects_of(b"4 0 R")
    packed = spaces(unpacked_mb, after=b"2 0 " + objects.pop(2))
    return written(objects | {5: stream(packed, b"/Type/ObjStm/N 1/First 4/Filter/FlateDecode")})


def bomb_of_contents(unpacked_mb: int) -> bytes:
    """The page's content is a stream twice, after its text."""
    return written(objects_of(b"4 0 R 5 0 R 5 0 R") | {5: stream(spaces(unpacked_mb // 2))})


def bomb_of_index(unpacked_mb: int) -> bytes:
    return written(objects_of(b"4 0 R") | {5: b"null"}, index_mb=unpacked_mb)


BOMBS = [bomb_of_objects, bomb_of_contents, bomb_of_index]


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_pypdf_does_not_unpack_is_not_given_to_pdfium(bomb: Callable[[int], bytes]) -> None:
    assert read(bomb(2), "pypdf").text == "tick"
    error = failure(bomb(100), "pypdf")
    assert error.code == "corrupt"
    assert "it exceeds a safety limit of the reader" in error.message


@pytest.mark.parametrize("bomb", BOMBS)
def test_pdfium_unpacks_what_there_is_memory_for(bomb: Callable[[int], bytes]) -> None:
    assert read(bomb(100), "pypdfium2").text == "tick"


def test_what_pdfium_leaves_packed_is_no_scan() -> None:
    """It passes over a stream of runs that unpacks to over 20 MB, in silence."""
    runs = stream(b"\x81 " * (100 * 2**13) + b"\x80", b"/Filter/RunLengthDecode")
    error = failure(written(objects_of(b"5 0 R") | {5: runs}), "pypdfium2")
    assert error.code == "corrupt"
    assert "it exceeds a safety limit of the reader" in error.message


def test_the_second_engine_is_imported_only_if_it_is_needed(sample_data: Path) -> None:
    code = (
        "import sys; from pipeline.detect import Kind; from pipeline.extract import extract\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "extract(data, kind=Kind.PDF, name='a.pdf', pdf_engine=sys.argv[2])\n"
        "print([name for name in ('pypdf', 'pypdfium2') if name in sys.modules])"
    )
    for engine in BOTH:
        command = [sys.executable, "-c", code, str(sample_data / "demo/tern-40-manual.pdf"), engine]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"['{engine}']"
