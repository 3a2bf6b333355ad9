"""Write the sample documents that need a program to be written: PDFs, a DOCX, odd encodings, broken files.

    python tests/data/make.py

Their texts lie in `source/`; the Markdown, HTML, CSV and plain text files in `demo/` were written by hand.
Every company, person and place in them is invented. The same bytes come out each time, for the same
versions of reportlab and python-docx.
"""

from __future__ import annotations

import io
import itertools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import docx
from docx.document import Document as WordDocument
from reportlab.lib.pagesizes import A5
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, PageBreak, Paragraph, SimpleDocTemplate, Table

HERE = Path(__file__).parent
PASSWORD = "heron-42"
OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")


def main() -> None:
    """Write every generated file."""
    files = {**demo(), **encodings(), **broken()}
    for name, content in files.items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_bytes(content)


def demo() -> dict[str, bytes]:
    """Documents that read well."""
    return {
        "demo/employee-handbook.pdf": pdf("employee-handbook", author="Imogen Vasquez"),
        "demo/observatory-report.pdf": pdf("observatory-report", author="The trustees"),
        "demo/supply-agreement.docx": word("supply-agreement", author="Legal department"),
        "demo/tern-40-manual.pdf": pdf("tern-40-manual", author="Tern Marine"),
    }


def encodings() -> dict[str, bytes]:
    """Texts in other encodings than UTF-8 without a mark."""
    french = source("notice-french").replace("\n", "\r\n")
    return {
        "text/cp1252.txt": french.encode("cp1252"),
        "text/shift_jis.txt": source("library-japanese").encode("shift_jis"),
        "text/utf-16.txt": b"\xff\xfe" + source("minutes-german").encode("utf-16-le"),
        "text/utf-8-bom.txt": source("minutes-german").encode("utf-8-sig"),
    }


def broken() -> dict[str, bytes]:
    """Files that hold no text, or none that can be had."""
    report = pdf("observatory-report", author="The trustees")
    return {
        "bad/blank.txt": b" \n\t\r\n" * 40,
        "bad/empty.md": b"",
        "bad/encrypted.docx": OLE_MAGIC + bytes(1016) + "EncryptedPackage".encode("utf-16-le") + bytes(480),
        "bad/encrypted.pdf": pdf("tern-40-manual", author="Tern Marine", password=PASSWORD),
        "bad/entities.docx": with_entities(word("supply-agreement", author="Legal department")),
        "bad/image-only.pdf": scan(pages=3),
        "bad/not-a-zip.docx": b"\x01\x02This was a Word document once.\x00\xff" * 20,
        "bad/picture.txt": bytes.fromhex("89504e470d0a1a0a0000000d49484452") + bytes(64),
        "bad/truncated.pdf": report[: len(report) // 3],
    }


def source(name: str) -> str:
    return (HERE / "source" / f"{name}.txt").read_text("utf-8")


def blocks(name: str) -> list[str]:
    """The source's blocks: "#" headings, "|" tables, "- " and "1. " items, "\\f" page breaks, paragraphs."""
    return [block.strip("\n") for block in re.split(r"\n{2,}", source(name))]


def pdf(name: str, *, author: str, password: str = "") -> bytes:
    """A PDF of A5 pages, encrypted if a password is given."""
    out = io.BytesIO()
    encryption = StandardEncryption(password, strength=128) if password else None
    margins = {"topMargin": 40, "bottomMargin": 40}
    title = blocks(name)[0].lstrip("# ")
    document = SimpleDocTemplate(
        out, pagesize=A5, title=title, author=author, encrypt=encryption, invariant=1, **margins
    )
    document.build([flowable(block) for block in blocks(name)])
    return out.getvalue()


def flowable(block: str) -> Flowable:
    styles = getSampleStyleSheet()
    if block == "\f":
        return PageBreak()
    if block.startswith("|"):
        return Table(rows(block), hAlign="LEFT")
    mark, _, words = block.partition(" ")
    if mark.strip("#") == "":
        return Paragraph(words, styles[f"Heading{len(mark)}"])
    return Paragraph(block, styles["BodyText"])


def rows(block: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")]


def scan(*, pages: int) -> bytes:
    """Pages with lines and boxes, as a scanner would give, and no text."""
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=A5, invariant=1)
    for page in range(pages):
        for line in range(12):
            canvas.rect(50, 80 + 35 * line, 200 + 7 * ((line * 5 + page) % 11), 9, fill=1)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


WORD_STYLES = {"#": "Title", "##": "Heading 1", "###": "Heading 2", "1.": "List Number", "-": "List Bullet"}


def word(name: str, *, author: str) -> bytes:
    """A DOCX with headings, lists, a table whose last row is one merged cell, and a header."""
    document = docx.Document()
    document.core_properties.title = blocks(name)[0].lstrip("# ")
    document.core_properties.author = author
    document.sections[0].header.paragraphs[0].text = "FSA-2026-018, confidential"
    for block in blocks(name):
        mark, _, words = block.replace("\n", " ").partition(" ")
        if mark == "|":
            table(document, rows(block))
        elif mark in WORD_STYLES:
            document.add_paragraph(words, style=WORD_STYLES[mark])
        else:
            document.add_paragraph(f"{mark} {words}")
    out = io.BytesIO()
    document.save(out)
    return repacked(out.getvalue())


def table(document: WordDocument, lines: list[list[str]]) -> None:
    made = document.add_table(rows=0, cols=len(lines[0]))
    for line in lines:
        cells = made.add_row().cells
        if len(line) < len(cells):
            cells[0].merge(cells[-1])
        for cell, text in zip(cells, line, strict=False):
            cell.text = text


def repacked(data: bytes, changed: Mapping[str, Callable[[bytes], bytes]] = {}) -> bytes:
    """The same zip archive with a fixed time stamp, so that its bytes are always the same."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = changed.get(name, bytes)(old.read(name))
            new.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def with_entities(data: bytes) -> bytes:
    """The same DOCX, whose main part declares XML entities that grow exponentially."""
    pairs = itertools.pairwise("abcdefgh")
    entities = "".join(f'<!ENTITY {name} "{f"&{other};" * 10}">' for other, name in pairs)
    dtd = f'<!DOCTYPE x [<!ENTITY a "lol">{entities}]>'.encode()
    return repacked(data, {"word/document.xml": lambda xml: xml.replace(b"?>", b"?>" + dtd, 1)})


if __name__ == "__main__":
    main()
