"""Mails, mailboxes and web archives to Markdown: the subject as heading, who wrote when to whom, the text.

A forwarded mail is a section of the mail it lies in. Files that are attached are handed on as they are; what
only dresses the text is left out: pictures in it, style sheets, digital signatures. Nothing is ever fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from io import StringIO
from itertools import islice
from typing import Any, NamedTuple

from pipeline.detect import wide_encoding
from pipeline.document import Attachment, Document
from pipeline.extract.blocks import escaped
from pipeline.extract.decode import TITLE_CHARS, decode
from pipeline.extract.mime import Part, part_at
from pipeline.extract.source import Source
from pipeline.extract.web import convert_html, read_html
from storage.errors import ExtractError

MAX_ATTACHMENTS = 200
MAX_ATTACHMENT_BYTES = 200_000_000
"""Of all attachments of a file together."""

MAX_DEPTH = 10
"""Mails within mails, and parts within the parts of one mail."""

MAX_PARTS = 100_000
"""Of a mail, or mails of a mailbox."""

MAX_TEXT_BYTES = 50_000_000
"""Of one part that is read with its mail."""

FIELD_CHARS = 10_000
"""Of one line above the text; what is longer is a list of recipients, and cut off."""

NO_SUBJECT = "—"
"""The heading of a mail among others that has no subject: a sign, as words of ours would be found as its own."""


def read_mail(source: Source) -> Document:
    """Read a mail as it was sent (.eml) or as Apple Mail keeps it (.emlx).

    Raises ExtractError: encrypted where only the header can be read, corrupt, no_text.
    """
    mail = _opened(source.data)
    reading = Reading()
    metadata = {
        "title": mail.field("subject"),
        "author": mail.field("from"),
        "date": iso_date(mail.field("date")),
        "message_id": mail.field("message-id"),
        "in_reply_to": mail.field("in-reply-to"),
    }
    return reading.document(reading.mail(mail, level=1), source, metadata)


def read_mailbox(source: Source) -> Document:
    """Read the mails of a mailbox (.mbox), each a section under its subject.

    Raises ExtractError: encrypted where only headers can be read, corrupt, no_text.
    """
    reading = Reading()
    mails = reading.within_limits(_mails(_lines(source.data)))
    texts = [reading.mail(mail, level=1, untitled=NO_SUBJECT) for mail in mails]
    return reading.document("\n\n".join(texts), source, {"messages": len(texts)})


def mail_attachments(source: Source) -> tuple[Attachment, ...]:
    """Return the attachments that `read_mail` gives, without reading the text. Raises ExtractError (corrupt)."""
    reading = Reading()
    reading.look_through(_opened(source.data))
    return tuple(reading.attachments)


def mailbox_attachments(source: Source) -> tuple[Attachment, ...]:
    """Return the attachments that `read_mailbox` gives, without reading the texts."""
    reading = Reading()
    for mail in reading.within_limits(_mails(_lines(source.data))):
        reading.look_through(mail)
    return tuple(reading.attachments)


def read_web_archive(source: Source) -> Document:
    """Read the page of a web archive (.mht, .mhtml); where that only holds frames, the other pages.

    Raises ExtractError: corrupt, no_text.
    """
    archive = _opened(source.data)
    reading = Reading()
    pages = [part for part in reading.leaves(archive) if _is_page(part)]
    if not pages:
        return read_mail(source)
    root = archive.parameter("content-type", "start")
    pages.sort(key=lambda page: page.fields.get("content-id", "").strip() != root)
    found = _read_pages(pages[:1], source) or _read_pages(pages[1:], source)
    if not found:
        reason = "no text in the page, which scripts may fill: save it from a browser as PDF"
        raise ExtractError(reason, code="no_text")
    url = archive.field("snapshot-content-location") or pages[0].field("content-location")
    metadata = {**found[0].metadata, "encoding": "", "url": url, "date": iso_date(archive.field("date"))}
    known = _known({**metadata, "parts_left_out": reading.parts_left_out})
    return replace(found[0], text="\n\n".join(page.text for page in found), metadata=known)


def _read_pages(pages: Iterable[Part], source: Source) -> list[Document]:
    """The pages with a text; their charset is stated outside of them, so they are handed on in UTF-8."""
    found: list[Document] = []
    for page in pages:
        try:
            found.append(read_html(replace(source, data=page.text().encode())))
        except ExtractError:
            continue
    return found


def iso_date(date: str) -> str:
    """The date of a mail after ISO 8601; empty where it is none."""
    try:
        return parsedate_to_datetime(date[:100]).isoformat()
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError):  # whatever the parser trips over
        return ""


# --- what all readers of mails share -------------------------------------------------------------------------


class _Block(NamedTuple):
    """A piece of a mail's text; forwarded mails come after all others, so that none of these is below them."""

    text: str
    is_mail: bool = False


@dataclass(slots=True)
class Reading:
    """What is found while a file is read, within the limits, and how much was passed over.

    has_body: whether any text was found beyond the headers.
    """

    attachments: list[Attachment] = field(default_factory=list[Attachment])
    attachments_left_out: int = 0
    parts_left_out: int = 0
    parts_encrypted: int = 0
    has_body: bool = False
    _parts: int = 0
    _attached_bytes: int = 0

    def document(self, text: str, source: Source, metadata: Mapping[str, Any]) -> Document:
        """What was read as a document. Raises ExtractError: encrypted, no_text."""
        if self.parts_encrypted and not self.has_body and not self.attachments:
            raise ExtractError("encrypted mail: save it decrypted from the mail program", code="encrypted")
        if not text and self.attachments:  # it brought nothing but files: what it says is their names
            text = "\n\n".join(file.name for file in self.attachments if file.name) or NO_SUBJECT
        if not text:
            raise ExtractError("no text in the mail: save it again from the mail program", code="no_text")
        passed_over = {
            "attachments_left_out": self.attachments_left_out,
            "parts_left_out": self.parts_left_out,
            "parts_encrypted": self.parts_encrypted,
        }
        known = _known({**metadata, **passed_over})
        return Document(text, "markdown", source.parser, attachments=tuple(self.attachments), metadata=known)

    def attach(self, name: str, data: bytes) -> None:
        """Keep an attachment, unless there are too many."""
        if len(self.attachments) >= MAX_ATTACHMENTS or self._attached_bytes + len(data) > MAX_ATTACHMENT_BYTES:
            self.attachments_left_out += 1
            return
        self._attached_bytes += len(data)
        self.attachments.append(Attachment(name, data))

    def look_through(self, mail: Part) -> None:
        """Put the attachments of a mail aside, as `mail` does, and read no text."""
        for _ in self._blocks(mail, 1, 0, wanted=False):
            pass

    def mail(self, mail: Part, *, level: int, untitled: str = "") -> str:
        """A mail as a section with a heading of this level.

        untitled: the heading where the mail has no subject; without it there is none.
        """
        fields = [(name, mail.field(name.lower())) for name in ("From", "To", "Cc", "Bcc", "Date")]
        blocks = sorted(self._blocks(mail, level, 0, wanted=True), key=lambda block: block.is_mail)
        return section(mail.field("subject") or untitled, level, fields, [block.text for block in blocks])

    def leaves(self, part: Part, depth: int = 0) -> Iterator[Part]:
        """The parts that hold no others."""
        if part.type.startswith("multipart/") and depth <= MAX_DEPTH:
            for child in self.within_limits(part.children()):
                yield from self.leaves(child, depth + 1)
        else:
            yield part

    def within_limits(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts, as long as there are not too many."""
        for part in parts:
            self._parts += 1
            if self._parts > MAX_PARTS:
                self.parts_left_out += 1
                return
            yield part

    def _blocks(self, part: Part, level: int, depth: int, *, wanted: bool) -> Iterator[_Block]:
        """The text of a part; its attachments are put aside.

        wanted: whether its text is; else it is there in another form, and only attachments are looked for.
        """
        kind = part.type
        if kind in _SIGNATURES or (kind.startswith("image/") and part.disposition != "attachment"):
            return
        if kind in _ENCRYPTED and not part.parameter("content-type", "smime-type").startswith(_ONLY_SIGNED):
            self.parts_encrypted += 1
        elif kind.startswith("multipart/") and part.boundary:
            yield from self._multipart(part, level, depth + 1, wanted=wanted)
        elif kind in _MAILS:
            yield from self._forwarded(part, level + 1, wanted=wanted)
        elif not _is_text(part, depth):
            self.attach(part.filename, part.content())
        elif wanted and (text := self._body(part, level)):
            self.has_body = True
            yield _Block(text)

    def _multipart(self, part: Part, level: int, depth: int, *, wanted: bool) -> Iterator[_Block]:
        if depth > MAX_DEPTH:
            self.parts_left_out += 1
        elif part.type == "multipart/alternative":
            yield from self._best(part, level, depth, wanted=wanted)
        else:
            for child in self.within_limits(part.children()):
                yield from self._blocks(child, level, depth, wanted=wanted)

    def _best(self, part: Part, level: int, depth: int, *, wanted: bool) -> list[_Block]:
        """The plain text of a mail that comes in several forms, or its HTML where that says more.

        The order in which attachments are met must not depend on the texts: their names do on it.
        """
        best: list[_Block] = []
        best_said = 0
        for child in sorted(self.within_limits(part.children()), key=_preference):
            may_say_more = not best or _may_say_more(child, depth, than=best_said)
            blocks = list(self._blocks(child, level, depth, wanted=wanted and may_say_more))
            blocks_said = sum(said(block.text) for block in blocks)
            if not best or blocks_said > 2 * best_said:
                best, best_said = blocks, blocks_said
        return best

    def _forwarded(self, part: Part, level: int, *, wanted: bool) -> Iterator[_Block]:
        if level > MAX_DEPTH + 1:
            self.parts_left_out += 1
        elif not wanted:
            yield from self._blocks(part.message(), level, 0, wanted=False)
        else:
            yield _Block(self.mail(part.message(), level=level, untitled=NO_SUBJECT), is_mail=True)

    def _body(self, part: Part, level: int) -> str:
        require_bounded(part.end - part.start)
        text = part.text()
        if "html" in part.type or _HTML.match(text):
            return below(convert_html(text).text, level)
        if part.parameter("content-type", "format").lower() == "flowed":
            text = _unflowed(text, delete_space=part.parameter("content-type", "delsp").lower() == "yes")
        self.parts_encrypted += len(_SEALED.findall(text))
        return plain(_ARMOUR.sub("", text))


_MAILS = ("message/rfc822", "message/global", "message/news")
_ENCRYPTED = ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime")
_ONLY_SIGNED = ("signed", "certs", "compressed")
_SIGNATURES = ("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature")
_NEVER_TEXT = ("text/css", "text/javascript")

_LAST_RESORT = 2
SHORT_CHARS = 200
"""A plain text that says less than this may only say that the mail is to be read as HTML."""

_TIMES_LONGER = 4
_MAX_OTHER_FORM_BYTES = 3_000_000
"""HTML that long beside a plain text that is not short is not looked at. Whatever its markup, that takes less memory
than `convert_html` allows, so that a mail never fails for the form of it that is not needed."""

_MAX_FORM_PARTS = 100


def _preference(part: Part) -> int:
    """Which form of a mail to read first; calendars and the like last."""
    if part.type == "text/plain":
        return 0
    return 1 if part.type == "text/html" or part.type.startswith("multipart/") else _LAST_RESORT


_ADDRESS = re.compile(r"(?:https?://|www\.|mailto:)[!-~]++", re.IGNORECASE)


def said(text: str) -> int:
    """Characters of a text without addresses: a single one that counts clicks may be longer than a mail."""
    return len(_ADDRESS.sub("", text))


def is_worth_reading(size: int, *, than: int) -> bool:
    """Tell whether another form of a mail, of this many bytes, may say more than twice what the best one says.

    HTML is converted to find out, so it must be several times longer, which that of most mails written by hand is not.
    """
    return than < SHORT_CHARS or _TIMES_LONGER * than < size <= _MAX_OTHER_FORM_BYTES


def _may_say_more(part: Part, depth: int, *, than: int) -> bool:
    return _preference(part) < _LAST_RESORT and is_worth_reading(_text_bytes(part, depth), than=than)


def _text_bytes(part: Part, depth: int) -> int:
    """Bytes of plain text and HTML in a part as they were sent; pictures and files do not count."""
    if part.type.startswith("multipart/") and depth <= MAX_DEPTH:
        return sum(_text_bytes(child, depth + 1) for child in islice(part.children(), _MAX_FORM_PARTS))
    return part.end - part.start if part.type in ("text/plain", "text/html") else 0


def _is_text(part: Part, depth: int) -> bool:
    """Whether a part is to be read with the mail, not a file of its own; so is a multipart that nothing parts."""
    if not part.type.startswith(("text/", "message/", "multipart/")) or part.type in _NEVER_TEXT:
        return False
    return part.disposition != "attachment" and (part.disposition == "inline" or not part.filename or depth == 0)


def _is_page(part: Part) -> bool:
    return "html" in part.type or (part.type == "text/plain" and _HTML.match(part.text()) is not None)


_HTML = re.compile(r"\s*<(?:!doctype\s+)?html[\s>]", re.IGNORECASE)


def require_bounded(size: int) -> None:
    """Raise ExtractError (too_large) for a text of this many bytes if that is too many."""
    if size > MAX_TEXT_BYTES:
        reason = f"too large: the text of a mail has more than {MAX_TEXT_BYTES / 1e6:.0f} MB: split it"
        raise ExtractError(reason, code="too_large")


def section(subject: str, level: int, fields: Iterable[tuple[str, str]], texts: Iterable[str]) -> str:
    """A mail as a section: heading, a line for each field that is known, then the texts."""
    heading = f"{'#' * min(level, 6)} {subject}" if subject else ""
    lines = "\n".join(f"{name}: {_short(value)}" for name, value in fields if value)
    return "\n\n".join(filter(None, [heading, lines, *texts]))


def _short(value: str) -> str:
    return value if len(value) <= FIELD_CHARS else f"{value[:FIELD_CHARS]}…"


def _known(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of it, names and titles cut to a bearable length."""
    short = {key: value[:TITLE_CHARS] if isinstance(value, str) else value for key, value in metadata.items()}
    return {key: value for key, value in short.items() if value}


_HEADING = re.compile(r"(^[ ]{0,3}(```+|~~~+).*?(?:^[ ]{0,3}\2|\Z))|^(#{1,6})(?= )", re.MULTILINE | re.DOTALL)


def below(markdown: str, level: int) -> str:
    """Markdown whose headings rank below one of this level."""
    return _HEADING.sub(lambda found: found[1] or "#" * min(len(found[3]) + level, 6), markdown)


_SPACE_AT_END = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)
_GAP = re.compile(r"\n{3,}")


def plain(text: str) -> str:
    """Plain text as Markdown, without spaces at line ends and with an empty line in a row at most."""
    return _GAP.sub("\n\n", escaped(_SPACE_AT_END.sub("", text))).strip()


def _unflowed(text: str, *, delete_space: bool) -> str:
    """Join the lines that were only broken for sending (RFC 3676); those of a quotation keep its marks."""
    joined = StringIO()
    open_depth = -1
    for line in _LINE.finditer(text):
        content = line[0].lstrip(">")
        depth = len(line[0]) - len(content)
        content = content.removeprefix(" ")
        is_soft = content.endswith(" ") and content != "-- "
        if depth != open_depth or content in ("", "-- "):
            joined.write("\n" * bool(line.start()) + ">" * depth + " " * bool(depth))
        joined.write(content[:-1] if is_soft and delete_space else content)
        open_depth = depth if is_soft else -1
    return joined.getvalue()


_LINE = re.compile(r"^[^\n]*$", re.MULTILINE)

_ARMOUR = re.compile(
    r"^-----BEGIN PGP SIGNED MESSAGE-----\n(?:\S[^\n]*+\n)*+"
    r"|^-----BEGIN PGP (?:SIGNATURE|MESSAGE|PUBLIC KEY BLOCK)-----\n"
    r"(?:(?!-----)[^\n]*+\n)*+(?:-----END PGP [A-Z ]+-----)?",
    re.MULTILINE,
)
"""What PGP wraps around a text, or makes of it."""

_SEALED = re.compile(r"^-----BEGIN PGP MESSAGE-----$", re.MULTILINE)


# --- from a file to its mails --------------------------------------------------------------------------------


def _lines(data: bytes) -> bytes:
    """The bytes of a file in an encoding that holds ASCII, with lines as a mail has them."""
    if wide_encoding(data):
        data = decode(data).text.encode()
    return data if b"\n" in data else data.replace(b"\r", b"\n")


def _opened(data: bytes) -> Part:
    """The mail in a file. Raises ExtractError (corrupt)."""
    data = _lines(data)
    mail = _mail_at(data, 0, len(data))
    if not mail.fields and b"\0" in data:
        raise ExtractError("corrupt: it holds no mail: save it again from the mail program")
    return mail


_APPLE_LENGTH = re.compile(rb"\s*(\d{1,12})[ \t]*\r?\n(?=[!-9;-~]+:)")
_BLANK = re.compile(rb"(?:\xef\xbb\xbf)?\s*")


def _mail_at(data: bytes, start: int, end: int) -> Part:
    """The mail in this range; Apple Mail writes its length above it and notes of its own below."""
    if found := _APPLE_LENGTH.match(data, start, end):
        start, end = found.end(), min(end, found.end() + int(found[1]))
    blank = _BLANK.match(data, start, end)
    return part_at(data, blank.end() if blank else start, end)


_FROM = re.compile(rb"^From [^\n]*\n?", re.MULTILINE)
_POSTMARK = re.compile(rb"From .*\w{3},? +\w{3} +\d{1,2} +\d{1,2}:\d\d")
_FIELD = re.compile(rb"[!-9;-~]+:")
_VISIBLE = re.compile(rb"\S")


def _mails(data: bytes) -> Iterator[Part]:
    """The mails of a mailbox, in order."""
    start = 0
    for found in _FROM.finditer(data):
        if _opens_mail(data, found):
            if _VISIBLE.search(data, start, found.start()):
                yield _mail_at(data, start, found.start())
            start = found.end()
    if _VISIBLE.search(data, start):
        yield _mail_at(data, start, len(data))


def _opens_mail(data: bytes, line: re.Match[bytes]) -> bool:
    """Whether a line "From …" parts two mails: it holds a date, or stands between an empty line and a field.

    Not every program marks such lines of a text with ">".
    """
    before = data[max(0, line.start() - 3) : line.start()]
    alone = not before or before.endswith((b"\n\n", b"\n\r\n"))
    return _POSTMARK.match(line[0]) is not None or (alone and _FIELD.match(data, line.end()) is not None)
