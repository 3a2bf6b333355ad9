"""PDFs at the command line: which engine reads them, and which pages gave no text."""

from __future__ import annotations

import io
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.generic import EncodedStreamObject, NameObject
from reportlab.pdfgen.canvas import Canvas

Call = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, sample_data: Path) -> Path:
    """A folder with a PDF and a note."""
    place = tmp_path / "in"
    place.mkdir()
    shutil.copy(sample_data / "demo" / "observatory-report.pdf", place)
    (place / "a.md").write_text("# Refunds\n\nThe word zebra stands here. Refunds take 30 days.")
    return place


def parsers(knowlex: Call, project: str) -> dict[str, str]:
    """Return what read each file of a project, by name."""
    rows = knowlex("files", project, "--json").json
    return {row["filename"]: knowlex("file", "show", row["id"], "--json").json["parser"] for row in rows}


def test_another_engine_reads_pdfs_anew_and_nothing_else(
    knowlex: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert knowlex("ingest", "p", folder, "--json").json["ingested"] == 2
    fast = parsers(knowlex, "p")
    assert fast["observatory-report.pdf"].startswith("pypdfium2 ")
    monkeypatch.setenv("KNOWLEX_PDF_ENGINE", "pypdf")
    report = knowlex("ingest", "p", folder, "--json").json
    assert (report["ingested"], report["unchanged"]) == (1, 1)
    slow = parsers(knowlex, "p")
    assert slow["observatory-report.pdf"].startswith("pypdf ")
    assert slow["a.md"] == fast["a.md"]
    hits = knowlex("search", "p", "storm petrels", "--json").json
    assert "observatory-report.pdf" in str(hits)
    assert knowlex("ingest", "p", folder, "--json").json["unchanged"] == 2


@pytest.mark.parametrize(("first", "second"), [("pypdfium2", "pypdf"), ("pypdf", "pypdfium2")])
def test_a_file_that_the_second_engine_read_counts_as_unchanged(
    knowlex: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    monkeypatch.setenv("KNOWLEX_PDF_ENGINE", first)
    file = folder / "damaged.pdf"
    file.write_bytes(without_index(note()) if second == "pypdfium2" else misplaced(note()))
    assert knowlex("ingest", "p", file, "--json").json["ingested"] == 1
    [row] = knowlex("files", "p", "--json").json
    assert knowlex("file", "show", row["id"], "--json").json["metadata"]["engine"] == second
    assert knowlex("ingest", "p", file, "--json").json["unchanged"] == 1


def note() -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out, invariant=1)
    canvas.drawString(50, 800, "High water is at noon.")
    canvas.save()
    return out.getvalue()


def without_index(data: bytes) -> bytes:
    """The index of objects cannot be found: pypdf opens no such file."""
    return data[: data.rindex(b"startxref")]


def misplaced(data: bytes) -> bytes:
    """The index of objects takes the page for its font: pdfium believes it, pypdf looks for them."""
    _, font, page, *_ = re.findall(rb"\d{10} 00000 n ", data)
    return data.replace(font, b"\0").replace(page, font).replace(b"\0", page)


def bomb(unpacked_mb: int) -> bytes:
    """Return a PDF whose page unpacks to that much."""
    packed = zlib.compress(b" " * (unpacked_mb * 2**20))
    writer = PdfWriter()
    content = EncodedStreamObject()
    content.update({NameObject("/Filter"): NameObject("/FlateDecode")})
    content._data = packed
    writer.add_blank_page(99, 99)[NameObject("/Contents")] = writer._add_object(content)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_bomb_fails_alone_for_what_it_does(knowlex: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingest.RETRY_FIRST_MS", 20)
    monkeypatch.setenv("KNOWLEX_PARSE_MEMORY_MB", "400")
    (folder / "bomb.pdf").write_bytes(bomb(400))
    report = knowlex("ingest", "p", folder, "--json").json
    assert (report["ingested"], report["failed"]) == (2, 1)
    [row] = [row for row in knowlex("files", "p", "--json").json if row["filename"] == "bomb.pdf"]
    assert knowlex("file", "show", row["id"], "--json").json["error_code"] == "crashed"


def test_an_unknown_engine_is_refused(knowlex: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWLEX_PDF_ENGINE", "xpdf")
    answer = knowlex("ingest", "p", folder)
    assert answer.code == 4
    assert "KNOWLEX_PDF_ENGINE: pdf_engine = 'xpdf' is unknown; give one of pypdf, pypdfium2" in answer.err


def test_pages_without_text_are_shown(knowlex: Call, folder: Path, sample_data: Path) -> None:
    report, scan = folder / "observatory-report.pdf", sample_data / "bad" / "image-only.pdf"
    writer, out = PdfWriter(), io.BytesIO()
    for source in (scan, report, scan):
        for page in PdfReader(source).pages:
            writer.add_page(page)
    writer.write(out)
    report.write_bytes(out.getvalue())
    knowlex("ingest", "p", report)
    [row] = knowlex("files", "p", "--json").json
    lines = knowlex("file", "show", row["id"]).out.splitlines()
    assert "without text   page 1-3, 7-9" in lines
    assert not [line for line in lines if line.startswith("not read")]
