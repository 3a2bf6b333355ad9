from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect import HEAD_BYTES, Kind, detect
from pipeline.document import Document
from pipeline.extract import extract
from storage.errors import ExtractError

CONTAINER = '<container xmlns="urn:c"><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
NAV = """<html xmlns="http://www.w3.org/1999/xhtml"><body><nav><ol><li><a href="two.xhtml#top">The  rope walk</a></li>
<li><a href="text/on%20e.xhtml">Ignored, it has a heading</a></li></ol></nav></body></html>"""
METADATA = """<dc:title>Varnholm</dc:title><dc:creator>Sunniva Brekke</dc:creator><dc:creator>Ada Lo</dc:creator>
<dc:language>en</dc:language>"""
MANIFEST = {
    "one": ("text/on%20e.xhtml", 'media-type="application/xhtml+xml"'),
    "two": ("two.xhtml", 'media-type="application/xhtml+xml"'),
    "nav": ("nav.xhtml", 'media-type="application/xhtml+xml" properties="scripted nav"'),
    "toc": ("toc.html", 'media-type="text/html"'),
    "cover": ("cover.svg", 'media-type="image/svg+xml"'),
}


def opf(spine: str = "nav cover toc two one", metadata: str = METADATA) -> str:
    items = "".join(f'<item id="{key}" href="{href}" {rest}/>' for key, (href, rest) in MANIFEST.items())
    refs = "".join(f'<itemref idref="{key}"/>' for key in spine.split())
    return (
        '<?xml version="1.0"?><!DOCTYPE package PUBLIC "+//ISBN 0-9673008-1-9//DTD OEB 1.2//EN" "oeb12.dtd">'
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata>{metadata}</metadata><manifest>{items}</manifest><spine>{refs}</spine>"
        '<guide><reference type="toc" href="toc.html"/></guide></package>'
    )


def page(body: str) -> str:
    head = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>'
    return f"{head}<body>{body}</body></html>"


PARTS: dict[str, str | bytes] = {
    "META-INF/container.xml": CONTAINER,
    "OPS/book.opf": opf(),
    "OPS/nav.xhtml": NAV,
    "OPS/toc.html": page("<p>Contents</p><p><a href='two.xhtml'>The rope walk</a> . . . 3</p>"),
    "OPS/cover.svg": "<svg/>",
    "OPS/text/on e.xhtml": page("<h1>Harbour</h1><p>Boats and <b>ropes</b>.</p>"),
    "OPS/two.xhtml": page("<p class='h'>The rope walk</p><p>Long.</p>"),
}
TEXT = "# The rope walk\n\nLong.\n\n# Harbour\n\nBoats and ropes."


def packed(parts: dict[str, str | bytes | None]) -> bytes:
    """The book, with these parts instead; None leaves one out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("mimetype"), "application/epub+zip")
        for name, content in (PARTS | parts).items():
            if content is not None:
                archive.writestr(name, content)
    return out.getvalue()


def read(parts: dict[str, str | bytes | None] | bytes) -> Document:
    data = parts if isinstance(parts, bytes) else packed(parts)
    return extract(data, kind=Kind.EPUB, name="a.epub")


def code_of(parts: dict[str, str | bytes | None] | bytes) -> str:
    with pytest.raises(ExtractError) as caught:
        read(parts)
    return caught.value.code


def test_chapters_in_reading_order_without_contents_and_cover() -> None:
    assert detect(packed({})[:HEAD_BYTES], "a").kind is Kind.EPUB
    document = read({})
    assert document.text == TEXT
    assert document.syntax == "markdown"
    assert document.metadata == {"title": "Varnholm", "author": "Sunniva Brekke, Ada Lo", "language": "en"}


def test_headings_come_from_an_old_table_of_contents_too() -> None:
    ncx = (
        '<!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "ncx.dtd"><ncx xmlns="n"><navMap><navPoint><navLabel><text>'
        'Ropes</text></navLabel><content src="../two.xhtml#x"/><navPoint><navLabel><text>Inner</text></navLabel>'
        '<content src="../two.xhtml#y"/></navPoint></navPoint></navMap></ncx>'
    )
    item = '<item id="ncx" href="a/toc.ncx" media-type="application/x-dtbncx+xml"/>'
    package = opf("two").replace("<manifest>", f"<manifest>{item}").replace("scripted nav", "")
    document = read({"OPS/book.opf": package, "OPS/a/toc.ncx": ncx})
    assert document.text == "# Ropes\n\nThe rope walk\n\nLong."


@pytest.mark.parametrize(
    "contents",
    [
        "<nav><h1>Contents</h1><ol><li><a href='two.xhtml'>The rope walk</a></li></ol></nav>",
        "<h2><a id='toc'/>Contents</h2><a href='two.xhtml'>The rope walk</a>",
    ],
)
def test_a_page_that_holds_more_than_the_contents_is_a_chapter(contents: str) -> None:
    book = opf("two").replace('properties="scripted nav"', "").replace("toc.html", "two.xhtml#toc")
    text = read({"OPS/book.opf": book, "OPS/two.xhtml": page(f"{contents}<p>Long.</p>")}).text
    assert text.endswith("Long.")
    with_nav = opf("one nav").replace("toc.html", "nav.xhtml")
    text = read({"OPS/book.opf": with_nav, "OPS/nav.xhtml": page(f"{contents}<p><a id='x'/>Long.</p>")}).text
    assert text.startswith("# Harbour")
    assert text.endswith("Long.")
    assert code_of({"OPS/book.opf": book, "OPS/two.xhtml": page(contents)}) == "no_text"


@pytest.mark.parametrize(
    ("parts", "text", "failed"),
    [
        ({"OPS/two.xhtml": None}, "# Harbour\n\nBoats and ropes.", ["OPS/two.xhtml"]),
        ({"OPS/two.xhtml": b"\x00\x80garbage"}, "# Harbour\n\nBoats and ropes.", ["OPS/two.xhtml"]),
        ({"OPS/nav.xhtml": "<html>&"}, TEXT.replace("# The", "The"), ["OPS/nav.xhtml"]),
        ({"META-INF/container.xml": None}, TEXT, None),
        ({"META-INF/container.xml": "<container"}, TEXT, ["META-INF/container.xml"]),
        ({"META-INF/container.xml": CONTAINER.replace("book", "other")}, TEXT, None),
        ({"META-INF/encryption.xml": "damaged"}, TEXT, ["META-INF/encryption.xml"]),
    ],
)
def test_a_damaged_part_costs_itself_alone(
    parts: dict[str, str | bytes | None], text: str, failed: list[str] | None
) -> None:
    document = read(parts)
    assert document.text == text
    assert document.metadata.get("parts_failed") == failed


@pytest.mark.parametrize("package", [None, "<package>&"])
def test_without_a_reading_order_every_page_is_read(package: str | None) -> None:
    text = read({"OPS/book.opf": package}).text
    assert "# Harbour\n\nBoats and ropes." in text
    assert text.endswith("The rope walk\n\nLong.")


def test_a_spine_of_pages_that_the_manifest_lacks_leaves_the_contents_out() -> None:
    assert read({"OPS/book.opf": opf("gone")}).text == "# Harbour\n\nBoats and ropes.\n\n# The rope walk\n\nLong."


def test_a_chapter_with_a_wrong_checksum_costs_itself_alone() -> None:
    data = bytearray(packed({}))
    at = data.index(b"OPS/two.xhtml") + len("OPS/two.xhtml") + 8
    data[at] ^= 0xFF
    document = read(bytes(data))
    assert document.text == "# Harbour\n\nBoats and ropes."
    assert document.metadata["parts_failed"] == ["OPS/two.xhtml"]


def encryption(algorithm: str, uri: str) -> str:
    return (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:e="http://www.w3.org/2001/04/xmlenc#">'
        f'<e:EncryptedData><e:EncryptionMethod Algorithm="{algorithm}"/><e:CipherData>'
        f'<e:CipherReference URI="{uri}"/></e:CipherData></e:EncryptedData></encryption>'
    )


AES = "http://www.w3.org/2001/04/xmlenc#aes256-cbc"


@pytest.mark.parametrize(
    ("algorithm", "uri", "locked"),
    [
        (AES, "OPS/text/on%20e.xhtml", True),
        (AES, "OPS/cover.svg", False),
        ("http://www.idpf.org/2008/embedding", "OPS/font.otf", False),
        ("http://ns.adobe.com/pdf/enc#RC", "OPS/font.otf", False),
    ],
)
def test_drm_is_told_from_garbled_fonts(algorithm: str, uri: str, locked: bool) -> None:
    parts: dict[str, str | bytes | None] = {"META-INF/encryption.xml": encryption(algorithm, uri)}
    if locked:
        with pytest.raises(ExtractError, match="DRM") as caught:
            read(parts)
        assert caught.value.code == "encrypted"
    else:
        assert read(parts).text == TEXT


def test_a_book_of_pictures_says_so() -> None:
    pictures = page('<img src="a.png"/>')
    assert code_of({"OPS/two.xhtml": pictures, "OPS/text/on e.xhtml": pictures}) == "no_text"


def test_a_book_whose_chapters_are_all_gone_is_corrupt() -> None:
    assert code_of({"OPS/two.xhtml": None, "OPS/text/on e.xhtml": None}) == "corrupt"


BOMB = '<!DOCTYPE package [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"OPS/book.opf": f"{BOMB}<package>&b;</package>"}, "corrupt"),
        ({"META-INF/container.xml": '<!DOCTYPE c [<!ENTITY x SYSTEM "file:///etc/hostname">]><c>&x;</c>'}, "corrupt"),
        ({"OPS/two.xhtml": " " * 20_000_000}, "too_large"),
        ({"../escape.xhtml": "x"}, "corrupt"),
    ],
)
def test_hostile_books_are_refused(parts: dict[str, str | bytes | None], code: str) -> None:
    assert code_of(parts) == code


@pytest.mark.parametrize("content", [packed({}), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR<a>", b"%PDF-1.4\n<< /Size 3 >>"])
def test_a_chapter_that_is_no_page_is_named_and_costs_itself_alone(content: bytes) -> None:
    document = read({"OPS/two.xhtml": content})
    assert document.text == "# Harbour\n\nBoats and ropes."
    assert document.metadata["parts_failed"] == ["OPS/two.xhtml"]


def test_entities_in_a_chapter_are_never_expanded() -> None:
    chapter = f"{BOMB.replace('package', 'html')}<html><body><p>a &b; &eacute;</p></body></html>"
    text = read({"OPS/two.xhtml": chapter}).text
    assert "é" in text
    assert "lollol" not in text


def test_no_zip_is_corrupt() -> None:
    assert code_of(b"no archive at all") == "corrupt"


def test_a_book_cut_off_anywhere_gives_a_reason() -> None:
    whole = packed({})
    for twentieth in range(1, 20):
        assert outcome(whole[: len(whole) * twentieth // 20]) == "corrupt"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_gives_a_document_or_a_reason(data: st.DataObject) -> None:
    damaged = bytearray(packed({}))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(damaged)) in ("read", "corrupt", "encrypted", "no_text", "too_large")


def outcome(data: bytes) -> str:
    try:
        read(data).text.encode("utf-8")
    except ExtractError as error:
        return error.code
    return "read"
