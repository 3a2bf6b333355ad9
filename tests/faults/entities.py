"""XML that grows, or that names files and hosts, in every format that has XML in it.

Source of the kinds: OWASP, "XML External Entity Prevention Cheat Sheet"; defusedxml's list of attacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from faults.samples import PACKAGES, TEXTS, WORDS, packed

SECRET = "cormorant-7719"
"""What the file that may not be opened says."""


def _growing() -> str:
    grown = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in pairwise("abcdefghij"))
    return f'<!DOCTYPE x [<!ENTITY a "lol">{grown}<!ENTITY x "&j;">]>'


def prologs(secret: str, port: int) -> dict[str, str]:
    """What stands above the root, by kind of attack; each defines an entity `x`, or names something by itself.

    secret: the path of a file that holds `SECRET`. port: of this machine.
    """
    host = f"http://127.0.0.1:{port}"
    return {
        "grows": _growing(),
        "repeats": f'<!DOCTYPE x [<!ENTITY x "{"lol" * 30_000}">]>',
        "file": f'<!DOCTYPE x [<!ENTITY x SYSTEM "file://{secret}">]>',
        "path": f'<!DOCTYPE x [<!ENTITY x SYSTEM "{secret}">]>',
        "host": f'<!DOCTYPE x [<!ENTITY x SYSTEM "{host}/x">]>',
        "parameter": f'<!DOCTYPE x [<!ENTITY % p SYSTEM "{host}/p"> %p;<!ENTITY x "y">]>',
        "parameter-alone": f'<!DOCTYPE x [<!ENTITY % p SYSTEM "file://{secret}"> %p;]>',
        "dtd": f'<!DOCTYPE x SYSTEM "{host}/x.dtd">',
        "public-dtd": f'<!DOCTYPE x PUBLIC "-//X//X//EN" "{host}/x.dtd">',
        "file-dtd": f'<!DOCTYPE x SYSTEM "file://{secret}">',
        "style": f'<?xml-stylesheet type="text/xsl" href="{host}/x.xsl"?>',
    }


REFUSED = ("grows", "repeats", "file", "path", "host")
"""Those that declare an entity that the text refers to: never read where a parser would put one in."""

DEFINING = (*REFUSED, "parameter")
"""With the one whose entity is unknown to a parser that does not fetch what stands before it, as the standard says."""

USES = {"repeats": 2_000}
"""How often the entity is referred to, where not once."""


def _attacked(text: str, prolog: str, used: int) -> str:
    """A document with this prolog, and the entity in the place of its words; with an inclusion besides."""
    head, end, rest = text.partition("?>")
    if not end:
        head, end, rest = '<?xml version="1.0"', "?>", text
    return head + end + prolog + (rest.replace(WORDS, f"{WORDS} {'&x;' * used}") if used else rest)


def _including(text: str, secret: str, port: int) -> str:
    """A document that asks for another one to be included."""
    included = (
        f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file://{secret}" parse="text"/>'
        f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="http://127.0.0.1:{port}/i"/>'
    )
    return text.replace(WORDS, f"{WORDS} {included}")


def _texts() -> dict[str, str]:
    """Formats that are one XML or HTML document."""
    feed = f"<rss><channel><item><title>{WORDS}</title></item></channel></rss>"
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg"><text>{WORDS}</text></svg>'
    page = f"<?xml version='1.0'?><html><body>{drawing}<p>{WORDS}</p></body></html>"
    return {
        "xml": TEXTS["xml"],
        "rss": f'<?xml version="1.0"?>{feed}',
        "xhtml": TEXTS["xhtml"],
        "html": page,
        "svg": f'<?xml version="1.0"?>{drawing}',
    }


def every(secret: str, port: int) -> Iterator[tuple[str, str, bytes, bool]]:
    """Yield each attack on each document: its kind, file name, bytes, and whether it must be refused.

    Refused must be what refers to an entity where a parser of XML reads it. A parser of HTML knows no entities but
    its own; there, and where nothing is declared, the document may be read, without what it names.
    """
    for extension, text in _texts().items():
        strict = extension in ("xml", "rss")
        for kind, document in _variants(text, secret, port):
            yield kind, f"{kind}.{extension}", document.encode(), strict and kind in REFUSED
            if extension in ("xml", "xhtml") and kind in DEFINING:
                document = document.replace('encoding="UTF-8"', 'encoding="UTF-16"')
                yield kind, f"{kind}-wide.{extension}", document.encode("utf-16"), strict and kind in REFUSED
    for extension, parts in PACKAGES.items():
        for number, (name, content) in enumerate(parts.items()):
            if not name.endswith("mimetype"):
                for kind, document in _variants(content.decode(), secret, port):
                    data = packed(parts | {name: document.encode()})
                    yield kind, f"{kind}-{number}.{extension}", data, _is_text(name) and kind in REFUSED


def _variants(text: str, secret: str, port: int) -> Iterator[tuple[str, str]]:
    for kind, prolog in prologs(secret, port).items():
        yield kind, _attacked(text, prolog, USES.get(kind, 1) if kind in DEFINING else 0)
    if WORDS in text:
        yield "includes", _including(text, secret, port)


STRICT_PARTS = ("word/document.xml", "ppt/presentation.xml", "slide1.xml", "sharedStrings.xml", "content.xml", "b.opf")


def _is_text(name: str) -> bool:
    """Whether the text of a package cannot be had without this part, and it is read as XML."""
    return name.endswith(STRICT_PARTS) or name == "META-INF/container.xml"
