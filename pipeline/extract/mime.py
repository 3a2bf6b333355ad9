"""The parts of a mail: where each lies in the bytes, its header fields, its decoded content.

A part is a range of one `bytes`, found by looking for boundaries, and no more of it is copied than what is
asked for. The parser of the standard library keeps a string for every line (190 MB of text take 1.1 GiB, 1 MB
of empty lines a third of a second), tries every open boundary on every line and ends a header at the first
malformed line. Its policy.default loses what it cannot parse ("To: a@b.org; c@d.org" is a@b.org alone),
raises on some fields and is quadratic on others (a To of 70 kB takes 2 s). So fields are read here, too:
unfolded, and decoded wherever they say how.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from string import ascii_letters, digits
from urllib.parse import unquote_to_bytes

from pipeline.extract.decode import clean, declared_encoding, decode

HEADER_BYTES = 1 << 18
MAX_FIELDS = 1_000
"""What comes after these is taken for text."""


@dataclass(frozen=True, slots=True)
class Part:
    """A mail or one of its parts.

    data: of the whole file; start, end: of this part's body in it. fields: name in lower case to raw value,
    of fields that come more than once the first.
    """

    data: bytes
    start: int
    end: int
    fields: dict[str, str]

    @property
    def type(self) -> str:
        """Its media type in lower case, text/plain unless it states one."""
        stated = re.match(r"\s*([\w.+-]+/[\w.+-]+)", self.fields.get("content-type", ""))
        return stated[1].lower() if stated else "text/plain"

    @property
    def disposition(self) -> str:
        """How it wants to be shown: "inline", "attachment" or nothing."""
        return self.fields.get("content-disposition", "").partition(";")[0].strip().lower()

    @property
    def filename(self) -> str:
        """The name it has as a file, as its sender wrote it, or nothing."""
        name = self.parameter("content-disposition", "filename") or self.parameter("content-type", "name")
        return " ".join(name.split())

    def field(self, name: str) -> str:
        """A header field on one line, its encoded words decoded; empty if there is none."""
        return " ".join(decoded_words(self.fields.get(name, "")).split())

    def parameter(self, field: str, name: str) -> str:
        """A parameter such as charset or boundary, decoded; empty if there is none."""
        return _parameters(self.fields.get(field, "")).get(name, "")

    def content(self) -> bytes:
        """Its bytes, with the transfer encoding undone as far as that goes."""
        raw = self.data[self.start : self.end]
        encoding = self.fields.get("content-transfer-encoding", "").strip().lower()
        if encoding.startswith("base64"):
            return _from_base64(raw)
        if encoding.startswith("quoted"):
            return binascii.a2b_qp(raw)
        return _from_uuencode(raw) if encoding.startswith(("uu", "x-uu")) else raw

    def text(self) -> str:
        """Its content as text. A charset that is unknown or wrong is told from the bytes."""
        content = self.content()
        charset = self.parameter("content-type", "charset").lower()
        if charset in _UNSAID:
            charset = declared_encoding(content) or "" if "html" in self.type else ""
        return _decoded(content, charset)

    def message(self) -> Part:
        """The mail that is its content."""
        if self.fields.get("content-transfer-encoding", "").strip().lower().startswith(("base64", "quoted")):
            content = self.content()  # which no mail may be, and some are
            return part_at(content, 0, len(content))
        return part_at(self.data, self.start, self.end)

    def children(self) -> Iterator[Part]:
        """The parts of a multipart, without what stands before and after them."""
        default = "message/rfc822" if self.type == "multipart/digest" else "text/plain"
        boundary = self.boundary
        for start, end in self._between(boundary) if boundary else ():
            part = part_at(self.data, start, end)
            part.fields.setdefault("content-type", default)
            yield part

    @property
    def boundary(self) -> bytes:
        """What parts the parts of a multipart; some state none, or another than they use. Empty if nothing does."""
        stated = self.parameter("content-type", "boundary").encode("latin-1", "replace")
        if stated and next(self._between(stated), None):
            return stated
        guessed = _FIRST_BOUNDARY.search(self.data, self.start, self.end)
        return guessed[1] if guessed else b""

    def _between(self, boundary: bytes) -> Iterator[tuple[int, int]]:
        """Where the parts lie; a last one without an end reaches as far as there is data."""
        mark, start = b"--" + boundary, -1
        at = self.data.find(mark, self.start, self.end)
        while at >= 0:
            rest = _AFTER_BOUNDARY.match(self.data, at + len(mark), self.end)
            if rest and (at == self.start or self.data[at - 1] == _NEWLINE):
                if start >= 0:
                    yield start, max(start, _before_line_end(self.data, at))
                if rest[1]:
                    return
                start = rest.end()
            at = self.data.find(mark, at + len(mark), self.end)
        if start >= 0:
            yield start, self.end


_NEWLINE = 10
_AFTER_BOUNDARY = re.compile(rb"(--)?[ \t]*\r?(?:\n|\Z)")
_FIRST_BOUNDARY = re.compile(rb"^--(\S{1,200}+)[ \t]*+\r?\n(?=content-)", re.MULTILINE | re.IGNORECASE)
_UNSAID = ("", "us-ascii", "ascii", "unknown-8bit", "x-unknown", "default")


def part_at(data: bytes, start: int, end: int) -> Part:
    """Read the header of the part that fills this range.

    The header ends at the first empty line, or after the last field where text follows without one; lines in
    between that are no fields are passed over.
    """
    if found := _EMPTY_LINE.match(data, start, end):
        return Part(data, found.end(), end, {})
    found = _HEADER_END.search(data, start, min(end, start + HEADER_BYTES))
    block_end = found.start() + 1 if found else min(end, start + HEADER_BYTES)
    fields, length = _fields(data[start:block_end])
    body = found.end() if found and start + length == block_end else start + length
    return Part(data, body, end, fields)


_EMPTY_LINE = re.compile(rb"\r?\n")
_HEADER_END = re.compile(rb"\n\r?\n")
_FIELD = re.compile(r"^([!-9;-~]++)[ \t]*+:[ \t]*+([^\n]*+(?:\n[ \t][^\n]*+)*+)\n?", re.MULTILINE)


def _fields(header: bytes) -> tuple[dict[str, str], int]:
    """The fields of a header, and how far they reach.

    The encoding of characters that should have been encoded as words is that of the text, or told from all of it.
    """
    text, length = header.decode("latin-1"), 0
    fields: dict[str, str] = {}
    for found in islice(_FIELD.finditer(text), MAX_FIELDS):
        fields.setdefault(found[1].lower(), found[2])
        length = found.end()
    codec = "latin-1"
    if not text.isascii() or "\x1b" in text:
        charset = _parameters(fields.get("content-type", "")).get("charset", "").lower()
        codec = decode(header[:length], declared=None if charset in _UNSAID else charset).encoding
    return {name: clean(value.encode("latin-1").decode(codec, "replace")) for name, value in fields.items()}, length


def _before_line_end(data: bytes, at: int) -> int:
    """Where the line before this offset ends, without its line end, which belongs to the boundary below it."""
    at -= data[at - 1] == _NEWLINE
    return at - (data[at - 1 : at] == b"\r")


# --- encoded words and parameters ----------------------------------------------------------------------------

_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bq])\?([^?]*)\?=", re.IGNORECASE)
_WORDS = re.compile(rf"{_WORD.pattern}(?:\s*{_WORD.pattern})*", re.IGNORECASE)


def decoded_words(text: str) -> str:
    """Decode the encoded words of RFC 2047, also where they stand that is against the rules.

    The bytes of neighbours are joined first, as many programs cut a character in two.
    """
    return _WORDS.sub(lambda run: _decoded_run(run[0]), text)


def _decoded_run(run: str) -> str:
    groups = groupby(_WORD.findall(run), key=lambda word: word[0].partition("*")[0].lower())
    return "".join(_decoded(b"".join(_word_bytes(*word[1:]) for word in words), charset) for charset, words in groups)


def _word_bytes(encoding: str, text: str) -> bytes:
    raw = text.encode()
    return _from_base64(raw) if encoding in "bB" else binascii.a2b_qp(raw, header=True)


_PARAMETER = re.compile(r"[;\s]\s*+([^\s=;\"*]++)(\*\d{1,3})?+(\*)?+\s*+=\s*+(?:\"((?:[^\"\\]|\\.)*+)\"|([^;]*+))")


def _parameters(value: str) -> dict[str, str]:
    """The parameters of a field, by name in lower case, put together and decoded after RFC 2231 and RFC 2047."""
    found: dict[str, dict[int, tuple[bool, str]]] = {}
    for name, number, extended, quoted, bare in _PARAMETER.findall(value):
        pieces = found.setdefault(name.lower(), {})
        at = int(number[1:] or 0)
        if at not in pieces or (extended and not pieces[at][0]):  # many state a name both ways
            pieces[at] = bool(extended), re.sub(r"\\(.)", r"\1", quoted) or bare.strip().strip('"')
    return {name: _joined([pieces[at] for at in sorted(pieces)]) for name, pieces in found.items()}


def _joined(pieces: list[tuple[bool, str]]) -> str:
    """The value of a parameter from its pieces, of which the first names the charset: utf-8''Gr%C3%BC%C3%9Fe."""
    if not any(extended for extended, _ in pieces):
        return decoded_words("".join(text for _, text in pieces)).strip()
    (extended, first), *rest = pieces
    charset, _, text = first.split("'", 2) if extended and first.count("'") > 1 else ("", "", first)
    raw = [unquote_to_bytes(text) if coded else text.encode() for coded, text in [(extended, text), *rest]]
    return _decoded(b"".join(raw), charset).strip()


# --- bytes ---------------------------------------------------------------------------------------------------


def _decoded(content: bytes, charset: str) -> str:
    if charset in ("utf-7", "unicode-1-1-utf-7"):  # in mails alone: the web gave it up for its dangers
        return clean(content.decode("utf-7", "replace"))
    return decode(content, declared=charset or None).text


_NOT_BASE64 = bytes(set(range(256)) - set(f"{ascii_letters}{digits}+/".encode()))


def _from_base64(raw: bytes) -> bytes:
    """Decode base64, up to its padding where that stands; what is cut off gives what is there."""
    try:
        return binascii.a2b_base64(raw)
    except binascii.Error:
        letters = raw.translate(None, _NOT_BASE64)
        return binascii.a2b_base64(letters[: len(letters) - (len(letters) % 4 == 1)] + b"==")


def _from_uuencode(raw: bytes) -> bytes:
    """Decode the lines between "begin" and "end"; a damaged line is passed over."""
    lines: list[bytes] = []
    for line in raw.partition(b"begin ")[2].splitlines()[1:]:
        if line.strip() == b"end":
            break
        try:
            lines.append(binascii.a2b_uu(line))
        except binascii.Error:
            continue
    return b"".join(lines)
