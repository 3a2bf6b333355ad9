"""Compare our readers with independent ones: `python -m benchmarks.extraction FOLDER [--format pdf]`.

Reads every file below FOLDER and prints Markdown tables: what became of the files of each format, how well
our text agrees with an independent extractor's, and each file on which they disagree. Agreement is F1 over words
(runs of letters and digits in lower case, counted as often as they stand). The references are crude on purpose:
the other PDF engine, pdftotext where it is installed, else the standard library and regular expressions over the
XML; they keep what our readers leave out (navigation, deleted text), so that a low figure is a question, no fault.
CPU-seconds are of this process and its children.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import html
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from typing import Any, get_args

from pipeline.detect import Kind, detect
from pipeline.document import Document
from pipeline.extract import PdfEngine, extract
from storage.errors import ExtractError

OUTLIER = 0.9
MAX_PART_BYTES = 50 * 2**20

Reference = Callable[[bytes, str], str | tuple[str, ...] | None]
"""Bytes and base name to the text, or None where the reference cannot tell."""


class OutOfTimeError(BaseException):
    """No Exception, as readers turn those into a failure of the file."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One file against one reference: F1, the words of each side, what the reference took."""

    against: str
    f1: float
    ours: int
    theirs: int
    cpu_s: float


@dataclass(slots=True)
class Outcome:
    """What became of a file: ready, a failure's code, or the error of a reader that is broken or missing."""

    path: str
    format: str
    result: str
    cpu_s: float
    comparisons: list[Comparison] = field(default_factory=list[Comparison])


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def f1(ours: str, theirs: str) -> float:
    """Return how well two texts agree, 0 to 1: 2PR / (P + R) over their words, each as often as it stands."""
    return _f1(words(ours), words(theirs))


def _f1(ours: Counter[str], theirs: Counter[str]) -> float:
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0


def examine(folder: Path, path: Path, formats: list[str], engine: PdfEngine, timeout_s: float) -> Outcome | None:
    """Read one file and compare its text with the references; None for a format without reader, or not asked for."""
    data = path.read_bytes()
    kind = detect(data, path.name).kind
    if kind is None or (formats and kind.value not in formats):
        return None
    outcome = Outcome(str(path.relative_to(folder)), kind.value, "ready", 0.0)
    started = _cpu_s()
    document = None
    try:
        with _time_limit(timeout_s):
            document = extract(data, kind=kind, name=path.name, pdf_engine=engine)
    except ExtractError as error:
        outcome.result = error.code
    except (Exception, OutOfTimeError) as error:  # a reader that lacks, is at fault, or hangs is itself a result
        outcome.result = type(error).__name__
    outcome.cpu_s = _cpu_s() - started
    if document is not None:
        outcome.comparisons = [
            compared
            for name, reference in _references(kind, document)
            if (compared := _compare(document, name, reference, data, path.name, timeout_s)) is not None
        ]
    return outcome


def _compare(
    document: Document, against: str, reference: Reference, data: bytes, name: str, timeout_s: float
) -> Comparison | None:
    started = _cpu_s()
    try:
        with _time_limit(timeout_s):
            text = reference(data, name)
    except (Exception, OutOfTimeError):  # it cannot tell
        return None
    if text is None:
        return None
    took = _cpu_s() - started
    ours = words(document.text)
    theirs = max(map(words, text if isinstance(text, tuple) else (text,)), key=lambda one: _f1(ours, one))
    return Comparison(against, _f1(ours, theirs), ours.total(), theirs.total(), took)


@contextmanager
def _time_limit(seconds: float) -> Generator[None]:
    def end(*_: object) -> None:
        raise OutOfTimeError

    previous = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _references(kind: Kind, document: Document) -> list[tuple[str, Reference]]:
    if kind is not Kind.PDF:
        return [_REFERENCES[kind]]
    found: list[tuple[str, Reference]] = []
    if "engine" not in document.metadata:  # else the other one read it
        other: PdfEngine = "pypdfium2" if document.parser.startswith("pypdf ") else "pypdf"
        found.append((other, lambda data, name: extract(data, kind=Kind.PDF, name=name, pdf_engine=other).text))
    return [*found, ("pdftotext", pdftotext)] if shutil.which("pdftotext") else found


def pdftotext(data: bytes, name: str) -> str | None:
    done = subprocess.run(["pdftotext", "-enc", "UTF-8", "-", "-"], input=data, capture_output=True)
    return None if done.returncode else done.stdout.decode("utf-8", "replace")


def _parts(data: bytes, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the parts of an archive whose whole name matches."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if re.fullmatch(pattern, info.filename) and info.file_size <= MAX_PART_BYTES:
                yield info.filename, archive.read(info).decode("utf-8", "replace")


_RUN = re.compile(r"<(?:\w+:)?t(?: [^<>]*)?>([^<]*)</|</(?:\w+:)?p>|<(?:\w+:)?(?:br|tab|cr)[ />]")


def _runs(xml: str) -> str:
    """Return the text of Office's text nodes, parted by paragraphs, breaks and tabs."""
    without_copies = re.sub(r"<mc:Fallback>.*?</mc:Fallback>", "", xml, flags=re.DOTALL)
    return html.unescape("".join(found[1] or "\n" for found in _RUN.finditer(without_copies)))


def docx(data: bytes, name: str) -> str:
    parts = _parts(data, r"word/(document|header|footer|footnotes|endnotes|comments)\d*\.xml")
    return "\n".join(_runs(xml) for _, xml in parts)


def pptx(data: bytes, name: str) -> str:
    return "\n".join(_runs(xml) for _, xml in _parts(data, r"ppt/(slides|notesSlides)/\w+\.xml"))


def spreadsheet(data: bytes, name: str) -> str | None:
    """Return names of sheets, values as an XLSX stores them (dates as plain numbers), comments and text boxes.

    No other kind is read.
    """
    if not data.startswith(b"PK"):
        return None
    if any(_parts(data, r"content\.xml")):
        return opendocument(data, name)
    shared = [
        _runs(entry)
        for _, xml in _parts(data, r"xl/sharedStrings\.xml")
        for entry in re.findall(r"<(?:\w+:)?si(?: [^<>]*)?>(.*?)</(?:\w+:)?si>", xml, re.DOTALL)
    ]
    cells = [cell for _, xml in _parts(data, r"xl/worksheets/\w+\.xml") for cell in _cells(xml, shared)]
    names = [
        name
        for _, xml in _parts(data, r"xl/workbook\.xml")
        for name in re.findall(r"<sheet [^<>]*?name=\"(.*?)\"", xml)
    ]
    beside = [_runs(xml) for _, xml in _parts(data, r"xl/(comments|drawings/drawing)\d+\.xml")]
    return html.unescape("\n".join([*names, *cells, *beside])) if cells else None


def _cells(xml: str, shared: list[str]) -> Iterator[str]:
    for attributes, content in re.findall(r"<(?:\w+:)?c( [^<>]*[^/<>])>(.*?)</(?:\w+:)?c>", xml, re.DOTALL):
        value = re.search(r"<(?:\w+:)?v(?: [^<>]*)?>([^<]*)<", content)
        if value and 't="s"' in attributes:
            yield shared[int(value[1])]
        elif value:
            yield html.unescape(value[1])
        else:
            yield _runs(content)


def opendocument(data: bytes, name: str) -> str | None:
    for _, xml in _parts(data, r"content\.xml"):
        kept = re.sub(r"<text:tracked-changes.*?</text:tracked-changes>", "", xml, flags=re.DOTALL)
        spaced = re.sub(r"</text:(?:p|h)>|<text:(?:s|tab|line-break)[ />]", r"\n\g<0>", kept)
        return html.unescape(_without_tags(spaced, ""))
    return None


def _without_tags(xml: str, between: str) -> str:
    return re.sub(r"<[^<>]*>", between, xml)


def epub(data: bytes, name: str) -> str:
    return "\n".join(_html_text(markup) for _, markup in _parts(data, r".*\.x?html?"))


class _HtmlText(HTMLParser):
    """Collects all text but scripts and styles; only elements that stand within a line do not part words."""

    INLINE = re.compile(r"a|abbr|b|bdi|bdo|cite|code|em|font|i|kbd|mark|q|s|small|span|strong|sub|sup|tt|u|var")
    SILENT = re.compile(r"script|style")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._silent = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent = self.SILENT.fullmatch(tag) is not None
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        self._silent = False
        self._part(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)

    def _part(self, tag: str) -> None:
        if not self.INLINE.fullmatch(tag):
            self.parts.append("\n")


def _html_text(markup: str) -> str:
    parser = _HtmlText()
    parser.feed(markup)
    parser.close()
    return "".join(parser.parts)


def html_page(data: bytes, name: str) -> str | None:
    text = plain(data, name)
    return None if text is None else _html_text(text)


def plain(data: bytes, name: str) -> str | None:
    """Return UTF-8 as it is; no other encoding is certain without a detector, and those with NUL or ESC are others."""
    try:
        return None if re.search(rb"[\0\x1b]", data) else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def xml(data: bytes, name: str) -> tuple[str, ...] | None:
    """Return the text alone, as of a document, and with the names of elements and attributes, as of records."""
    text = plain(data, name)
    if text is None:
        return None
    without_comments = re.sub(r"<!--.*?-->|<[?!][^<>]*>", " ", text, flags=re.DOTALL)
    opening = re.sub(r"</[^<>]*>|\sxmlns(:\w+)?=(\"[^\"]*\"|'[^']*')|\b\w+:(?=\w)", " ", without_comments)
    return html.unescape(_without_tags(without_comments, " ")), html.unescape(re.sub(r"[<>=\"'/]", " ", opening))


def json_values(data: bytes, name: str) -> str | None:
    """Return all keys and values, of a single value or of one on each line."""
    text = plain(data, name)
    if text is None:
        return None
    try:
        values = [json.loads(text)]
    except ValueError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    return "\n".join(_leaves(values))


def _leaves(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            pending += value
        else:
            yield value if isinstance(value, str) else json.dumps(value)


def notebook(data: bytes, name: str) -> str:
    """Return the sources of all cells, and the outputs that are plain text."""
    book = json.loads(data)
    cells = book.get("cells") or [cell for sheet in book.get("worksheets", ()) for cell in sheet["cells"]]
    found: list[Any] = []
    for cell in cells:
        found.append(cell.get("source") or cell.get("input"))
        for output in cell.get("outputs", ()):
            found.append(output.get("text") or output.get("data", {}).get("text/plain"))
    return "\n".join("".join(text) for text in found if text)


_RTF = re.compile(
    r"\\u(-?\d+) ?\??|((?:\\'[0-9a-fA-F]{2})+)|\\([a-z]+)(-?\d*) ?|\\(.)|([{}])|([^\\{}\r\n]+)", re.DOTALL
)
_RTF_SILENT = re.compile(r"fonttbl|colortbl|stylesheet|info|pict|listtable|listoverridetable|generator")


def rtf(data: bytes, name: str) -> str:
    """Return the text in the file's own code page: all groups but tables of styles, pictures and optional ones."""
    parts: list[str] = []
    silent = [False]
    page = "cp1252"
    for code, coded, word, number, sign, brace, text in _RTF.findall(data.decode("latin-1")):
        if brace == "{":
            silent.append(silent[-1])
        elif brace and len(silent) > 1:
            silent.pop()
        elif _RTF_SILENT.fullmatch(word) or sign == "*":
            silent[-1] = True
        elif word == "ansicpg":
            page = f"cp{number}"
        elif coded and not silent[-1]:
            parts.append(bytes.fromhex(coded.replace("\\'", "")).decode(page, "replace"))
        elif not silent[-1]:
            parts.append(_rtf_text(code, word, sign, text))
    return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _rtf_text(code: str, word: str, sign: str, text: str) -> str:
    if code:
        return chr(int(code) % 65536)
    return text or ("\n" if word in ("par", "line", "tab", "cell", "row", "sect", "page") else sign.strip("~-_"))


def mail(data: bytes, name: str) -> str:
    return _mail_text(email.message_from_bytes(data, policy=email.policy.default))


def mailbox(data: bytes, name: str) -> str:
    messages = re.split(rb"(?:\A|\r?\n)From [^\r\n]*\r?\n", data)
    return "\n".join(mail(message, name) for message in messages if message.strip())


def _named(message: EmailMessage) -> list[str]:
    return [f"{key}: {message[key]}" for key in ("From", "To", "Cc", "Bcc", "Date") if message[key]]


def _mail_text(message: EmailMessage) -> str:
    """Return the headers people read, then the body: the plain one where there are two."""
    body = message.get_body(("plain", "html"))
    text = body.get_content() if body is not None else ""
    return "\n".join(
        [
            str(message["Subject"] or ""),
            *_named(message),
            _html_text(text) if body and body.get_content_subtype() == "html" else text,
        ]
    )


def web_archive(data: bytes, name: str) -> str:
    message = email.message_from_bytes(data, policy=email.policy.default)
    pages = [part for part in message.walk() if part.get_content_type() == "text/html"]
    return "\n".join(_html_text(page.get_content()) for page in pages[:1])


def outlook(data: bytes, name: str) -> str:
    """Return subject, people, date and plain body: by the headers where they are kept, else by the properties."""
    import olefile  # comes with our own reader's library

    with olefile.OleFileIO(io.BytesIO(data)) as ole:

        def text(*path: str) -> str:
            return ole.openstream(path).read().decode("utf-16-le", "replace") if ole.exists("/".join(path)) else ""

        subject, body, headers = (text(f"__substg1.0_{tag}001F") for tag in ("0037", "1000", "007D"))
        if headers:
            kept = email.message_from_string(headers, policy=email.policy.default)
            return "\n".join([subject, *_named(kept), body])
        sender = [text(f"__substg1.0_{tag}001F") for tag in ("0C1A", "0C1F")]
        people = [path for path in ole.listdir() if "recip" in path[0] and path[-1][12:16] in ("3001", "39FE")]
        date = _sent(ole.openstream("__properties_version1.0").read())
        return "\n".join([subject, "From:", *sender, "To:", *(text(*path) for path in people), f"Date: {date}", body])


def _sent(properties: bytes) -> str:
    """Return when a message was sent: entries of 16 bytes behind a head of 32, the time in 0.1 µs since 1601."""
    for place in range(32, len(properties) - 15, 16):
        tag, _, value = struct.unpack_from("<IIQ", properties, place)
        if tag == 0x00390040:
            return format_datetime(datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=value // 10))
    return ""


_REFERENCES: dict[Kind, tuple[str, Reference]] = {
    Kind.DOCX: ("text nodes of the XML", docx),
    Kind.PPTX: ("text nodes of the XML", pptx),
    Kind.SPREADSHEET: ("names, values, remarks of the XML", spreadsheet),
    Kind.OPENDOCUMENT: ("content.xml without tags", opendocument),
    Kind.EPUB: ("html.parser on every page", epub),
    Kind.RTF: ("control words taken out", rtf),
    Kind.MAIL: ("email.policy", mail),
    Kind.MAILBOX: ("email.policy", mailbox),
    Kind.OUTLOOK: ("olefile", outlook),
    Kind.WEB_ARCHIVE: ("email.policy, html.parser", web_archive),
    Kind.NOTEBOOK: ("json", notebook),
    Kind.HTML: ("html.parser", html_page),
    Kind.XML: ("text, or names and values", xml),
    Kind.JSON: ("json", json_values),
    Kind.CSV: ("bytes as UTF-8", plain),
    Kind.MARKDOWN: ("bytes as UTF-8", plain),
    Kind.CODE: ("bytes as UTF-8", plain),
    Kind.TEXT: ("bytes as UTF-8", plain),
}


def report(outcomes: list[Outcome]) -> str:
    """Return the tables: what became of the files, how well texts agree, where they do not."""
    by_format = {name: [o for o in outcomes if o.format == name] for name in sorted({o.format for o in outcomes})}
    results = ["ready", *sorted({outcome.result for outcome in outcomes} - {"ready"})]
    fates = [
        [name, len(group), *_counts(group, results), f"{sum(o.cpu_s for o in group):.1f}", _slowest(group)]
        for name, group in by_format.items()
    ]
    outliers = sorted(
        (compared.f1, outcome.path, compared)
        for outcome in outcomes
        for compared in outcome.comparisons
        if compared.f1 < OUTLIER
    )
    return "\n\n".join(
        [
            _table(["format", "files", *results, "CPU-s", "slowest file, s"], fates),
            _table(
                ["format", "against", "compared", "median F1", f"under {OUTLIER}", "our CPU-s", "its CPU-s"],
                [row for name, group in by_format.items() for row in _agreement(name, group)],
            ),
            _table(
                ["file", "against", "F1", "our words", "its words"],
                [[path, c.against, f"{score:.2f}", c.ours, c.theirs] for score, path, c in outliers],
            ),
        ]
    )


def _counts(group: list[Outcome], results: list[str]) -> list[int | str]:
    counts = Counter(outcome.result for outcome in group)
    return [counts[result] or "–" for result in results]


def _slowest(group: list[Outcome]) -> str:
    return f"{max(outcome.cpu_s for outcome in group):.2f}"


def _agreement(name: str, group: list[Outcome]) -> Iterator[list[object]]:
    pairs = [(outcome, compared) for outcome in group for compared in outcome.comparisons]
    for against in dict.fromkeys(compared.against for _, compared in pairs):
        chosen = [(outcome, compared) for outcome, compared in pairs if compared.against == against]
        scores = [compared.f1 for _, compared in chosen]
        yield [
            name,
            against,
            len(scores),
            f"{median(scores):.3f}",
            sum(score < OUTLIER for score in scores),
            f"{sum(outcome.cpu_s for outcome, _ in chosen):.2f}",
            f"{sum(compared.cpu_s for _, compared in chosen):.2f}",
        ]


def _table(head: list[str], rows: Iterable[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--format", action="append", default=[], choices=[kind.value for kind in Kind], dest="formats")
    parser.add_argument("--pdf-engine", choices=get_args(PdfEngine), default="pypdfium2")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="for each reading of a file")
    given = parser.parse_args()
    paths = sorted(path for path in given.folder.rglob("*") if path.is_file())
    outcomes = [
        outcome
        for path in paths
        if (outcome := examine(given.folder, path, given.formats, given.pdf_engine, given.timeout_s)) is not None
    ]
    print(report(outcomes))
    print(f"{len(paths)} files, {len(paths) - len(outcomes)} of them of another format", file=sys.stderr)


if __name__ == "__main__":
    main()
