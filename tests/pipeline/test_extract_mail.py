from __future__ import annotations

import base64
import mailbox
import quopri
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect import Kind, detect
from pipeline.document import Document
from pipeline.extract import attachments, extract, mail, web
from pipeline.extract.decode import clean
from pipeline.extract.mime import MAX_FIELDS, part_at
from storage.errors import ExtractError


def read(data: bytes | str, kind: Kind = Kind.MAIL) -> Document:
    data = data if isinstance(data, bytes) else data.encode()
    document = extract(data, kind=kind, name="a.eml")
    assert attachments(data, kind=kind, name="a.eml") == document.attachments, "they are looked for alone, too"
    return document


def code_of(data: bytes | str, kind: Kind = Kind.MAIL) -> str:
    with pytest.raises(ExtractError) as caught:
        read(data, kind)
    return caught.value.code


def attached(document: Document) -> dict[str, bytes]:
    return {attachment.name: attachment.data for attachment in document.attachments}


def multipart(kind: str, *parts: str, boundary: str = "b", fields: str = "") -> str:
    body = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return f"{fields}Content-Type: multipart/{kind}; boundary={boundary}\n\n{body}--{boundary}--\n"


def part(content: str, kind: str = "text/plain", **fields: str) -> str:
    lines = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in fields.items())
    return f"Content-Type: {kind}\n{lines}\n{content}"


PLAIN = part("plain text")
GREETING = "Привет всем, это письмо о погоде на севере и о том, что мы делали"
HTML = part("<h1>Title</h1><p>in HTML", "text/html")
PDF = part("JVBERi0=", "application/pdf; name=a.pdf", Content_Transfer_Encoding="base64")


def test_a_mail_written_by_the_standard_library() -> None:
    message = EmailMessage()
    message["From"] = "Jörg Müller <joerg@example.org>"
    message["To"] = "Ann <ann@example.org>, bob@example.org"
    message["Cc"] = "Çelik <c@example.org>"
    message["Date"] = "Mon, 02 Mar 2026 09:30:00 +0100"
    message["Subject"] = "Größe und Maß — " + "lang " * 20 + "日本語"
    message["Message-ID"] = "<1@example.org>"
    message["In-Reply-To"] = "<0@example.org>"
    message.set_content("Hallo,\n\nalles gut.\n")
    message.add_alternative("<p>Hallo,<p>alles gut.", subtype="html")
    message.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="Maß.pdf")
    document = read(message.as_bytes(policy=SMTP))
    subject = " ".join(message["Subject"].split())
    assert document.text == (
        f"# {subject}\n\nFrom: Jörg Müller <joerg@example.org>\nTo: Ann <ann@example.org>, bob@example.org\n"
        "Cc: Çelik <c@example.org>\nDate: Mon, 02 Mar 2026 09:30:00 +0100\n\nHallo,\n\nalles gut."
    )
    assert document.syntax == "markdown"
    assert attached(document) == {"Maß.pdf": b"%PDF-"}
    assert document.metadata == {
        "title": subject,
        "author": "Jörg Müller <joerg@example.org>",
        "date": "2026-03-02T09:30:00+01:00",
        "message_id": "<1@example.org>",
        "in_reply_to": "<0@example.org>",
    }


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"=?utf-8?B?5Q==?= =?utf-8?B?k6c=?=", "哧"),
        (b"=?UTF-8?Q?a_=E2=82=AC?=\r\n =?iso-8859-1*de?q?_=FC?= x", "a € ü x"),
        (b"=?gb2312?B?gUA=?=", "丂"),
        (b"=?no-such-charset?Q?caf=E9?=", "café"),
        (b"=?utf-8?B?SGFsbG8", "=?utf-8?B?SGFsbG8"),
        (b"=?utf-8?B?SGFsbG8?=", "Hallo"),
        (b"=?utf-8?Q?two words?=", "two words"),
        (b"[a] =?utf-8?Q?=3F?=b", "[a] ?b"),
        (b"=?unicode-1-1-utf-7?Q?+AOQ-?=", "ä"),
        (b"=?utf-8?Q?a=0AFrom:_evil=00?=", "a From: evil"),
        ("grüße".encode(), "grüße"),
        (GREETING.encode("koi8-r"), GREETING),
        ("Привет".encode("koi8-r") + b"\nContent-Type: text/plain; charset=koi8-r", "Привет"),
        ("日本語の件名".encode("iso2022_jp"), "日本語の件名"),
        (b"foo@@example.org; [bar", "foo@@example.org; [bar"),
    ],
)
def test_fields_are_decoded_whatever_they_are_written_in(raw: bytes, shown: str) -> None:
    document = read(b"X-Mailer: one of the old kind\r\nSubject: " + raw + b"\r\n\r\ntext")
    assert document.metadata["title"] == shown
    assert document.text == f"# {shown}\n\ntext"


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ('filename="a b.pdf"', "a b.pdf"),
        ("filename=a b.pdf", "a b.pdf"),
        ("FileName = a.pdf ; size=1", "a.pdf"),
        ('filename="a;\\"b\\".pdf"', 'a;"b".pdf'),
        ('filename="a.pdf', "a.pdf"),
        ("filename*=utf-8''M%C3%A4rz.pdf", "März.pdf"),
        ("filename*=iso-8859-1'de'M%E4rz.pdf", "März.pdf"),
        ("filename*=M%C3%A4rz.pdf", "März.pdf"),
        ("filename=Maerz.pdf; filename*=utf-8''M%C3%A4rz.pdf", "März.pdf"),
        ("filename*1*=%A4rz; filename*0*=utf-8''M%C3; filename*2=.pdf", "März.pdf"),
        ('filename="=?utf-8?B?TcOkcno=?=.pdf"', "März.pdf"),
        ('filename="long\n  name.pdf"', "long name.pdf"),
        ("filename=../../etc/passwd", "../../etc/passwd"),
        ("size=3", "inner.pdf"),
    ],
)
def test_attachments_keep_their_name(parameter: str, name: str) -> None:
    fields = {"Content_Disposition": f"attachment; {parameter}", "Content_Transfer_Encoding": "base64"}
    pdf = part("JVBERi0=", "application/pdf; name=inner.pdf", **fields)
    assert attached(read(multipart("mixed", PLAIN, pdf))) == {name: b"%PDF-"}


def test_an_eight_bit_name_is_decoded() -> None:
    data = multipart("mixed", PLAIN, part("x", "text/plain", Content_Disposition="attachment; filename=Maß.txt"))
    assert attached(read(data.encode())) == {"Maß.txt": b"x"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (PLAIN, "plain text"),
        (HTML, "## Title\n\nin HTML"),
        (part("<html><p>in HTML</html>"), "in HTML"),
        (multipart("alternative", PLAIN, HTML), "plain text"),
        (multipart("alternative", HTML, PLAIN), "plain text"),
        (multipart("alternative", part("  \n"), HTML), "## Title\n\nin HTML"),
        (
            multipart("alternative", part("Please see the HTML."), part("word " * 20, "text/html")),
            "word " * 19 + "word",
        ),
        (multipart("alternative", PLAIN, part("BEGIN:VCALENDAR " + "x " * 99, "text/calendar")), "plain text"),
        (multipart("alternative", part("BEGIN:VCALENDAR", "text/calendar")), "BEGIN:VCALENDAR"),
        (multipart("mixed", PLAIN, HTML, part("footer")), "plain text\n\n## Title\n\nin HTML\n\nfooter"),
        (multipart("related", HTML, part("R0lGODlh", "image/gif", Content_ID="<a>")), "## Title\n\nin HTML"),
        (multipart("related", PLAIN, part("p {}", "text/css", Content_ID="<a>")), "plain text"),
        (multipart("signed", PLAIN, part("x", "application/pgp-signature; name=s.asc")), "plain text"),
        (multipart("signed", PLAIN, part("x", "application/pkcs7-signature; name=smime.p7s")), "plain text"),
        (
            multipart("report", PLAIN, part("Final-Recipient: a@b", "message/delivery-status")),
            "plain text\n\nFinal-Recipient: a@b",
        ),
        (multipart("mixed", part("a patch", "text/plain; name=a.patch", Content_Disposition="inline")), "a patch"),
    ],
)
def test_the_text_of_a_mail(data: str, text: str) -> None:
    document = read("Subject: x\n" + data)
    assert document.text.removeprefix("# x\n\n") == text
    assert not {name for name in attached(document) if name}


STUB = f"If you cannot see this message, open it here:\n\nhttps://click.example.com/?qs={'0a1b' * 40}\n"
NOTICE = "The notice period of every contract becomes three months from July. "


@pytest.mark.parametrize(
    ("plain", "html", "taken"),
    [
        (STUB, "<p>" + NOTICE * 3, "HTML"),  # more than half of it is an address
        (f"This message is in HTML. {NOTICE * 4}", f"<h1>New terms</h1>{f'<p>{NOTICE}' * 60}", "HTML"),
        (NOTICE * 4, f"<style>{'p {margin: 0} ' * 500}</style><p>{NOTICE * 4}", "plain"),  # says the same
        (NOTICE * 4, f"<p>{NOTICE * 10}", "plain"),  # not several times longer
        ("https://example.com/a", '<a href="https://example.com/a">https://example.com/a</a>', "plain"),
    ],
)
@pytest.mark.parametrize("within", ["alternative", "related"])
def test_of_two_forms_the_one_that_says_more_is_read(plain: str, html: str, taken: str, within: str) -> None:
    other = part(html, "text/html")
    if within == "related":
        picture = part("R0lGODlh" * 2000, "image/gif", Content_ID="<a>")
        other = multipart("related", other, picture, boundary="inner")
    document = read(multipart("alternative", part(plain), other))
    assert document.text == read(part(plain) if taken == "plain" else part(html, "text/html")).text


def test_html_beside_a_plain_text_is_converted_only_where_it_may_say_more(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[str] = []
    monkeypatch.setattr(mail, "convert_html", lambda html: converted.append(html) or web.convert_html(html))
    monkeypatch.setattr(mail, "_MAX_OTHER_FORM_BYTES", 10_000)
    for html in (f"<div>{NOTICE * 4}</div>", "<p>" + "x" * 10_000):
        assert read(multipart("alternative", part(NOTICE * 4), part(html, "text/html"))).text == (NOTICE * 4).strip()
    assert not converted


def test_no_form_of_a_mail_that_is_only_looked_at_is_too_large() -> None:
    for unit in ("<p>", "=", "<a b=c>", "x", "<p a=1 b=2 c=3 d=4>"):
        web._require_bounded(unit * (mail._MAX_OTHER_FORM_BYTES // len(unit)))


def test_attachments_are_found_in_the_form_that_is_not_read() -> None:
    rich = multipart("mixed", HTML, PDF, part("<p>end", "text/html"), boundary="inner")
    document = read(multipart("alternative", part("plain text " * 30), rich))
    assert "Title" not in document.text
    assert attached(document) == {"a.pdf": b"%PDF-"}


def test_files_stay_files() -> None:
    files = [
        part("a,b", "text/csv; name=a.csv"),
        part("<p>x", "text/html", Content_Disposition="attachment; filename=a.html"),
        part("R0lGODlh", "image/gif", Content_Disposition="attachment; filename=a.gif"),
        part("x", "application/octet-stream"),
    ]
    document = read(multipart("mixed", PLAIN, *files))
    assert document.text == "plain text"
    assert [attachment.name for attachment in document.attachments] == ["a.csv", "a.html", "a.gif", ""]


def test_a_mail_that_is_nothing_but_a_file() -> None:
    alone = part("JVBERi0=", "application/pdf; name=a.pdf", Content_Transfer_Encoding="base64")
    document = read(alone)
    assert (document.text, attached(document)) == ("a.pdf", {"a.pdf": b"%PDF-"})


def forward(inner: str, **fields: str) -> str:
    return part(inner, "message/rfc822", **fields)


def test_forwarded_mails_are_sections_after_the_text() -> None:
    inner = "Subject: Inner\nFrom: Ann\n" + multipart("mixed", HTML, PDF, boundary="inner")
    document = read("Subject: Outer\n" + multipart("mixed", PLAIN, forward(inner), part("footer")))
    assert document.text == ("# Outer\n\nplain text\n\nfooter\n\n## Inner\n\nFrom: Ann\n\n### Title\n\nin HTML")
    assert attached(document) == {"a.pdf": b"%PDF-"}


def test_forwarded_mails_in_a_digest_or_against_the_rules_encoded() -> None:
    digest = multipart("digest", "\nSubject: One\n\nfirst", "\n\nsecond")
    assert read("Subject: All\n" + digest).text == "# All\n\n## One\n\nfirst\n\n## —\n\nsecond"
    encoded = base64.encodebytes(b"Subject: Inner\n\nhidden").decode()
    assert read(multipart("mixed", forward(encoded, Content_Transfer_Encoding="base64"))).text == "## Inner\n\nhidden"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("one \ntwo\nthree", "one two\nthree"),
        ("one \n\ntwo", "one\n\ntwo"),
        ("> one \n> two\n>> deep \nown", "> one two\n>> deep\nown"),
        (" From here\n >no quotation", "From here\n>no quotation"),
        ("bye \n-- \nAnn", "bye\n--\nAnn"),
    ],
)
def test_flowed_text_is_joined(body: str, text: str) -> None:
    assert read(f"Content-Type: text/plain; format=flowed\n\n{body}").text == text


def test_flowed_text_may_break_words() -> None:
    assert read("Content-Type: text/plain; format=flowed; delsp=yes\n\n日本 \n語\n").text == "日本語"


RUSSIAN = "Съешь ещё этих мягких французских булок, да выпей же чаю. " * 3


@pytest.mark.parametrize("charset", ["koi8-r", "us-ascii", "x-unknown", "utf-8", "no-such", ""])
def test_a_charset_that_is_wrong_or_unknown_is_told_from_the_bytes(charset: str) -> None:
    stated = f'; charset="{charset}"' if charset else ""
    data = f"Content-Type: text/plain{stated}\n\n".encode() + RUSSIAN.encode("koi8-r")
    assert read(data).text == RUSSIAN.strip()


@pytest.mark.parametrize(
    ("charset", "content", "text"),
    [
        ("gb2312", "丂".encode("gbk"), "丂"),
        ("iso-2022-jp", "日本語".encode("iso2022_jp"), "日本語"),
        ("utf-7", b"+AOQ-", "ä"),
        ("iso-8859-1", b"\x93quoted\x94", "“quoted”"),
        ("utf-8", b"a\0b\r\nc\rd\xff", "ab\nc\nd"),
    ],
)
def test_charsets_of_mails(charset: str, content: bytes, text: str) -> None:
    found = read(f"Content-Type: text/plain; charset={charset}\n\n".encode() + content).text
    assert found.rstrip("ÿ\ufffd") == text


def test_html_may_state_its_charset_itself() -> None:
    html = '<meta charset="koi8-r"><p>Чай'.encode("koi8-r")
    assert read(b"Content-Type: text/html\n\n" + html).text == "Чай"


UUENCODED = "begin 644 a.txt\n%:&%L;&\\\n`\nend\n"


@pytest.mark.parametrize(
    ("encoding", "content", "text"),
    [
        ("base64", base64.encodebytes("schöner Tag".encode()).decode(), "schöner Tag"),
        (" BASE64; x", "aGFsbG8", "hallo"),
        ("base64", "aGFs bG8=\n\n-- \nmailing list", "hallo"),
        ("base64", "aGFsbG8gV2VsdA=", "hallo Welt"),
        ("base64", "aGFsb", "hal"),
        ("quoted-printable", quopri.encodestring("schöner Tag ".encode()).decode(), "schöner Tag"),
        ("quoted printable;", "sch=C3=B6n=\n er =ZZ", "schön er =ZZ"),
        ("x-uuencode", UUENCODED, "hallo"),
        ("7-bit", "as it is", "as it is"),
        ("text/html", "as it is", "as it is"),
    ],
)
def test_transfer_encodings_are_undone_as_far_as_it_goes(encoding: str, content: str, text: str) -> None:
    assert read(f"Content-Transfer-Encoding: {encoding}\n\n{content}").text == text


@pytest.mark.parametrize(
    "data",
    [
        "Subject: x\nContent-Type: multipart/mixed\n\n--b\nContent-Type: text/plain\n\ntext\n--b--\n",
        "Subject: x\nContent-Type: multipart/mixed; boundary=c\n\n--b\nContent-type: text/plain\n\ntext\n--b--",
        "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\ntext",
        "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--bb\n--b \n\ntext\n--b--\nepilogue",
        "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\ntext",
        "Subject: x\n"
        + multipart("mixed", "Content-Type: multipart/mixed; boundary=i\n\n--i\n\ntext\n--i", boundary="b"),
        "Subject: x\nno field\nX-Other: y\n\ntext",
        "Subject   : x\ntext",
        "\n\nSubject: x\n\ntext",
        "From ann@example.org Mon\nSubject: x\n\ntext",
        "Subject:\n x\n\ntext",
        "Subject: x\nSubject: y\n\ntext",
        "\ufeffSubject: x\r\n\r\ntext",
        "Subject: x\r\rtext",
        "16     \nSubject: x\n\ntext<?xml version='1.0'?><plist/>",
    ],
)
def test_damaged_and_odd_mails_are_read(data: str) -> None:
    assert read(data).text.replace("--bb", "").strip() == "# x\n\ntext"


def test_a_boundary_fills_its_line() -> None:
    assert read(multipart("mixed", part("a --b\nb --b--\n--bc\n--b c"))).text == "a --b\nb --b--\n--bc\n--b c"


def test_a_mail_saved_in_utf_16_is_read() -> None:
    assert read("Subject: größer\nFrom: Ann\n\ntext".encode("utf-16")).text == "# größer\n\nFrom: Ann\n\ntext"


def test_plain_text_is_not_taken_for_markdown() -> None:
    body = "# apt install x\nName\n----\n  ```\ncode\n\n\n\n####### seven\n#tag  \n=====\n> # quoted"
    assert read("Subject: x\n\n" + body).text == (
        "# x\n\n\\# apt install x\nName\n\n----\n  \\```\ncode\n\n####### seven\n#tag\n\n=====\n> # quoted"
    )


@pytest.mark.parametrize("date", ["Mon, 32 Jan 2026 10:00:00 +0100", "yesterday", "1 Jan 99999 10:00", "(", "Mon,"])
def test_a_date_that_is_none_is_shown_and_not_recorded(date: str) -> None:
    document = read(f"Subject: x\nDate: {date}\n\ntext")
    assert document.text == f"# x\n\nDate: {date}\n\ntext"
    assert "date" not in document.metadata


SEALED = "-----BEGIN PGP MESSAGE-----\nVersion: 2\n\nhIwDY32h\n=zzaA\n-----END PGP MESSAGE-----"
SIGNED = (
    "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA1\n\nthe text\n"
    "-----BEGIN PGP SIGNATURE-----\n\niQCVAwUB\n-----END PGP SIGNATURE-----\nafter"
)


@pytest.mark.parametrize(
    "data",
    [
        multipart(
            "encrypted", part("Version: 1", "application/pgp-encrypted"), part(SEALED, "application/octet-stream")
        ),
        part("MIIB", "application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m"),
        part("MIIB", "application/x-pkcs7-mime; name=smime.p7m"),
        part(SEALED),
        multipart("mixed", part(SEALED), part(" ")),
    ],
)
def test_what_is_encrypted_says_so(data: str) -> None:
    assert code_of("Subject: secret\n" + data) == "encrypted"


def test_what_can_be_read_beside_the_encrypted_is_kept() -> None:
    document = read(multipart("mixed", PLAIN, part("MIIB", "application/pkcs7-mime")))
    assert (document.text, document.metadata) == ("plain text", {"parts_encrypted": 1})
    document = read(multipart("mixed", part(SEALED), PDF))
    assert (list(attached(document)), document.metadata) == (["a.pdf"], {"parts_encrypted": 1})
    opaque = read("Subject: x\n" + part("MIIB", "application/pkcs7-mime; smime-type=signed-data; name=smime.p7m"))
    assert (opaque.text, list(attached(opaque))) == ("# x", ["smime.p7m"])


def test_the_armour_of_a_signed_text_is_left_out() -> None:
    assert read("Subject: x\n\n" + SIGNED).text == "# x\n\nthe text\n\nafter"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x01\x02\x00no mail at all", "corrupt"),
        (b"X-Mailer: none\n\n  \n", "no_text"),
        (b" \n\n ", "empty"),
        (b"Subject: x\n\n" + b"a" * (mail.MAX_TEXT_BYTES + 1), "too_large"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, code: str) -> None:
    assert code_of(data) == code


# --- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.MAIL, Kind.MAILBOX])
def test_attachments_are_found_without_converting_any_text(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(_: str) -> None:
        raise AssertionError("a whole mailbox would be converted again for each of its attachments")

    monkeypatch.setattr(mail, "convert_html", convert)
    inner = part("Subject: y\n" + multipart("mixed", HTML, PDF, boundary="m"), "message/rfc822")
    data = multipart("mixed", multipart("alternative", HTML, inner, boundary="i"), PDF).encode()
    found = attachments(data, kind=kind, name="a.mbox")
    assert [attachment.name for attachment in found] == ["a.pdf", "a.pdf"]


def test_more_attachments_than_allowed_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    document = read(multipart("mixed", PLAIN, *[PDF] * (mail.MAX_ATTACHMENTS + 3)))
    assert len(document.attachments) == mail.MAX_ATTACHMENTS
    assert document.metadata == {"attachments_left_out": 3}
    monkeypatch.setattr(mail, "MAX_ATTACHMENT_BYTES", 12)
    document = read(multipart("mixed", PLAIN, PDF, PDF, PDF))
    assert (len(document.attachments), document.metadata) == (2, {"attachments_left_out": 1})


def test_mails_deeper_than_allowed_are_counted() -> None:
    inner = "Subject: mail 11\n\ndeepest"
    for level in reversed(range(11)):
        inner = f"Subject: mail {level}\n" + multipart("mixed", PLAIN, forward(inner), boundary=f"b{level}")
    document = read(inner)
    assert document.text.endswith("\n\n###### mail 10\n\nplain text")
    assert document.metadata == {"title": "mail 0", "parts_left_out": 1}


def test_parts_deeper_than_allowed_are_counted() -> None:
    inner = PLAIN
    for level in range(mail.MAX_DEPTH):
        inner = multipart("mixed", inner, boundary=f"b{level}")
    assert read(inner).text == "plain text"
    document = read("Subject: x\n" + multipart("mixed", inner, boundary="outermost"))
    assert (document.text, document.metadata["parts_left_out"]) == ("# x", 1)


def test_more_parts_than_allowed_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "MAX_PARTS", 50)
    document = read("Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n" + "--b\n" * (mail.MAX_PARTS + 9))
    assert document.metadata["parts_left_out"] == 1
    document = read("From a\nA:b\n\n" * (mail.MAX_PARTS + 9), Kind.MAILBOX)
    assert document.metadata == {"messages": mail.MAX_PARTS, "parts_left_out": 1}


def test_more_fields_than_allowed_are_text() -> None:
    fields = "".join(f"X-Field-{number}: x\n" for number in range(MAX_FIELDS))
    assert read(f"Subject: x\n{fields}\ntext").text == f"# x\n\nX-Field-{MAX_FIELDS - 1}: x\n\ntext"


def test_long_fields_are_cut() -> None:
    document = read("Subject: x\nTo: " + "ann@example.org, " * 10_000 + "\n\ntext")
    assert document.text.endswith("…\n\ntext")
    assert len(document.text) < 2 * mail.FIELD_CHARS


SIZE = 400_000


@pytest.mark.parametrize(
    "data",
    [
        b"Subject: x\n\n" + b"\n" * 4_000_000,
        b"Subject: " + b"=?a?q?" * SIZE,
        b"Subject: " + b"=?a?q?x?= " * SIZE,
        b"Content-Type: text/plain" + b"; a*0=b" * SIZE,
        b"Content-Type: text/plain" + b';a="' * SIZE,
        b"Content-Type: text/plain" + b';a="\\' * SIZE,
        b"a:\n" * SIZE,
        b"Subject: x\n" + b" \n" * SIZE,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--bb\n" * SIZE,
        b"Content-Type: multipart/mixed\n\n" + b"--a   \n" * SIZE,
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(9000)),
        b"Content-Type: message/rfc822\n\n" * SIZE,
        b"Content-Type: text/plain; format=flowed\n\n" + b"> a \n" * SIZE,
        b"Content-Type: text/plain; format=flowed\n\n" + b">" * SIZE,
        b"Subject: x\n\n" + b"a" + b" " * SIZE + b"b",
        b"Subject: x\n\n" + b"-----BEGIN PGP MESSAGE-----\n" * SIZE,
        b"Subject: x\n\n" + b"#" * SIZE + b"\n" + b"-" * SIZE,
        b"Content-Type: text/html\n\n" + b"<p>" * 10_000,
        b"From \n" * SIZE,
        b"From abc " + b" abc" * SIZE,
    ],
)
@pytest.mark.parametrize("kind", [Kind.MAIL, Kind.MAILBOX, Kind.WEB_ARCHIVE])
def test_no_mail_takes_more_than_its_size(data: bytes, kind: Kind) -> None:
    assert outcome(data, kind) in ("read", "encrypted", "no_text")


def outcome(data: bytes, kind: Kind) -> str:
    try:
        document = read(data, kind)
    except ExtractError as error:
        return error.code
    assert document.text.encode().decode() == clean(document.text)
    return "read"


WHOLE = (
    "From: =?utf-8?q?J=C3=B6rg?= <j@example.org>\nSubject: Whole\nDate: Mon, 02 Mar 2026 09:30:00 +0100\n"
    + multipart("mixed", multipart("alternative", PLAIN, HTML, boundary="i"), forward("Subject: y\n\nz"), PDF)
).encode()


@pytest.mark.parametrize("kind", [Kind.MAIL, Kind.MAILBOX, Kind.WEB_ARCHIVE])
def test_a_mail_cut_off_anywhere_is_read_as_far_as_it_goes(kind: Kind) -> None:
    for twentieth in range(1, 20):
        assert outcome(WHOLE[: len(WHOLE) * twentieth // 20], kind) in ("read", "no_text")


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_damage_gives_a_document_or_a_reason(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 12))):
        damaged[data.draw(st.integers(0, len(WHOLE) - 1))] = data.draw(st.integers(0, 255))
    kind = data.draw(st.sampled_from([Kind.MAIL, Kind.MAILBOX, Kind.WEB_ARCHIVE]))
    assert outcome(bytes(damaged), kind) in ("read", "no_text", "corrupt")


TEXT = st.text(st.characters(exclude_categories=("C", "Z"), max_codepoint=0x2FFFF), min_size=1, max_size=40)


@given(subject=TEXT, body=st.lists(TEXT, min_size=1), files=st.dictionaries(TEXT, st.binary(max_size=200), max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_the_standard_library_writes_is_read_back(subject: str, body: list[str], files: dict[str, bytes]) -> None:
    message = EmailMessage(policy=SMTPUTF8)
    message["Subject"] = f"s{subject}"
    message.set_content("".join(f"x{line}\n" for line in body))
    for name, content in files.items():
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=f"{name}.bin")
    document = read(message.as_bytes(policy=SMTP))
    assert document.text == "\n".join([f"# s{subject}", "", *(f"x{line}" for line in body)])
    assert attached(document) == {f"{name}.bin": content for name, content in files.items()}


# --- mailboxes -----------------------------------------------------------------------------------------------


def test_a_mailbox_is_read_mail_by_mail() -> None:
    box = (
        "From ann@example.org Mon Mar  2 09:30:00 2026\nSubject: One\nFrom: Ann\n\n"
        "first\nFrom here\nP.S.: x\n\n>From here on quoted\n\n"
        "From bob@example.org Tue Mar  3 09:30:00 2026\n" + multipart("mixed", PLAIN, PDF) + "\n"
        "From - Tue, 03 Mar 2026 10:00\nSubject: Three\n\nFrom here on\nthe text\n\nFrom time to time\n\n"
        "From cy\nSubject: Four\n\nfourth\nFrom me: no mail\n"
    )
    document = read(box, Kind.MAILBOX)
    assert document.text == (
        "# One\n\nFrom: Ann\n\nfirst\nFrom here\nP.S.: x\n\n>From here on quoted\n\n# —\n\nplain text\n\n"
        "# Three\n\nFrom here on\nthe text\n\nFrom time to time\n\n# Four\n\nfourth\nFrom me: no mail"
    )
    assert document.metadata == {"messages": 4}
    assert attached(document) == {"a.pdf": b"%PDF-"}
    assert read(box.replace("\n", "\r\n"), Kind.MAILBOX).text == document.text


def test_a_mailbox_without_a_mark_is_one_mail() -> None:
    document = read("Subject: x\n\ntext", Kind.MAILBOX)
    assert (document.text, document.metadata) == ("# x\n\ntext", {"messages": 1})


def test_a_mailbox_of_encrypted_mails_says_so() -> None:
    assert code_of(f"From a\nSubject: x\n\n{SEALED}\n\nFrom b\nSubject: y\n\n{SEALED}\n", Kind.MAILBOX) == "encrypted"


@given(bodies=st.lists(st.lists(TEXT | st.just("From x"), max_size=5), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_mailbox_of_the_standard_library_has_as_many_mails(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("mailbox") / "a.mbox"
    box = mailbox.mbox(path)
    for number, lines in enumerate(bodies):
        message = EmailMessage()
        message["Subject"] = f"mail {number}"
        message.set_content("\n\n".join(lines))
        box.add(message)
    box.close()
    document = read(path.read_bytes(), Kind.MAILBOX)
    headings = [line for line in document.text.split("\n") if line.startswith("# mail")]
    assert headings == [f"# mail {number}" for number in range(len(bodies))]


# --- web archives --------------------------------------------------------------------------------------------

PAGE = part(
    "<title>A page</title><p>Na=C3=AFve", "text/html; charset=utf-8", Content_Transfer_Encoding="quoted-printable"
)


def archive(*parts: str, fields: str = "", start: str = "") -> str:
    return fields + multipart(f'related; type="text/html"{start}', *parts)


def test_a_web_archive_is_its_page() -> None:
    fields = (
        "Subject: A page\nDate: Mon, 02 Mar 2026 09:30:00 +0100\nSnapshot-Content-Location: https://example.org/a\n"
    )
    advert = part("<p>advert", "text/html", Content_Location="https://example.org/frame")
    picture = part("R0lGODlh", "image/gif", Content_Location="https://example.org/a.gif")
    document = read(archive(PAGE, advert, picture, part("p {}", "text/css"), fields=fields), Kind.WEB_ARCHIVE)
    assert document.text == "# A page\n\nNaïve"
    assert document.attachments == ()
    known = {"title": "A page", "url": "https://example.org/a", "date": "2026-03-02T09:30:00+01:00"}
    assert document.metadata == known


def test_the_root_of_a_web_archive_may_not_be_its_first_part() -> None:
    other = part("<p>other", "text/html", Content_ID="<other>")
    root = part("<p>root", "text/html", Content_ID="<root>")
    assert read(archive(other, root, start='; start="<root>"'), Kind.WEB_ARCHIVE).text == "root"


def test_charsets_of_a_web_archive_are_stated_by_its_part() -> None:
    page = b"Content-Type: text/html; charset=koi8-r\n\n" + '<meta charset="utf-8"><p>Чай'.encode("koi8-r")
    assert read(page, Kind.WEB_ARCHIVE).text == "Чай"


def test_frames_and_archives_without_a_page() -> None:
    frames = part("<frameset><frame src=a><frame src=b></frameset>", "text/html")
    pages = [part("<p>one", "text/html"), part("<p>two", "text/html")]
    assert read(archive(frames, *pages), Kind.WEB_ARCHIVE).text == "one\n\ntwo"
    assert read(archive(PLAIN), Kind.WEB_ARCHIVE).text == "plain text"
    assert read("<html><p>bare", Kind.WEB_ARCHIVE).text == "bare"
    assert code_of(archive(part("<script>x</script>", "text/html")), Kind.WEB_ARCHIVE) == "no_text"


def test_mails_are_told_from_other_files() -> None:
    assert detect(WHOLE, "a.eml").kind is Kind.MAIL
    assert detect(archive(PAGE).encode(), "a.mht").kind is Kind.WEB_ARCHIVE


def test_a_part_is_a_range_of_its_file() -> None:
    data = b"junk" + PLAIN.encode() + b"junk"
    found = part_at(data, 4, len(data) - 4)
    assert (found.type, found.content()) == ("text/plain", b"plain text")
