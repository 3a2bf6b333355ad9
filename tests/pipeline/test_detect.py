from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detect import Kind, detect, wide_encoding

OLE = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452") + bytes(40)


def zipped(*names: str, first: tuple[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in [first] if first else []:
            archive.writestr(name, content)
        for name in names:
            archive.writestr(name, b"<x/>")
    return out.getvalue()


def streamed(parts: dict[str, bytes]) -> bytes:
    """An archive written to a pipe: the size of each part stands behind it."""
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return bytes(pipe.written)


class Pipe(io.RawIOBase):
    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.written += data
        return len(data)


NOISE = random.Random(1).randbytes(4096)


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a.pdf", b"%PDF-1.7\n", Kind.PDF),
        ("no extension", b"%PDF-1.7\n%\xe2\xe3", Kind.PDF),
        ("report.txt", b"\xef\xbb\xbf%PDF-1.7\n", Kind.PDF),
        ("junk.pdf", b"HTTP/1.1 200 OK\r\n\r\n%PDF-1.7\n", Kind.PDF),
        ("junk.bin", b"\x00\x01\x02\x03%PDF-1.7\n", Kind.PDF),
        ("corrupt.pdf", b"\x00\xff\x81 what was this", Kind.PDF),
        ("corrupt.pdf", b"plain words", Kind.PDF),
        ("empty.pdf", b"", Kind.PDF),
        ("pdf-as.docx", b"%PDF-1.7\n%%EOF", Kind.PDF),
        ("a.docx", zipped("[Content_Types].xml", "word/document.xml"), Kind.DOCX),
        ("a.bin", zipped("word/document.xml"), Kind.DOCX),
        ("big-picture-first.docx", zipped("docProps/thumbnail.jpeg"), Kind.DOCX),
        ("macros.docm", zipped("[Content_Types].xml"), Kind.DOCX),
        ("locked.docx", OLE, Kind.DOCX),
        ("corrupt.docx", b"\x01\x02\x03\xff\x00", Kind.DOCX),
        ("empty.docx", b"", Kind.DOCX),
        ("a.html", b"<p>fragment", Kind.HTML),
        ("a.txt", b"<!-- made by x -->\n<!DOCTYPE html>\n<html>", Kind.HTML),
        ("a.xml", b'<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml">', Kind.HTML),
        ("a.html", "<html>".encode("utf-16"), Kind.HTML),
        ("a.md", b'<div align="center">\n\n# Title', Kind.MARKDOWN),
        ("page.php", b"<?php f();\n?>\n<html><body><h1>Hello</h1>", Kind.CODE),
        ("page.phtml", b"<html><?php f(); ?></html>", Kind.CODE),
        ("page", b"<?php f();\n?>\n<html><body><h1>Hello</h1>", Kind.CODE),
        ("x.py", b"<html>\n", Kind.CODE),
        ("README.md", b"<!doctype html>\n\n# My project", Kind.MARKDOWN),
        ("README.md", b'<svg width="9"/>\n\n# My project', Kind.MARKDOWN),
        ("a.html", b'<svg width="9"/>\n<p>fragment', Kind.HTML),
        ("a.rst", b"<html>\n", Kind.TEXT),
        ("a.csv", b"<html></html>,3\n", Kind.CSV),
        ("page.ipynb", b"<!DOCTYPE html>\n<html>", Kind.HTML),
        ("page.pdf", b"<!DOCTYPE html>\n<html>", Kind.HTML),
        ("A.MD", b"# Title", Kind.MARKDOWN),
        ("empty.md", b"", Kind.MARKDOWN),
        ("a.txt", b"the header of a PDF is %PDF-1.7", Kind.TEXT),
        ("a.xlsx", zipped("[Content_Types].xml", "xl/workbook.xml"), Kind.SPREADSHEET),
        ("sheet.docx", zipped("xl/workbook.xml"), Kind.SPREADSHEET),
        ("sheet.docx", streamed({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b""}), Kind.SPREADSHEET),
        ("empty.xlsx", b"", Kind.SPREADSHEET),
        ("old.xls", OLE, Kind.SPREADSHEET),
        ("unnamed", OLE + "Workbook".encode("utf-16-le"), Kind.SPREADSHEET),
        ("export.xls", b"name\tprice\nbolt\t3\n", Kind.CSV),
        ("export.xls", b"<html><table>", Kind.HTML),
        ("export.xls", b'<?xml version="1.0"?>\n<Workbook xmlns="urn:x">', Kind.XML),
        ("a.pptx", zipped("ppt/presentation.xml"), Kind.PPTX),
        ("slides.zip", zipped("ppt/presentation.xml"), Kind.PPTX),
        ("with a chart.pptx", zipped("ppt/presentation.xml", "xl/workbook.xml"), Kind.PPTX),
        ("with a letter", zipped("xl/workbook.xml", "word/document.xml"), Kind.SPREADSHEET),
        ("locked.pptx", OLE, Kind.PPTX),
        ("a.odt", zipped(first=("mimetype", b"application/vnd.oasis.opendocument.text")), Kind.OPENDOCUMENT),
        ("a.odp", zipped(first=("mimetype", b"application/vnd.oasis.opendocument.presentation")), Kind.OPENDOCUMENT),
        ("a.ods", zipped(first=("mimetype", b"application/vnd.oasis.opendocument.spreadsheet")), Kind.SPREADSHEET),
        ("corrupt.odt", b"plain words", Kind.OPENDOCUMENT),
        ("book", zipped(first=("mimetype", b"application/epub+zip")), Kind.EPUB),
        ("a.rtf", b"{\\rtf1\\ansi hello}", Kind.RTF),
        ("a.doc", b"{\\rtf1\\ansi hello}", Kind.RTF),
        ("a.eml", b"From: a@b.example\n\nhello", Kind.MAIL),
        ("1234", b"Received: from x\n by y\nFrom: a@b\nMIME-Version: 1.0\n\nhi", Kind.MAIL),
        ("box", b"From a@b Thu Jan  1\nReceived: from x\nMessage-ID: <1@b>\n\nhi", Kind.MAILBOX),
        ("a.msg", OLE, Kind.OUTLOOK),
        ("attached.msg", OLE + b"%PDF-1.7", Kind.OUTLOOK),
        ("unnamed", OLE + "__substg1.0_".encode("utf-16-le"), Kind.OUTLOOK),
        ("page.mht", b"From: <Saved by x>\nMIME-Version: 1.0\n\n", Kind.WEB_ARCHIVE),
        ("a.ipynb", b'{"cells": []}', Kind.NOTEBOOK),
        ("a.json", b"{}", Kind.JSON),
        ("a.csv", b"a,b\n1,2\n", Kind.CSV),
        ("a.xml", b"<feed/>", Kind.XML),
        ("feed", b'<?xml version="1.0"?><feed/>', Kind.XML),
        ("a.py", b"import html\n", Kind.CODE),
        ("run", b"#!/usr/bin/env python3\nimport html\n", Kind.CODE),
        ("run.txt", b"#!/bin/sh\necho\n", Kind.TEXT),
        ("run", b"#!/usr/bin/unknown\n", Kind.TEXT),
        ("run", b"# /bin/sh\n", Kind.TEXT),
        ("README", "für alle\n".encode(), Kind.TEXT),
        ("blank.txt", b" \r\n\t", Kind.TEXT),
        ("empty", b"", Kind.TEXT),
        ("nul.txt", b"before" + bytes(64) + b"after", Kind.TEXT),
        ("cut.log", bytes(60_000) + b"a line\n" * 40, Kind.TEXT),
        ("binary.eml", b"MIME-Version: 1.0\n\n" + NOISE[:300], Kind.MAIL),
        ("korean.txt", ("도서관은 평일에 엽니다. " * 9).encode("iso2022_kr"), Kind.TEXT),
        ("genes.ts", b"G" * 900, Kind.CODE),
        ("wide.txt", "ein Text".encode("utf-16-le"), Kind.TEXT),
        ("ansi.log", b"\x1b[31mred\x1b[0m\n", Kind.TEXT),
        ("mail-quoted.txt", b"From: a@b.example\nTo: c@d.example\nMIME-Version: 1.0\n\nhello", Kind.TEXT),
        ("BMW", b"BMW is a maker of cars.", Kind.TEXT),
        ("MZ.txt", b"MZ begins an executable.", Kind.TEXT),
    ],
)
def test_what_a_reader_exists_for(name: str, head: bytes, kind: Kind) -> None:
    detection = detect(head, name)
    assert detection.kind is kind
    assert detection.reason == ""


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("a.png", PNG, "image"),
        ("picture.txt", PNG, "image"),
        ("a.gz", b"\x1f\x8b\x08" + bytes(20), "archive"),
        ("a.zip", zipped("a.txt"), "archive"),
        ("a.zip", zipped(first=("a.pdf", b"%PDF-1.7")), "archive"),
        ("backup.zip", zipped("password/documents/a.txt"), "archive"),
        ("backup.zip", zipped(first=("letter.docx", zipped("word/document.xml"))), "archive"),
        ("backup.zip", streamed({"letter.docx": zipped("word/document.xml"), "a.txt": b"words"}), "archive"),
        ("a.doc", OLE, "old Word document: no reader yet"),
        ("unnamed", OLE + "WordDocument".encode("utf-16-le"), "old Word document: no reader yet"),
        ("a", OLE, "old Office file: no reader yet"),
        ("a.svg", b"<svg/>", "drawing: no reader yet"),
        ("a.xml", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "drawing"),
        ("a.ps", b"%!PS-Adobe-3.0\n", "PostScript: no reader yet"),
        ("a.bin", bytes(range(1, 32)) * 9, "binary data"),
        ("a.r", NOISE, "binary data"),
        ("a.log", NOISE, "binary data"),
        ("a.csv", NOISE[:64], "binary data"),
        ("a.txt", NOISE.replace(b"\0", b""), "binary data"),
        ("a.html", NOISE, "binary data"),
        ("video.ts", (b"G\x01" + b"\xff" * 186) * 9, "video"),
        ("video.mts", (b"abcdG\x01" + b"\xff" * 186) * 9, "video"),
    ],
)
def test_what_none_exists_for_says_why(name: str, head: bytes, reason: str) -> None:
    detection = detect(head, name)
    assert detection.kind is None
    assert reason in detection.reason


@pytest.mark.parametrize(
    ("name", "head", "mime_type"),
    [
        ("a.csv", b"a,b\n1,2\n", "text/csv"),
        ("a.json", b"{}", "application/json"),
        ("a.unknown", b"words", "text/plain"),
        ("a.md", b"words", "text/markdown"),
        ("a.pdf", b"%PDF-1.4", "application/pdf"),
        ("a.png", PNG, "image/png"),
        ("a.bin", b"\0\1\2\3" * 9, "application/octet-stream"),
    ],
)
def test_the_mime_type_is_known(name: str, head: bytes, mime_type: str) -> None:
    assert detect(head, name).mime_type == mime_type


def test_every_sample_has_its_reader(sample_data: Path) -> None:
    kinds = {path.name: detect(path.read_bytes(), path.name).kind for path in (sample_data / "demo").iterdir()}
    assert kinds == {
        "bean-catalogue.txt": Kind.TEXT,
        "bridge-meeting.md": Kind.MARKDOWN,
        "employee-handbook.pdf": Kind.PDF,
        "instrument-stock.csv": Kind.CSV,
        "observatory-report.pdf": Kind.PDF,
        "onboarding-faq.md": Kind.MARKDOWN,
        "release-notes.md": Kind.MARKDOWN,
        "supply-agreement.docx": Kind.DOCX,
        "tern-40-manual.pdf": Kind.PDF,
        "varnholm-guide.html": Kind.HTML,
    }


@given(head=st.binary(max_size=300), name=st.text(max_size=12))
def test_every_file_is_either_readable_or_has_a_reason(head: bytes, name: str) -> None:
    detection = detect(head, name)
    assert (detection.kind is None) == bool(detection.reason)
    assert "/" in detection.mime_type


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=8))
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_ascii_is_known_without_a_mark(text: str, encoding: str) -> None:
    assert wide_encoding(text.encode(encoding)) == encoding


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1))
def test_utf8_is_never_taken_for_a_wide_encoding(text: str) -> None:
    assert wide_encoding(text.encode("utf-8")) is None
