"""Outlook messages (.msg) to Markdown, in the form that other mails have.

olefile opens the compound file, python-oxmsg knows its folders and the numbers of the properties. From there we go
our own way: olefile looks up every stream by its whole path, which is quadratic, and python-oxmsg reads all of a
hostile file, has no way to embedded messages and RTF, and refuses a message for a code page that Python lacks or
for one badly encoded character.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from typing import Protocol, cast

from olefile import STGTY_STORAGE, STGTY_STREAM, OleFileIO
from oxmsg.domain import constants as c
from oxmsg.domain.encodings import encoding_from_codepage
from oxmsg.domain.model import UnrecognizedCodePageError, UnsupportedEncodingError
from oxmsg.storage import Storage, Stream

from pipeline.document import Document
from pipeline.extract.decode import clean, declared_encoding, decode
from pipeline.extract.mail import (
    MAX_DEPTH,
    NO_SUBJECT,
    SHORT_CHARS,
    Reading,
    below,
    is_worth_reading,
    iso_date,
    plain,
    require_bounded,
    said,
    section,
)
from pipeline.extract.mime import Part, part_at
from pipeline.extract.rtf import read_rtf
from pipeline.extract.source import Source
from pipeline.extract.web import convert_html
from storage.errors import ExtractError

MAX_RTF_BYTES = 20_000_000
"""Of a body in RTF once it is decompressed; the rest is cut off. Most of such a size is pictures."""


def read_outlook(source: Source) -> Document:
    """Read a message or another item of Outlook (.msg); messages embedded in it are sections of the same text.

    Raises ExtractError: encrypted where only the header can be read, corrupt, no_text, too_large.
    """
    message = _Item(_open(source.data), _ROOT_HEADER)
    reading = Reading()
    text = _section(message, reading, level=1)
    headers = _headers(message)
    metadata = {
        "title": message.line(c.PID_SUBJECT),
        "author": _sender(message, headers),
        "date": iso_date(_date(message, headers)),
        "message_id": message.line(c.PID_INTERNET_MESSAGE_ID) or headers.field("message-id"),
        "in_reply_to": message.line(c.PID_IN_REPLY_TO_ID) or headers.field("in-reply-to"),
    }
    return reading.document(text, source, metadata)


# --- properties ----------------------------------------------------------------------------------------------

_ROOT_HEADER, _EMBEDDED_HEADER, _OTHER_HEADER = 32, 24, 8
"""Bytes before the first property: of the message a file is, of one in it, of anything else (MS-OXMSG 2.4)."""

_PROPERTIES = "__properties_version1.0"


class _Item:
    """A message, a recipient or an attachment: its folder in the file and its properties."""

    def __init__(self, storage: Storage, header_bytes: int, encoding: str | None = None) -> None:
        """encoding: of the texts of the message it belongs to."""
        self.storage = storage
        self._streams = {stream.name: stream.bytes_ for stream in storage.streams}
        table = self._streams.get(_PROPERTIES, b"")[header_bytes:]
        records = struct.iter_unpack("<2xH4xQ", table[: len(table) // 16 * 16])
        self._values: dict[int, int] = dict(records)
        self.encoding = self._code_page(c.PID_MESSAGE_CODEPAGE) or self._code_page(c.PID_INTERNET_CODEPAGE) or encoding

    def data(self, number: int) -> bytes:
        """A property of bytes; empty if there is none."""
        return self._stream(number, c.PTYP_BINARY) or b""

    def text(self, number: int) -> str:
        """A property of text; empty if there is none."""
        wide, narrow = self._stream(number, c.PTYP_STRING), self._stream(number, c.PTYP_STRING8)
        require_bounded(len(wide or narrow or b""))
        if wide is not None:
            return clean(wide.decode("utf-16-le", "replace"))
        return decode(narrow or b"", declared=self.encoding).text

    def line(self, number: int) -> str:
        """A property of text on one line, as a name or a subject is."""
        return " ".join(self.text(number).split())

    def number(self, number: int) -> int:
        """A property that is a number or a truth value; 0 if there is none."""
        return self._values.get(number, 0) & 0xFFFFFFFF

    def time(self, number: int) -> datetime | None:
        """A property that is a time, in whole seconds; None if there is none, or it is beyond the calendar."""
        try:
            return datetime(1601, 1, 1, tzinfo=UTC) + timedelta(seconds=self._values[number] // 10_000_000)
        except (KeyError, OverflowError):
            return None

    @property
    def html_bytes(self) -> int:
        """Bytes of the body as HTML."""
        kinds = ((c.PID_HTML, c.PTYP_BINARY), (c.PID_BODY_HTML, c.PTYP_STRING), (c.PID_BODY_HTML, c.PTYP_STRING8))
        return next((len(content) for number, kind in kinds if (content := self._stream(number, kind))), 0)

    def html(self) -> str:
        """The body as HTML, which is bytes or text; empty if there is none."""
        content = self.data(c.PID_HTML)
        require_bounded(len(content))
        declared = self._code_page(c.PID_INTERNET_CODEPAGE) or declared_encoding(content)
        return decode(content, declared=declared).text if content else self.text(c.PID_BODY_HTML)

    def _stream(self, number: int, kind: int) -> bytes | None:
        return self._streams.get(f"__substg1.0_{number:04X}{kind:04X}")

    def _code_page(self, number: int) -> str | None:
        try:
            return encoding_from_codepage(self.number(number))
        except (UnrecognizedCodePageError, UnsupportedEncodingError):  # also where it is not stated
            return None


# --- from a message to its text ------------------------------------------------------------------------------

_EMBEDDED = "__substg1.0_3701000D"
_SENT_REPRESENTING_SMTP_ADDRESS = 0x5D02
_TO, _CC, _BCC = 1, 2, 3
_IN_BODY = 4
"""A flag of attachments: the HTML of the body shows it."""


def _section(message: _Item, reading: Reading, *, level: int, untitled: str = "") -> str:
    """A message as a section; its attachments are put aside."""
    headers = _headers(message)
    fields = [
        ("From", _sender(message, headers)),
        ("To", _recipients(message, _TO) or message.line(c.PID_DISPLAY_TO) or headers.field("to")),
        ("Cc", _recipients(message, _CC) or message.line(c.PID_DISPLAY_CC) or headers.field("cc")),
        ("Bcc", _recipients(message, _BCC) or message.line(c.PID_DISPLAY_BCC)),
        ("Date", _date(message, headers)),
    ]
    body = _body(message, reading, level)
    reading.has_body |= bool(body)
    is_sealed = message.text(c.PID_MESSAGE_CLASS).upper().startswith("IPM.NOTE.SMIME")
    read = _sealed if is_sealed else _attached
    inner = list(read(message, reading, level))
    return section(message.line(c.PID_SUBJECT) or untitled, level, fields, [body, *inner])


def _headers(message: _Item) -> Part:
    """The header with which the message came by mail; most that were sent from here, or embedded, have none."""
    header = message.text(c.PID_TRANSPORT_MESSAGE_HEADERS).encode()
    return part_at(header, 0, len(header))


def _sender(message: _Item, headers: Part) -> str:
    name = message.line(c.PID_SENT_REPRESENTING_NAME) or message.line(c.PID_SENDER_NAME)
    numbers = (_SENT_REPRESENTING_SMTP_ADDRESS, c.PID_SENT_REPRESENTING_EMAIL_ADDRESS)
    return headers.field("from") or _address(
        name, message, (*numbers, c.PID_SENDER_SMTP_ADDRESS, c.PID_SENDER_EMAIL_ADDRESS)
    )


def _date(message: _Item, headers: Part) -> str:
    sent = message.time(c.PID_CLIENT_SUBMIT_TIME) or message.time(c.PID_MESSAGE_DELIVERY_TIME)
    return headers.field("date") or (format_datetime(sent) if sent else "")


def _recipients(message: _Item, kind: int) -> str:
    storages = message.storage.iter_recipient_storages()
    items = (_Item(storage, _OTHER_HEADER, message.encoding) for storage in storages)
    numbers = (c.PID_SMTP_ADDRESS, c.PID_EMAIL_ADDRESS)
    named = [_address(r.line(c.PID_DISPLAY_NAME), r, numbers) for r in items if r.number(c.PID_RECIPIENT_TYPE) == kind]
    return ", ".join(filter(None, named))


def _address(name: str, item: _Item, numbers: Sequence[int]) -> str:
    """A name and the first address of the Internet; those within Exchange say nothing."""
    address = next((found for number in numbers if "@" in (found := item.line(number))), "")
    if not address or address in name:
        return name
    return f"{name} <{address}>" if name else address


def _body(message: _Item, reading: Reading, level: int) -> str:
    """The plain text, or the HTML or RTF if that says more than twice as much.

    RTF is only looked at where there is little else: most messages have it, and it takes long to decompress.
    """
    best = plain(message.text(c.PID_BODY))
    if is_worth_reading(message.html_bytes, than=said(best)):
        best = _better(best, below(convert_html(message.html()).text, level))
    if said(best) < SHORT_CHARS:
        best = _better(best, below(_rtf_body(message, reading), level))
    return best


def _better(best: str, other: str) -> str:
    return other if not best or said(other) > 2 * said(best) else best


def _rtf_body(message: _Item, reading: Reading) -> str:
    rtf = decompressed(message.data(c.PID_RTF_COMPRESSED))
    reading.parts_left_out += len(rtf) >= MAX_RTF_BYTES
    rtf = _BLOCK_TAG.sub(rb"\\par ", rtf)
    try:
        return read_rtf(Source(rtf, "", "")).text
    except ExtractError:  # none, or only what frames the HTML that was read already
        return ""


_BLOCK_TAG = re.compile(
    rb"\{\\\*\\htmltag\d{0,5}\s?</?(?:p|div|br|li|ul|ol|tr|td|th|table|h[1-6]|blockquote)\b[^{}]*+\}", re.IGNORECASE
)
"""HTML in RTF (MS-OXRTFEX) ends a paragraph by its tags alone, which are no text of the RTF."""


def _attached(message: _Item, reading: Reading, level: int) -> Iterator[str]:
    """The texts of embedded messages; files are put aside."""
    for storage in message.storage.iter_attachment_storages():
        item = _Item(storage, _OTHER_HEADER, message.encoding)
        inner = next((inner for inner in storage.storages if inner.name == _EMBEDDED), None)
        if inner is None:
            _attach(item, reading)
        elif level > MAX_DEPTH or not any(stream.name == _PROPERTIES for stream in inner.streams):
            reading.parts_left_out += 1  # too deep, or a drawing or the like of another program
        else:
            embedded = _Item(inner, _EMBEDDED_HEADER, message.encoding)
            yield _section(embedded, reading, level=level + 1, untitled=NO_SUBJECT)


def _attach(item: _Item, reading: Reading) -> None:
    is_image = item.line(c.PID_ATTACH_MIME_TAG).lower().startswith("image/")
    if is_image and (item.number(c.PID_ATTACHMENT_HIDDEN) & 1 or item.number(c.PID_ATTACH_FLAGS) & _IN_BODY):
        return
    name = item.line(c.PID_ATTACH_LONG_FILENAME) or item.line(c.PID_ATTACH_FILENAME) or item.line(c.PID_DISPLAY_NAME)
    if data := item.data(c.PID_ATTACH_DATA_BINARY):
        reading.attach(name, data)


def _sealed(message: _Item, reading: Reading, level: int) -> Iterator[str]:
    """The text of a message that is signed, which lies in its one attachment as a mail, or else is encrypted."""
    for storage in message.storage.iter_attachment_storages():
        data = _Item(storage, _OTHER_HEADER).data(c.PID_ATTACH_DATA_BINARY)
        mail = part_at(data, 0, len(data))
        if mail.type.startswith("multipart/"):
            yield reading.mail(mail, level=level)
        else:
            reading.parts_encrypted += 1


# --- compressed RTF ------------------------------------------------------------------------------------------

_WINDOW = 4096
_DICTIONARY = (
    b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor "
    b"MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par "
    b"\\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx"
)
"""What every window begins with."""


def decompressed(data: bytes) -> bytes:
    """Decompress a body in RTF, as far as it is whole; empty for anything else. Source: MS-OXRTFCP."""
    size, kind = struct.unpack_from("<4xI4s", data) if len(data) >= 16 else (0, b"")
    if kind == b"MELA":
        return data[16 : 16 + min(size, MAX_RTF_BYTES)]
    if kind != b"LZFu":
        return b""
    text = bytearray(_WINDOW - len(_DICTIONARY)) + _DICTIONARY
    at, end = 16, _WINDOW + min(size, MAX_RTF_BYTES)
    while at < len(data) and len(text) < end:
        flags, at = data[at], at + 1
        for bit in range(8):
            if not flags >> bit & 1:
                text += data[at : at + 1]
                at += 1
                continue
            place, at = int.from_bytes(data[at : at + 2], "big"), at + 2
            back = (len(text) + len(_DICTIONARY) - (place >> 4)) % _WINDOW
            if not back or at > len(data):  # a reference to itself is the end
                return bytes(text[_WINDOW:end])
            length = (place & 15) + 2
            piece = text[len(text) - back : len(text) - back + length]  # may overlap what it is copied to
            text += (piece * (length // len(piece) + 1))[:length]
    return bytes(text[_WINDOW:end])


# --- the compound file ---------------------------------------------------------------------------------------

_MAX_PROPERTIES_BYTES = 1 << 20
"""Of the numbers, times and truth values of one item; 65,000 of them."""

_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)


_ENTRY_BYTES = 128
"""Of an entry of a directory."""


class _Entry(Protocol):
    """What is used of olefile's entries of a directory."""

    @property
    def name(self) -> str: ...
    @property
    def entry_type(self) -> int: ...
    @property
    def isectStart(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def kids(self) -> Sequence[_Entry]: ...


class _CompoundFile(OleFileIO):  # pyright: ignore[reportMissingTypeArgument]
    """A compound file that is read as a whole."""

    def folder(self, entry: _Entry, path: str = "") -> Storage:
        """A folder with all that is in it."""
        streams = [kid for kid in entry.kids if kid.entry_type == STGTY_STREAM]
        folders = [kid for kid in entry.kids if kid.entry_type == STGTY_STORAGE]
        return Storage(
            path,
            tuple(Stream(f"{path}/{kid.name}", self._open(kid.isectStart, kid.size).read()) for kid in streams),
            tuple(self.folder(kid, f"{path}/{kid.name}") for kid in folders),
        )

    def _check_duplicate_stream(self, first_sect: int, minifat: bool = False) -> None:
        """Quadratic, and only takes note; the sizes together tell as much."""


def _open(data: bytes) -> Storage:
    """The root folder of a message. Raises ExtractError (corrupt)."""
    try:
        _check_header(data)
        with _CompoundFile(BytesIO(data)) as file:  # it takes short bytes for a path to open
            root = cast(_Entry, file.root)  # pyright: ignore[reportUnknownMemberType]
            _check_sizes(root, len(data))
            folder = file.folder(root)
    except _DAMAGE as error:
        reason = f"corrupt: it is no Outlook message, or damaged ({type(error).__name__})"
        raise ExtractError(f"{reason}: save it again from Outlook") from error
    if not any(stream.name == _PROPERTIES for stream in folder.streams):
        raise ExtractError("corrupt: there is no Outlook message in it: save it again from Outlook")
    return folder


def _check_header(data: bytes) -> None:
    """Refuse tables of sectors larger than the file, in which olefile would go round in circles."""
    shift, mini_shift = struct.unpack_from("<HH", data, 30)
    tables, mini_tables, more_tables = struct.unpack_from("<I16xI4xI", data, 44)
    if shift not in (9, 12) or mini_shift != 6:
        raise ValueError("sectors of no known size")
    sectors = len(data) >> shift
    if tables > 2 * (sectors >> (shift - 2)) + 128 or max(mini_tables, more_tables) > sectors:
        raise ValueError("more tables than the file can hold")


def _check_sizes(root: _Entry, size: int) -> None:
    """Refuse more entries or bytes of streams than the file can hold: they form a circle, or overlap."""
    total, count, folders = 0, 0, [root]
    while folders and count * _ENTRY_BYTES < size:
        for kid in folders.pop().kids:
            total += kid.size if kid.entry_type == STGTY_STREAM else 0
            count += 1
            folders.append(kid)
            if kid.name == _PROPERTIES and kid.size > _MAX_PROPERTIES_BYTES:
                raise ValueError("too many properties")
    if max(total, root.size, count * _ENTRY_BYTES) > size:
        raise ValueError("more than the file can hold")
