"""Text of documents, memories and messages on its way to an agent or a person: data that nobody vouches for.

Nothing here can tell a model what to believe: it makes what a text says visible, and where it begins and ends certain.
Who gets it must still treat it as data. Source of the delimiter: Hines et al., Spotlighting, arXiv 2403.14720.
"""

from __future__ import annotations

import re
import secrets

from knowlex.terminal import one_line, plain

FENCE = "untrusted-data"
"""What the lines around a text begin with, behind `<` and `</`."""

_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_JOINERS = "\u200c\u200d"

# Beside what steers a terminal: what takes no room and says something to a machine alone. A selector of a variant has
# its place behind a symbol or a character of a script that has variants, a joiner between two that join; anywhere else,
# and in rows, they hide text from people.
_HIDDEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u206a-\u206f\u3164\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0080-\U000e00ff\U000e01f0-\U000e0fff\ud800-\udfff]"
    f"|(?<![0-9#*\u00a9\u00ae\u2000-{chr(0x10FFFF)}])[{_SELECTORS}]|(?<=[{_SELECTORS}{_JOINERS}])[{_SELECTORS}]"
    f"|(?<![^\x00-\x7f])[{_JOINERS}]|(?<=[{_JOINERS}])[{_JOINERS}]|[{_JOINERS}](?![^\x00-\x7f])"
)
_FENCE_LIKE = re.compile(rf"<(?=\s*/?\s*{FENCE})", re.IGNORECASE)


def neutral(text: str) -> str:
    """Return text that shows whatever it holds: what steers a terminal, turns the reading direction or hides stands
    as its code, such as <U+202E>.

    A soft hyphen, which typesetters put within words, goes. Offsets into the text that was given do not hold in it.
    """
    shown = plain(text)
    if shown.isascii():
        return shown
    shown = shown.replace("\u00ad", "")
    while (more := _HIDDEN.sub(_code, shown)) != shown:  # what hid behind something that hides may stand alone now
        shown = more
    return shown


def fenced(text: str, source: str) -> str:
    """Return text between two lines that it cannot forge, which say where it is from and that it is data.

    source: where it is from, in words; it is as little to be trusted, and is put on one line. Each call has a random
    number (128 bits) of its own in both lines, which no text that was written before can hold.
    """
    nonce = secrets.token_hex(16)
    named = one_line(neutral(source)).replace('"', "'")
    inner = _FENCE_LIKE.sub("<U+003C>", neutral(text))
    return f'<{FENCE} id="{nonce}" source="{_FENCE_LIKE.sub("<U+003C>", named)}">\n{inner}\n</{FENCE} id="{nonce}">'


def _code(match: re.Match[str]) -> str:
    return f"<U+{ord(match[0]):04X}>"
