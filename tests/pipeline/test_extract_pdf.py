"""PDF with pypdf alone; what the two engines do for each other is in test_extract_pdf_engines.py."""

from __future__ import annotations

import gc
import io
import logging
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, TextStringObject
from reportlab.pdfgen.canvas import Canvas

from pipeline.document import Document
from pipeline.extract.pdf import read_pdf
from pipeline.extract.source import Source
from storage.errors import ExtractError

PASSWORD = "heron-42"
PARSER = "pypdf 1, rules 1"


def read(data: bytes, *passwords: str) -> Document:
    return read_pdf(Source(data, "a.pdf", PARSER, passwords))


def pdf(*pages: list[str], font: str = "Helvetica") -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out, invariant=1)
    for lines in pages:
        text = canvas.beginText(50, 800)
        text.setFont(font, 12)
        for line in lines:
            text.textLine(line)
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def code_of(data: bytes, *passwords: str) -> str:
    with pytest.raises(ExtractError) as caught:
        read(data, *passwords)
    return caught.value.code


def test_text_pages_and_metadata(sample_data: Path) -> None:
    document = read((sample_data / "demo/tern-40-manual.pdf").read_bytes())
    assert document.page_count == 4
    assert [page.number for page in document.pages] == [1, 2, 3, 4]
    assert document.metadata == {
        "title": "Tern 40 Bilge Pump: Installation and Service Manual",
        "author": "Tern Marine",
    }
    assert document.syntax == "plain"
    assert document.parser == PARSER


def test_each_page_range_holds_that_pages_text(sample_data: Path) -> None:
    document = read((sample_data / "demo/observatory-report.pdf").read_bytes())
    texts = [document.text[page.start : page.end] for page in document.pages]
    assert "\n\n".join(texts) == document.text
    assert "spectrograph, called Petrel" in texts[0]
    assert "storm petrels" in texts[1]
    assert "mirror will be recoated" in texts[2]


def test_pages_without_text_are_left_out_and_listed() -> None:
    document = read(pdf(["one"], [], ["three"]))
    assert document.text == "one\n\nthree"
    assert [(page.number, page.start, page.end) for page in document.pages] == [(1, 0, 3), (3, 5, 10)]
    assert document.page_count == 3
    assert document.metadata["pages_without_text"] == [2]


def test_words_parted_at_line_ends_are_one_word_again() -> None:
    lines = ["The informa-", "tion on well-", "known pumps is well-known;", "see Smith-", "Jones."]
    assert read(pdf(lines)).text == "The information on well-known pumps is well-known;\nsee Smith-\nJones."


def test_form_fields_and_notes_are_read() -> None:
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["A form"])))
    kinds = [("/Widget", "/V", "Maria Keller"), ("/FreeText", "/Contents", "please call back")]
    for subtype, key, words in kinds:
        annotation = DictionaryObject({NameObject("/Subtype"): NameObject(subtype)})
        annotation[NameObject("/FT")] = NameObject("/Tx")
        annotation[NameObject("/Rect")] = ArrayObject()
        annotation[NameObject(key)] = TextStringObject(words)
        page = writer.pages[0]
        page[NameObject("/Annots")] = ArrayObject([*(page.get("/Annots") or ()), annotation])
    out = io.BytesIO()
    writer.write(out)
    assert read(out.getvalue()).text == "A form\nMaria Keller\nplease call back"


def test_a_password_is_asked_for_and_tried(sample_data: Path) -> None:
    locked = (sample_data / "bad/encrypted.pdf").read_bytes()
    with pytest.raises(ExtractError, match="--pdf-password-file") as caught:
        read(locked)
    assert caught.value.code == "encrypted"
    assert code_of(locked, "wrong", "also wrong") == "encrypted"
    document = read(locked, "wrong", PASSWORD)
    assert "Smear the float hinge with\nsilicone grease" in document.text


def test_an_empty_password_opens_by_itself(sample_data: Path) -> None:
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["open to all"])))
    writer.encrypt("", "owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    assert read(out.getvalue()).text == "open to all"


def test_pictures_of_text_say_that_ocr_is_needed(sample_data: Path) -> None:
    with pytest.raises(ExtractError, match="no text layer on any of its 3 pages: run OCR first") as caught:
        read((sample_data / "bad/image-only.pdf").read_bytes())
    assert caught.value.code == "no_text"


@pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"%PDF-1.7\n%%EOF", b"words", b"\0\xff" * 99])
def test_what_is_no_pdf_is_corrupt(data: bytes) -> None:
    assert code_of(data) == "corrupt"


def test_a_cut_off_file_is_corrupt(sample_data: Path) -> None:
    with pytest.raises(ExtractError, match="corrupt PDF: it is cut off or its index is missing") as caught:
        read((sample_data / "bad/truncated.pdf").read_bytes())
    assert caught.value.code == "corrupt"


def test_junk_before_the_header_is_no_obstacle() -> None:
    assert read(b"HTTP/1.1 200 OK\r\n\r\n" + pdf(["still here"])).text == "still here"


def damaged_page(data: bytes) -> bytes:
    """The second page's content becomes something that cannot be parsed."""
    writer = PdfWriter(clone_from=io.BytesIO(data))
    stream = writer.pages[1].get_contents()
    assert stream is not None
    stream.set_data(b"BT ) Tj ET")
    writer.pages[1].replace_contents(stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_page_that_cannot_be_read_costs_only_itself() -> None:
    document = read(damaged_page(pdf(["one"], ["two"], ["three"])))
    assert document.text == "one\n\nthree"
    assert document.metadata["pages_failed"] == [2]


def test_no_readable_page_at_all_is_corrupt() -> None:
    assert code_of(damaged_page(pdf([], ["two"]))) == "corrupt"


def test_the_bytes_of_a_file_are_free_again_at_once() -> None:
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["one"])))
    writer.add_attachment("waves.raw", bytes(5 * 2**20))
    out = io.BytesIO()
    writer.write(out)
    data = out.getvalue()
    gc.disable()
    tracemalloc.start()
    try:
        assert read(data).text == "one"
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()
        gc.enable()


def test_nothing_is_written_to_stderr(sample_data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("pypdf").warning("an oddity")
    assert code_of((sample_data / "bad/truncated.pdf").read_bytes()) == "corrupt"
    assert capfd.readouterr() == ("", "")


def test_messages_never_quote_the_file() -> None:
    data = pdf(["one"]).replace(b"/Type /Catalog", b"/Type <secret>>").replace(b"/Pages", b"secret!")
    with pytest.raises(ExtractError) as caught:
        read(data)
    assert "secret" not in caught.value.message


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_gives_a_document_or_a_reason(sample_data: Path, data: st.DataObject) -> None:
    original = (sample_data / "demo/employee-handbook.pdf").read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 20))):
        damaged[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(damaged)) in ("read", "corrupt", "encrypted", "no_text")


def outcome(data: bytes) -> str:
    try:
        document = read(data)
    except ExtractError as error:
        return error.code
    document.text.encode("utf-8")
    texts = [document.text[page.start : page.end] for page in document.pages]
    return "read" if all(texts) and "\n\n".join(texts) == document.text else "pages do not add up"
