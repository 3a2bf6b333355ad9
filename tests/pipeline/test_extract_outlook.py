from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect import Kind, detect
from pipeline.document import Document
from pipeline.extract import extract, mail
from pipeline.extract.outlook import decompressed
from storage.errors import ExtractError

# --- writing compound files (MS-CFB) and messages (MS-OXMSG) ---------------------------------------------------

Folder = Mapping[str, Union[bytes, "Folder"]]

SECTOR, MINI_SECTOR, MINI_LIMIT = 512, 64, 4096
FREE, END, TABLE = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD


class Sectors:
    """Streams cut into sectors, and the table that chains them."""

    def __init__(self, size: int) -> None:
        self.size, self.data, self.chain = size, bytearray(), list[int]()

    def add(self, content: bytes) -> int:
        """Append a stream; the number of its first sector."""
        start, count = len(self.chain), -(-len(content) // self.size)
        self.chain += [*range(start + 1, start + count), END] if count else []
        self.data += content.ljust(count * self.size, b"\0")
        return start if count else END

    def table(self) -> bytes:
        return struct.pack(f"<{len(self.chain)}I", *self.chain)


def compound(folder: Folder) -> bytes:
    """A compound file; the entries of a folder are a list, not a balanced tree."""
    large, small = Sectors(SECTOR), Sectors(MINI_SECTOR)
    entries = [b""]
    child = add_folder(folder, entries, large, small)
    entries[0] = entry("Root Entry", 5, child=child, start=large.add(bytes(small.data)), size=len(small.data))
    return assembled(large, entries, large.add(small.table()), -(-len(small.chain) * 4 // SECTOR))


def assembled(large: Sectors, entries: list[bytes], mini_table: int = END, mini_tables: int = 0) -> bytes:
    directory = large.add(b"".join(entries))
    first, tables = len(large.chain), 1
    while tables * SECTOR // 4 < first + tables:
        tables += 1
    large.chain += [TABLE] * tables + [FREE] * (tables * SECTOR // 4 - first - tables)
    header = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + struct.pack("<5H6x", 0x3E, 3, 0xFFFE, 9, 6)
    header += struct.pack("<9I", 0, tables, directory, 0, MINI_LIMIT, mini_table, mini_tables, END, 0)
    numbers = [*range(first, first + tables), *[FREE] * (109 - tables)]
    return header + struct.pack("<109I", *numbers) + bytes(large.data) + large.table()


def add_folder(folder: Folder, entries: list[bytes], large: Sectors, small: Sectors) -> int:
    first = len(entries)
    entries += [b""] * len(folder)
    for at, (name, content) in enumerate(folder.items(), first):
        following = at + 1 if at + 1 < first + len(folder) else FREE
        if isinstance(content, bytes):
            start = (small if len(content) < MINI_LIMIT else large).add(content)
            entries[at] = entry(name, 2, following=following, start=start, size=len(content))
        else:
            entries[at] = entry(name, 1, following=following, child=add_folder(content, entries, large, small))
    return first if folder else FREE


def entry(
    name: str, kind: int, *, before: int = FREE, following: int = FREE, child: int = FREE, start: int = 0, size: int = 0
) -> bytes:
    coded = name.encode("utf-16-le")
    links = struct.pack("<HBB3I36xIQ", len(coded) + 2, kind, 1, before, following, child, start, size)
    return coded.ljust(64, b"\0") + links


def item(
    header_bytes: int, texts: Mapping[int, str | bytes], numbers: Mapping[int, int] = {}, **more: Folder
) -> Folder:
    """A message, recipient or attachment: `str` in UTF-16, `bytes` as they are; inner folders after their name."""
    table = bytes(header_bytes) + b"".join(struct.pack("<HHIQ", 3, n, 6, value) for n, value in numbers.items())
    streams: dict[str, bytes | Folder] = {"__properties_version1.0": table}
    for number, content in texts.items():
        kind, data = ("001F", content.encode("utf-16-le")) if isinstance(content, str) else ("0102", content)
        streams[f"__substg1.0_{number:04X}{kind}"] = data
    return {**streams, **{name.replace("_N", "_#0000000"): folder for name, folder in more.items()}}


def message(texts: Mapping[int, str | bytes], numbers: Mapping[int, int] = {}, **more: Folder) -> bytes:
    return compound(item(32, texts, numbers, **more))


def recipient(name: str, address: str, kind: int = 1) -> Folder:
    return item(8, {0x3001: name, 0x39FE: address}, {0x0C15: kind})


def attachment(name: str, data: bytes, numbers: Mapping[int, int] = {}, mime_type: str = "") -> Folder:
    return item(8, {0x3707: name, 0x3701: data, 0x370E: mime_type}, numbers)


def embedded(folder: Folder) -> Folder:
    return {**item(8, {0x3001: "inner"}), "__substg1.0_3701000D": folder}


def read(data: bytes) -> Document:
    return extract(data, kind=Kind.OUTLOOK, name="a.msg")


def code_of(data: bytes) -> str:
    with pytest.raises(ExtractError) as caught:
        read(data)
    return caught.value.code


def filetime(when: datetime) -> int:
    return int((when - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds()) * 10_000_000


SENT = {0x0039: filetime(datetime(2026, 3, 2, 8, 30, tzinfo=UTC))}
SUBJECT, BODY, HTML, RTF, CLASS, HEADERS = 0x0037, 0x1000, 0x1013, 0x1009, 0x001A, 0x007D


# --- tests ---------------------------------------------------------------------------------------------------


def test_a_message_is_read_like_a_mail() -> None:
    data = message(
        {
            SUBJECT: "Größe",
            BODY: "Hello,\r\n\r\n# no heading\r\n",
            0x0042: "Ann Lee",
            0x0C1F: "/O=EXCHANGE/CN=ANN",
            0x5D02: "ann@example.org",
            0x1035: "<1@example.org>",
            0x1042: "<0@example.org>",
        },
        SENT,
        **{
            "__recip_version1.0_N1": recipient("Bob", "bob@example.org"),
            "__recip_version1.0_N2": recipient("c@example.org", "c@example.org"),
            "__recip_version1.0_N3": recipient("Dee", "/O=EXCHANGE/CN=DEE", kind=2),
            "__recip_version1.0_N4": recipient("", "eve@example.org", kind=3),
            "__attach_version1.0_N0": attachment("report.pdf", b"%PDF-" * 2000),
        },
    )
    document = read(data)
    assert document.text == (
        "# Größe\n\nFrom: Ann Lee <ann@example.org>\nTo: Bob <bob@example.org>, c@example.org\nCc: Dee\n"
        "Bcc: eve@example.org\nDate: Mon, 02 Mar 2026 08:30:00 +0000\n\nHello,\n\n\\# no heading"
    )
    assert [(found.name, found.data) for found in document.attachments] == [("report.pdf", b"%PDF-" * 2000)]
    assert document.metadata == {
        "title": "Größe",
        "author": "Ann Lee <ann@example.org>",
        "date": "2026-03-02T08:30:00+00:00",
        "message_id": "<1@example.org>",
        "in_reply_to": "<0@example.org>",
    }
    assert detect(data, "a.msg").kind is Kind.OUTLOOK


def test_the_header_a_message_came_with_says_more() -> None:
    headers = "From: Ann <ann@example.org>\r\nDate: Tue, 3 Mar 2026 10:00:00 +0100\r\nMessage-ID: <2@example.org>\r\n"
    document = read(message({SUBJECT: "x", 0x0042: "Ann", HEADERS: headers, 0x0E04: "Bob; Cy"}, SENT))
    assert document.text == "# x\n\nFrom: Ann <ann@example.org>\nTo: Bob; Cy\nDate: Tue, 3 Mar 2026 10:00:00 +0100"
    assert document.metadata["date"] == "2026-03-03T10:00:00+01:00"
    assert document.metadata["message_id"] == "<2@example.org>"


LONG = "word " * 50


@pytest.mark.parametrize(
    ("bodies", "text"),
    [
        ({BODY: "plain", HTML: b"<p>in HTML"}, "plain"),
        ({BODY: "See the HTML.", HTML: f"<h1>Title</h1><p>{LONG}".encode()}, f"## Title\n\n{LONG.strip()}"),
        ({BODY: " \r\n", HTML: b"<p>in HTML"}, "in HTML"),
        ({BODY: f"In a browser: https://a.example/{'x' * 200}", HTML: f"<p>{LONG}".encode()}, LONG.strip()),
        ({BODY: LONG, HTML: f"<p>{LONG * 5}"}, (LONG * 5).strip()),
        ({BODY: LONG, HTML: f"<style>{'p {} ' * 500}</style><p>{LONG}"}, LONG.strip()),
        ({BODY: LONG, RTF: b"\0" * 4 + b"\x17\0\0\0MELA" + bytes(4) + b"{\\rtf1 stored \\b RTF\\b0}"}, LONG.strip()),
        ({HTML: "<p>Größe"}, "Größe"),
        ({HTML: '<meta charset="koi8-r"><p>Чай'.encode("koi8-r")}, "Чай"),
        ({RTF: b"\0" * 4 + b"\x17\0\0\0MELA" + bytes(4) + b"{\\rtf1 stored \\b RTF\\b0}"}, "stored RTF"),
    ],
)
def test_the_body_is_the_plain_text_or_what_says_more(bodies: dict[int, str | bytes], text: str) -> None:
    assert read(message({SUBJECT: "x", **bodies})).text == f"# x\n\n{text}"


COMPRESSED = bytes.fromhex(
    "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c090020627705b06c647d0a800fa0"
)
"""The first example of MS-OXRTFCP."""


def test_compressed_rtf_is_decompressed() -> None:
    assert decompressed(COMPRESSED) == b"{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n"
    assert read(message({RTF: COMPRESSED})).text == "hello world"
    for length in range(len(COMPRESSED)):  # cut off anywhere
        assert decompressed(COMPRESSED).startswith(decompressed(COMPRESSED[:length]))
    crossing = bytes.fromhex("1a0000001c0000004c5a4675e2d44b51410004205758595a0d6e7d010eb0")
    assert decompressed(crossing) == b"{\\rtf1 WXYZWXYZWXYZWXYZWXYZ}"


def test_html_in_rtf_keeps_its_paragraphs() -> None:
    rtf = (
        b"{\\rtf1\\ansi\\fromhtml1 {\\*\\htmltag64 <ul>}{\\*\\htmltag64 <li>}one{\\*\\htmltag72 </li>}"
        b"{\\*\\htmltag64 <li>}two{\\*\\htmltag84 <b>}!{\\*\\htmltag92 </b>}{\\*\\htmltag72 </ul>}}"
    )
    stored = struct.pack("<II4sI", len(rtf) + 12, len(rtf), b"MELA", 0) + rtf
    assert read(message({RTF: stored})).text == "one\n\ntwo!"


@pytest.mark.parametrize("code_page", [1251, 0, 20866, 709, 65001, 4_000_000_000])
def test_texts_of_eight_bits_in_any_code_page(code_page: int) -> None:
    text = "Съешь ещё этих мягких французских булок, да выпей же чаю. " * 3
    streams = dict(item(32, {SUBJECT: "x"}, {0x3FFD: code_page}))
    streams["__substg1.0_1000001E"] = text.encode("koi8-r" if code_page == 20866 else "cp1251")
    assert read(compound(streams)).text == f"# x\n\n{text.strip()}"


def test_badly_encoded_text_is_read() -> None:
    streams = dict(item(32, {SUBJECT: "x"}))
    streams["__substg1.0_1000001F"] = "a\0b".encode("utf-16-le") + b"\x00\xd8" + "c".encode("utf-16-le") + b"\x01"
    assert read(compound(streams)).text == "# x\n\nab\ufffdc\ufffd"


def test_embedded_messages_are_sections_with_their_attachments() -> None:
    inner = item(24, {SUBJECT: "Inner", BODY: "inside"}, SENT, **{"__attach_version1.0_N0": attachment("a.txt", b"a")})
    outer = {
        "__attach_version1.0_N0": embedded(inner),
        "__attach_version1.0_N1": attachment("b.txt", b"b"),
        "__attach_version1.0_N2": embedded({"CONTENTS": b"a drawing"}),
        "__attach_version1.0_N3": item(8, {0x3707: "only a link"}),
    }
    document = read(message({SUBJECT: "Outer", BODY: "outside"}, **outer))
    date = "Date: Mon, 02 Mar 2026 08:30:00 +0000"
    assert document.text == f"# Outer\n\noutside\n\n## Inner\n\n{date}\n\ninside"
    assert [found.name for found in document.attachments] == ["a.txt", "b.txt"]
    assert document.metadata["parts_left_out"] == 1


def test_pictures_of_the_body_are_left_out() -> None:
    pictures = {
        "__attach_version1.0_N0": attachment("a.png", b"a", {0x3714: 4}, "image/png"),
        "__attach_version1.0_N1": attachment("b.png", b"b", {0x7FFE: 1}, "image/png"),
        "__attach_version1.0_N2": attachment("c.png", b"c", {}, "image/png"),
    }
    document = read(message({SUBJECT: "x"}, **pictures))
    assert [found.name for found in document.attachments] == ["c.png"]


def test_signed_messages_are_read_and_encrypted_ones_say_so() -> None:
    signed = b"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nthe text\r\n--b--\r\n"
    texts = {SUBJECT: "x", CLASS: "IPM.Note.SMIME.MultipartSigned"}
    whole = {"__attach_version1.0_N0": attachment("smime.p7m", signed)}
    assert read(message(texts, **whole)).text == "# x\n\nthe text"
    sealed = {"__attach_version1.0_N0": attachment("smime.p7m", b"\x30\x82")}
    assert code_of(message({SUBJECT: "x", CLASS: "IPM.Note.SMIME"}, **sealed)) == "encrypted"


def test_messages_deeper_than_allowed_are_counted() -> None:
    inner = item(24, {SUBJECT: "mail 11"})
    for level in reversed(range(1, 11)):
        inner = item(24, {SUBJECT: f"mail {level}"}, **{"__attach_version1.0_N0": embedded(inner)})
    document = read(message({SUBJECT: "mail 0"}, **{"__attach_version1.0_N0": embedded(inner)}))
    assert document.text.endswith("###### mail 10")
    assert document.metadata["parts_left_out"] == 1


def test_more_attachments_than_allowed_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "MAX_ATTACHMENTS", 2)
    files = {f"__attach_version1.0_N{n}": attachment(f"{n}.txt", b"x") for n in range(5)}
    document = read(message({SUBJECT: "x"}, **files))
    assert (len(document.attachments), document.metadata["attachments_left_out"]) == (2, 3)


# --- damage --------------------------------------------------------------------------------------------------

WHOLE = message(
    {SUBJECT: "Whole", BODY: LONG * 20, HTML: b"<p>x", RTF: COMPRESSED, HEADERS: "From: a\r\n"},
    SENT,
    **{
        "__recip_version1.0_N0": recipient("Bob", "bob@example.org"),
        "__attach_version1.0_N0": attachment("a.bin", b"a" * 9000),
        "__attach_version1.0_N1": embedded(item(24, {SUBJECT: "Inner"})),
    },
)


def patched(offset: int, code: str, *values: int) -> bytes:
    data = bytearray(WHOLE)
    struct.pack_into(code, data, offset, *values)
    return bytes(data)


def hostile() -> Iterator[bytes]:
    yield patched(30, "<H", 40)  # sectors of a terabyte
    yield patched(32, "<H", 0)  # mini sectors of a byte
    yield patched(44, "<I", 2**32 - 1)  # tables without end
    yield patched(64, "<I", 2**32 - 1)  # mini tables without end
    directory = 512 + struct.unpack_from("<I", WHOLE, 48)[0] * 512
    yield patched(directory + 128 + 120, "<Q", 2**31)  # a stream larger than the file
    yield patched(directory + 128 + 120, "<Q", len(WHOLE) - 1)  # streams that overlap
    yield patched(directory + 120, "<Q", 2**31)  # the same of the stream that holds the small ones
    yield patched(directory + 128 + 76, "<I", 0)  # a stream that holds the root folder
    # 300 kB of tables that each name themselves as the next
    loop = struct.pack("<I", 0) * 128
    tables = (2**22 - 109 + 126) // 127
    header = bytearray(WHOLE[:512])
    struct.pack_into("<I", header, 44, 2**22)
    struct.pack_into("<II", header, 68, 0, tables)
    yield bytes(header) + loop * 600


@pytest.mark.parametrize("data", list(hostile()))
def test_hostile_tables_are_refused(data: bytes) -> None:
    assert code_of(data) == "corrupt"


@pytest.mark.parametrize(
    "data",
    [
        b"Subject: a mail\n\ntext",
        b"/etc/passwd",
        bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504),
        compound({"WordDocument": b"x"}),
        compound({"__properties_version1.0": b"x" * (1 << 20) + b"x"}),
        compound({"a": {"b": {}}}),
    ],
)
def test_what_is_no_message_is_corrupt(data: bytes) -> None:
    assert code_of(data) == "corrupt"


def test_folders_without_end_are_refused() -> None:
    entries = [entry("Root Entry", 5, child=1), *(entry("a", 1, child=number) for number in range(2, 3000))]
    assert code_of(assembled(Sectors(SECTOR), [*entries, entry("a", 1)])) == "corrupt"


def test_a_folder_of_very_many_streams_is_refused() -> None:
    """They stand in a balanced tree, which olefile reads, and which is no message."""

    def tree(low: int, high: int) -> int:
        if low >= high:
            return FREE
        middle = (low + high) // 2
        left, right = tree(low, middle), tree(middle + 1, high)
        entries[middle] = entry(f"{middle:06}", 2, before=left, following=right, start=middle, size=1)
        return middle

    entries = [b""] * 50_001
    entries[0] = entry("Root Entry", 5, child=tree(1, len(entries)))
    assert code_of(assembled(Sectors(SECTOR), entries)) == "corrupt"


def outcome(data: bytes) -> str:
    try:
        read(data).text.encode()
    except ExtractError as error:
        return error.code
    return "read"


def test_a_message_cut_off_anywhere_is_corrupt() -> None:
    for twentieth in range(1, 20):
        assert outcome(WHOLE[: len(WHOLE) * twentieth // 20]) == "corrupt"


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damage_gives_a_document_or_a_reason(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 12))):
        damaged[data.draw(st.integers(0, len(WHOLE) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(damaged)) in ("read", "corrupt", "no_text")


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_decompressed_within_their_size(data: bytes) -> None:
    packed = struct.pack("<II4sI", len(data) + 12, 600, b"LZFu", 0) + data
    assert len(decompressed(packed)) <= 600
