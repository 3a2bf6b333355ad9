"""PDF with pdfium alone: all that holds of pypdf holds of it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import reportlab
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject, StreamObject, TextStringObject
from pypdfium2.internal.bases import ObjectTracker
from reportlab.pdfgen.canvas import Canvas

from pipeline.document import Document
from pipeline.extract import pdf as pypdf_reader
from pipeline.extract.pdf_text import MAX_FAILED_RUN
from pipeline.extract.pdfium import read_pdf
from pipeline.extract.source import Source
from storage.errors import ExtractError

PASSWORD = "reiher-42 für dich"


def source(data: bytes, *passwords: str) -> Source:
    return Source(data, "a.pdf", "pypdfium2 1, rules 1", passwords)


def read(data: bytes, *passwords: str) -> Document:
    return read_pdf(source(data, *passwords))


def code_of(data: bytes, *passwords: str) -> str:
    with pytest.raises(ExtractError) as caught:
        read(data, *passwords)
    return caught.value.code


def pdf(*pages: list[str]) -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out, invariant=1)
    for lines in pages:
        text = canvas.beginText(50, 800)
        for line in lines:
            text.textLine(line)
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def written(writer: PdfWriter) -> bytes:
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def dictionary(**values: object) -> DictionaryObject:
    return DictionaryObject({NameObject(f"/{key}"): value for key, value in values.items()})


@pytest.fixture(autouse=True)
def every_handle_is_closed() -> Iterator[None]:
    yield
    assert not [handle for kind in ObjectTracker.values() for handle in kind]


@pytest.mark.parametrize("name", ["tern-40-manual", "observatory-report", "employee-handbook"])
def test_both_engines_give_the_same_document(sample_data: Path, name: str) -> None:
    data = (sample_data / f"demo/{name}.pdf").read_bytes()
    slow, fast = pypdf_reader.read_pdf(source(data)), read(data)
    assert fast.text.split() == slow.text.split()
    assert [page.number for page in fast.pages] == [page.number for page in slow.pages]
    assert (fast.page_count, fast.metadata, fast.syntax) == (slow.page_count, slow.metadata, slow.syntax)
    assert "\n\n".join(fast.text[page.start : page.end] for page in fast.pages) == fast.text
    assert fast.parser == "pypdfium2 1, rules 1"


def test_pages_without_text_are_left_out_and_listed() -> None:
    document = read(pdf(["one"], [], ["three"]))
    assert document.text == "one\n\nthree"
    assert [(page.number, page.start, page.end) for page in document.pages] == [(1, 0, 3), (3, 5, 10)]
    assert document.page_count == 3
    assert document.metadata["pages_without_text"] == [2]


def test_words_parted_at_line_ends_are_one_word_again() -> None:
    lines = ["The informa-", "tion on well-", "known pumps is well-known;", "see Smith-", "Jones in UTF-", "8."]
    assert read(pdf(lines)).text == "The information on well-known pumps is well-known;\nsee Smith-\nJones in UTF-\n8."


@pytest.mark.parametrize(("meaning", "seen"), [(b"0000", ""), (b"0003", ""), (b"D800", "\ufffd")])
def test_thousands_of_glyphs_that_stand_for_nothing_cost_no_page(meaning: bytes, seen: str) -> None:
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["~" * 3000 + "herons"])))
    map_glyphs(writer, b"<7E> <%b>" % meaning)
    assert read(written(writer)).text == seen * 3000 + "herons"


def map_glyphs(writer: PdfWriter, *pairs: bytes) -> None:
    """State what glyphs of the first page's only font stand for."""
    [font] = writer.pages[0]["/Resources"]["/Font"].values()
    names = StreamObject()
    names.set_data(
        b"begincmap 1 begincodespacerange %b endcodespacerange %d beginbfchar %b endbfchar endcmap"
        % (b"<0000> <FFFF>" if pairs[0].index(b">") == 5 else b"<00> <FF>", len(pairs), b" ".join(pairs))
    )
    font.get_object()[NameObject("/ToUnicode")] = writer._add_object(names)


def test_a_page_of_unknown_glyphs_is_no_text() -> None:
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["~ ~~"])))
    map_glyphs(writer, b"<7E> <FFFD>")
    assert code_of(written(writer)) == "no_text"


def test_alef_and_lam_keep_their_order_as_one_glyph_and_as_two() -> None:
    """Drawn from the left: noon, meem, lam with hamza-alef as one glyph, alef; seen; noon, lam, alef."""
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["nmLa s nla"])))
    letters = {"n": "ن", "m": "م", "L": "لأ", "a": "ا", "s": "س", "l": "ل"}
    map_glyphs(writer, *(f"<{ord(k):02X}> <{v.encode('utf-16-be').hex()}>".encode() for k, v in letters.items()))
    assert read(written(writer)).text == "الن س الأمن"


def japanese(direction: str, content: bytes) -> bytes:
    """A page in a font whose glyphs 48 to 4F are kana, written across (H) or down (V)."""
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["."])))
    shapes, stream = StreamObject(), StreamObject()
    shapes.set_data(Path(reportlab.__file__).with_name("fonts").joinpath("Vera.ttf").read_bytes())
    stream.set_data(b"BT /F1 12 Tf %b ET" % content)
    font = dictionary(
        Subtype=NameObject("/CIDFontType2"),
        BaseFont=NameObject("/Vera"),
        CIDToGIDMap=NameObject("/Identity"),
        FontDescriptor=dictionary(Flags=NumberObject(4), FontFile2=writer._add_object(shapes)),
    )
    [composite] = writer.pages[0]["/Resources"]["/Font"].values()
    composite.get_object().update(
        dictionary(
            Subtype=NameObject("/Type0"),
            BaseFont=NameObject("/Vera"),
            Encoding=NameObject(f"/Identity-{direction}"),
            DescendantFonts=ArrayObject([font]),
        )
    )
    map_glyphs(writer, *(b"<%04X> <%04X>" % (glyph, 0x3000 + glyph) for glyph in range(0x48, 0x50)))
    writer.pages[0][NameObject("/Contents")] = writer._add_object(stream)
    return written(writer)


TWO_LINES = b"300 300 Td %b <00480049004A004B> Tj 0 -20 TD <004C004D004E004F> Tj"


def test_columns_from_top_to_bottom_are_left_to_the_other_engine() -> None:
    with pytest.raises(ExtractError, match="corrupt PDF: its lines run from top to bottom"):
        read(japanese("V", TWO_LINES % b""))


@pytest.mark.parametrize("turned", [b"", b"0 1 -1 0 300 400 Tm", b"0 -1 1 0 300 400 Tm"])
def test_lines_that_were_turned_are_lines_and_no_columns(turned: bytes) -> None:
    found = read(japanese("H", TWO_LINES % turned)).text.splitlines()
    assert sorted(found) == ["\u3048\u3049\u304a\u304b", "\u304c\u304d\u304e\u304f"]


def form() -> bytes:
    """A page with fields of each kind, one of which has its value from its parent, and remarks."""
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["A form"])))
    parent = dictionary(
        FT=NameObject("/Tx"), T=TextStringObject("name"), V=TextStringObject("Maria Keller"), Kids=ArrayObject()
    )
    inherits = dictionary(Subtype=NameObject("/Widget"), Parent=writer._add_object(parent))
    fields = [
        dictionary(Subtype=NameObject("/Widget"), FT=NameObject(kind), T=TextStringObject(kind), V=value)
        for kind, value in (
            ("/Tx", TextStringObject("Hafenstraße 4")),
            ("/Ch", TextStringObject("by ferry")),
            ("/Btn", NameObject("/Yes")),
        )
    ]
    remarks = [
        dictionary(Subtype=NameObject(kind), Contents=TextStringObject(words))
        for kind, words in (("/FreeText", "please call back"), ("/Popup", "hidden"), ("/Link", "hidden"))
    ]
    shown = [writer._add_object(annotation) for annotation in (inherits, *fields, *remarks)]
    parent["/Kids"].append(shown[0])
    writer.pages[0][NameObject("/Annots")] = ArrayObject(shown)
    writer.root_object[NameObject("/AcroForm")] = dictionary(Fields=ArrayObject([inherits.raw_get("/Parent")]))
    return written(writer)


def test_form_fields_and_notes_are_read() -> None:
    data = form()
    assert read(data).text == "A form\nMaria Keller\nHafenstraße 4\nby ferry\nplease call back"
    assert read(data).text == pypdf_reader.read_pdf(source(data)).text


@pytest.mark.parametrize("method", ["RC4-128", "AES-256"])
def test_a_password_is_asked_for_and_tried(method: str) -> None:
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["behind a lock"])))
    writer.encrypt(PASSWORD, algorithm=method)
    locked = written(writer)
    with pytest.raises(ExtractError, match="encrypted: a password is needed: .*--pdf-password-file"):
        read(locked)
    with pytest.raises(ExtractError, match="encrypted: none of the passwords given opens it"):
        read(locked, "wrong", "also wrong")
    assert read(locked, "wrong", PASSWORD).text == "behind a lock"


def test_an_empty_password_opens_by_itself_and_another_method_does_not() -> None:
    writer = PdfWriter(clone_from=io.BytesIO(pdf(["open to all"])))
    writer.encrypt("", "owner", algorithm="AES-256")
    data = written(writer)
    assert read(data).text == "open to all"
    with pytest.raises(ExtractError, match="by a method other than a password") as caught:
        read(data.replace(b"/Standard", b"/Foreigns"))
    assert caught.value.code == "encrypted"


def test_pictures_of_text_say_that_ocr_is_needed(sample_data: Path) -> None:
    with pytest.raises(ExtractError, match="no text layer on any of its 3 pages: run OCR first") as caught:
        read((sample_data / "bad/image-only.pdf").read_bytes())
    assert caught.value.code == "no_text"
    with pytest.raises(ExtractError, match="no text layer on its only page"):
        read(pdf([]))


@pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"%PDF-1.7\n%%EOF", b"words", b"\0\xff" * 99])
def test_what_is_no_pdf_is_corrupt(data: bytes) -> None:
    assert code_of(data) == "corrupt"


def test_a_cut_off_file_is_corrupt(sample_data: Path) -> None:
    with pytest.raises(ExtractError, match="corrupt PDF: it is cut off or its index is missing"):
        read((sample_data / "bad/truncated.pdf").read_bytes())


def test_a_page_that_is_not_there_costs_only_itself() -> None:
    data = pdf(["one"], ["two"], ["three"])
    document = read(re.sub(rb"(/Kids \[ \d+ 0 R) \d+ 0 R", rb"\1 99 0 R", data))
    assert document.text == "one\n\nthree"
    assert document.metadata["pages_failed"] == [2]


def test_no_page_at_all_is_corrupt() -> None:
    data = pdf(["one"])
    with pytest.raises(ExtractError, match="corrupt PDF: its page tree is damaged"):
        read(re.sub(rb"/Kids \[.*?\]", b"/Kids []", data))


def test_a_million_pages_that_are_not_there_are_not_tried() -> None:
    document = read(pdf(["one"]).replace(b"/Count 1", b"/Count 1000000"))
    assert document.text == "one"
    assert document.metadata["pages_failed"] == list(range(2, MAX_FAILED_RUN + 2))


def test_nothing_is_written_to_stderr(sample_data: Path) -> None:
    code = (
        "import sys; from pipeline.extract.pdfium import read_pdf; from pipeline.extract.source import Source\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(read_pdf(Source(open(name, 'rb').read(), 'a.pdf', 'p')).page_count)\n"
        "    except Exception as error: print(error.code)"
    )
    names = ["demo/tern-40-manual.pdf", "bad/truncated.pdf", "bad/encrypted.pdf", "bad/image-only.pdf"]
    done = subprocess.run(
        [sys.executable, "-c", code, *[sample_data / name for name in names]], capture_output=True, text=True
    )
    assert done.stdout.split() == ["4", "corrupt", "encrypted", "no_text"]
    assert (done.stderr, done.returncode) == ("", 0)


def outcome(data: bytes) -> str:
    try:
        document = read(data)
    except ExtractError as error:
        return error.code
    document.text.encode("utf-8")
    texts = [document.text[page.start : page.end] for page in document.pages]
    return "read" if all(texts) and "\n\n".join(texts) == document.text else "pages do not add up"


def test_a_file_cut_off_anywhere_gives_a_document_or_a_reason(sample_data: Path) -> None:
    whole = (sample_data / "demo/employee-handbook.pdf").read_bytes()
    for twentieths in range(1, 20):
        assert outcome(whole[: len(whole) * twentieths // 20]) in ("read", "corrupt")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_gives_a_document_or_a_reason(sample_data: Path, data: st.DataObject) -> None:
    original = (sample_data / "demo/employee-handbook.pdf").read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 20))):
        damaged[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(damaged)) in ("read", "corrupt", "encrypted", "no_text")
