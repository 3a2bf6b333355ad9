"""Text into words, and each word into the tokens it is found by.

The full-text tables split on every ASCII character that is neither letter nor digit and on nothing
else, so a token is made of ASCII letters and digits and of any other characters beyond ASCII; symbols
that belong to a name (C++, C#) stand as private-use characters, which no text can bring in itself.

- Letters are compatibility-composed, case-folded and lose their accents (not those that make
  another letter: й, が, vowel signs); a soft hyphen, a zero-width character or a variation selector is nothing.
- 5½ is 5 and 1/2, m² is m and 2: no numeral joins what stands before it, save small ones below the line (H₂O).
- Words are stemmed by their script (Snowball): Latin ones by the English rules, Cyrillic by the
  Russian, Devanagari by the Hindi ones.
- `getUserById` stands as a whole, `get user by id` behind the text; `foo_bar` and `ADR-016` stand as
  their parts, which a question asks for in a row.
- Behind the text stands a dotted number apart from letters that touch it, and without thousands separators:
  `v 2 5 1` of v2.5.1, `3 14 m` of 3.14M, `1234 56` of 1,234.56.
- Scripts written without spaces become pieces that overlap: at each character, the two (Chinese,
  Japanese, Korean) or three (Thai, Lao, Burmese, Khmer) that follow. So anything shorter is found
  by prefix, anything longer by its pieces.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import Stemmer

MAX_TOKEN = 64
"""Characters of a token that count."""

MAX_PARTS = 24
"""Parts of one name that are indexed on their own."""

FEW_PARTS = 8
"""Parts that may be of any kind; of more, three quarters must be words of two letters, as in no hash or code."""

CHARACTERS = (
    "\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u303c\u3041-\u309f"
    "\u30a1-\u30ff\u3105-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\uaa60-\uaa7f"
LETTER = f"[^\\x00-/:-@\\[-`{{-\\x7f{CHARACTERS}{LETTERS}]"
NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])"

WORD = re.compile(rf"[{CHARACTERS}]+|[{LETTERS}]+|{NUMBER}|{LETTER}+(?:'{LETTER}+)?(?:\+\+|\#)?")
ASCII_WORD = re.compile(rf"{NUMBER}|[A-Za-z0-9]+(?:'[A-Za-z0-9]+)?(?:\+\+|\#)?")
NUMBERED = re.compile(r"[0-9],[0-9]{3}")
PARTING = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum() and chr(code) not in "'+#"})
"""The ASCII characters that part words, but for a comma within a number."""
UNSPACED = re.compile(f"(?P<characters>[{CHARACTERS}])|[{LETTERS}]")
PIECE_OF_CHARACTERS = 2
PIECE_OF_LETTERS = 3

PART = re.compile(r"[A-Z]{2,}(?=v[0-9])|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
"""One part of a name: of TLSv1 they are TLS, v and 1."""
DOT = re.compile(r"\.(?<=[0-9]\.)[0-9]")
"""A dot within a number: quickly looked for, as few texts have one."""
# Thousands are counted, so that no list of numbers is looked through from each of them.
DOTTED = re.compile(
    r"(?P<number>[0-9](?<![0-9][0-9])(?P<thousands>[0-9]{0,2}(?:,[0-9]{3}){1,6}+(?![0-9]))?+[0-9]*+"
    rf"(?:\.(?P<last>[0-9]++))++)(?P<behind>{LETTER}*+)(?P<symbol>\+\+|\#)?"
)
"""A dotted number with the letters behind it, and the symbol of its last word."""
NUMBERS_AT_ENDS = re.compile("^[0-9]+|[0-9]+$")
LETTERS_BEFORE = re.compile(rf"(?<!{LETTER}){LETTER}+\Z")

ACRONYMS = re.compile(r"[A-Z]{2,}s")
ENDINGS = frozenset({"s", "t", "ll", "re", "ve", "d", "m"})
"""What an English apostrophe cuts off: it's, don't, we'll."""

SYMBOLS = str.maketrans({"+": "\ue000", "#": "\ue001"})

DIGIT = re.compile("[0-9]")
IGNORED = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
"""Fillers and variation selectors, which are never shown. Source: Default_Ignorable_Code_Point, UAX 44."""

NOT_DECOMPOSED = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i", "ð": "d", "þ": "th", "ħ": "h", "ŧ": "t"}
)
# Accents, Hebrew points, Arabic vowel signs and tatweel; the breve stays on Cyrillic letters (й, ў).
ACCENTS = re.compile(
    "[\u0300-\u0305\u0307-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u0591-\u05bd\u05bf\u05c1\u05c2"
    "\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]|(?<![\u0400-\u04ff])\u0306"
)


# Composing takes quadratic time in the marks of one letter; no writing needs more than 30 (UAX 15).
MANY_MARKS = re.compile("([\u0300-\u036f]{30})[\u0300-\u036f]+")


class _Characters(dict[int, str]):
    """What becomes of each character, worked out when it is first met."""

    def __init__(self, meaning: Callable[[str], str]) -> None:
        super().__init__()
        self._meaning = meaning

    def __missing__(self, code: int) -> str:
        self[code] = meaning = self._meaning(chr(code))
        return meaning


def _apart(character: str) -> str:
    """Return a character before NFKC, with spaces where that would glue it to what stands beside it: 5½, ①, 10², ㎡."""
    if character in "™℠®©":
        return " "
    kind = unicodedata.decomposition(character).partition(" ")[0]
    if kind in ("", "<sub>") or character.isdecimal() or not DIGIT.search(unicodedata.normalize("NFKC", character)):
        return character
    return f" {unicodedata.digit(character)}" if kind == "<super>" else f" {character} "


def _meaning(character: str) -> str:
    if character.isascii():
        return character
    if character in "\u2018\u2019\u02bc":
        return "'"
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category in ("Cf", "Me") or IGNORED.match(character):
        return ""
    return character if category[0] in "LMN" or category == "Cn" else "-" if character == "\u2010" else " "


_before, _behind = _Characters(_apart), _Characters(_meaning)


def normalise(text: str) -> str:
    """Return the text with only those characters beyond ASCII left that belong to words."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", MANY_MARKS.sub(r"\1", text.translate(_before))).translate(_behind)


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text, or one run of an unspaced script.

    text: as it stands in the normalised text, at start:end there; before: what parts it from the last.
    tokens: those that stand in its place; more: those behind the text.
    piece: characters of a token in a run of an unspaced script, 0 in a word.
    """

    text: str
    start: int
    end: int
    before: str
    tokens: tuple[str, ...]
    more: tuple[str, ...]
    piece: int

    @property
    def symbolic(self) -> bool:
        """Whether a symbol belongs to the name, as in C++ and C#."""
        return self.text.endswith(("+", "#"))


def split_words(normal: str) -> list[Word]:
    """Return the words of a normalised text one by one."""
    found: list[Word] = []
    last = 0
    for match in WORD.finditer(normal):
        word, before = match[0], normal[last : match.start()]
        tokens, more = analyse(word)
        if tokens:
            found.append(Word(word, match.start(), match.end(), before, tokens, more, piece_size(word)))
            last = match.end()
    return found


def words_of(text: str) -> list[str]:
    """Return the words of a text, as `analyse` takes them."""
    return normal_words(normalise(text))


def normal_words(normal: str) -> list[str]:
    """Return the words of a normalised text."""
    return ascii_words(normal) if normal.isascii() else WORD.findall(normal)


def ascii_words(text: str) -> list[str]:
    """Return what ASCII_WORD finds in an ASCII text, which is split in a fifth of the time."""
    if NUMBERED.search(text):
        return ASCII_WORD.findall(text)
    pieces = text.translate(PARTING).split()
    if "'" not in text and "+" not in text and "#" not in text:
        return pieces
    return [word for piece in pieces for word in ((piece,) if piece.isalnum() else ASCII_WORD.findall(piece))]


def piece_size(word: str) -> int:
    """Return how many characters a token of this run holds; 0 for a word of a spaced script."""
    match = UNSPACED.match(word)
    if not match:
        return 0
    return PIECE_OF_CHARACTERS if match["characters"] else PIECE_OF_LETTERS


@lru_cache(maxsize=32_768)
def analyse(word: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tokens that stand in the place of one word, and those behind the text.

    Marks without a letter have none.
    """
    tokens, more = _analyse(word)
    return tuple(filter(None, tokens)), tuple(filter(None, more))


def _analyse(word: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if size := piece_size(word):
        return tuple(word[place : place + size] for place in range(len(word))), ()
    if "," in word:
        return tuple(word.split(",")), (word.replace(",", "")[:MAX_TOKEN],)
    if word.endswith(("++", "#")):
        return _symbolic(word)
    if ACRONYMS.fullmatch(word):
        return (word[:-1].lower(),), ()
    head, _, rest = word.partition("'")
    if rest and rest.lower() not in ENDINGS:
        return (stem(head), stem(rest)), ()
    return (stem(head),), _parts(head)


def _symbolic(word: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return C++ and page# with their symbol, and behind the text without."""
    name = word.rstrip("+#")
    tokens, more = analyse(name)
    if not tokens:
        return (), ()
    return (*tokens[:-1], tokens[-1] + word[len(name) :].translate(SYMBOLS)), (*tokens, *more)


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of getUserById, PDFParser or utf8, stemmed; nothing for a plain word."""
    parts = PART.findall(name) if name.isascii() and len(name) <= MAX_TOKEN else []
    if not 1 < len(parts) <= MAX_PARTS or sum(part.isdigit() for part in parts) > 2:
        return ()
    if len(parts) > FEW_PARTS and sum(part.isalpha() and len(part) > 1 for part in parts) < 0.75 * len(parts):
        return ()
    return tuple(stem(part) for part in parts)


def dotted_numbers(normal: str) -> tuple[list[str], str]:
    """Return the tokens behind a text of its dotted numbers that are spelled otherwise than alone, and the rest of it.

    Those are v2.5.1, 3.14M and 1,234.56. The rest is where the parts of other words are looked for: those of
    v2 and 14M stand in the numbers, but not those of a word with a symbol (14M#), which has more.
    """
    tokens: list[str] = []
    rest: list[str] = []
    at = 0
    for match in DOTTED.finditer(normal) if DOT.search(normal) else ():
        start = match.start()
        before = LETTERS_BEFORE.search(normal, max(0, start - MAX_TOKEN), start)
        if before or match["behind"] or match["thousands"] or match["symbol"]:
            tokens += _number_tokens(before[0] if before else "", match)
            rest.append(normal[at : before.start() if before else start])
            at = match.start("last") if match["symbol"] else match.end()
    return tokens, " ".join([*rest, normal[at:]])


def _number_tokens(before: str, match: re.Match[str]) -> Iterator[str]:
    """Yield the numbers of a dotted one, with the parts of the letters that touch the first and the last."""
    first, *middle, last = _numbers(match)
    yield from analyse(before + first)[1] or (first,)
    yield from middle
    yield from analyse(last + match["behind"])[1] or (last,)


def bare_number(name: str) -> tuple[str, ...]:
    """Return the numbers that a dotted one is made of, without letters and thousands separators; nothing for others."""
    match = DOTTED.search(name)
    alone = match and match.end() == len(name) and "." not in name[: match.start()]
    return _numbers(match) if match and alone else ()


def _numbers(match: re.Match[str]) -> tuple[str, ...]:
    return tuple(each[:MAX_TOKEN] for each in match["number"].replace(",", "").split("."))


_stem_lock = threading.Lock()  # the stemmers hold state


def _rules(language: str) -> Callable[[str], str]:
    # Without a cache of its own: `_analyse` has one.
    return cast(Any, Stemmer).Stemmer(language, 0).stemWord


_english, _hindi, _russian = map(_rules, ("english", "hindi", "russian"))


def stem(word: str) -> str:
    """Return the word folded and stemmed by the rules of its script."""
    folded = fold(word)[:MAX_TOKEN]
    if folded.isascii():
        rules = _english if folded.isalpha() else None
    elif "\u0400" <= folded[0] <= "\u04ff":
        rules = _russian
    else:
        rules = _hindi if "\u0900" <= folded[0] <= "\u097f" else None
    if rules is None:
        return folded
    with _stem_lock:
        return rules(folded)


def fold(word: str) -> str:
    """Return the word case-folded and without accents."""
    if word.isascii():
        return word.lower()
    bare = ACCENTS.sub("", unicodedata.normalize("NFD", word.casefold()))
    return unicodedata.normalize("NFKC", bare).translate(NOT_DECOMPOSED)


BEYOND_ASCII = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")
"""A run of characters beyond ASCII, with the one before it, which a mark may belong to."""


def normalise_with_places(text: str) -> tuple[str, list[int]]:
    """Return the normalised text and, for each of its characters and its end, the place in `text`."""
    pieces: list[str] = []
    places: list[int] = []
    at = 0
    for match in BEYOND_ASCII.finditer(text):
        pieces.append(text[at : match.start()])
        places += range(at, match.start())
        at = match.end()
        for start, end, piece in _normalised_run(match[0]):
            pieces.append(piece)
            one_to_one = len(piece) == end - start
            first = match.start() + start
            places += range(first, match.start() + end) if one_to_one else [first] * len(piece)
    return "".join([*pieces, text[at:]]), [*places, *range(at, len(text) + 1)]


def _normalised_run(run: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, normalised) of what can be normalised on its own: all at once, if nothing moves."""
    normal = _normalised(run)
    if len(normal) == len(run) and unicodedata.is_normalized("NFKC", run):
        yield 0, len(run), normal
        return
    for start, end in pairwise(_cluster_starts(run)):
        yield start, end, _normalised(run[start:end])


def _normalised(some: str) -> str:
    return _met(some) if len(some) <= SHORT else normalise(some)


SHORT = 8
"""Characters of what is met again and again: a dash, a letter with its marks."""

_met = lru_cache(maxsize=32_768)(normalise)


def _cluster_starts(text: str) -> list[int]:
    """Return where each character with its combining marks begins, and the end of the text."""
    starts = [place for place, character in enumerate(text) if not place or not _continues(character)]
    return [*starts, len(text)]


def _continues(character: str) -> bool:
    """Whether a character composes with the one before it: marks, Korean vowels, half-width voicing."""
    return not character.isascii() and (
        unicodedata.combining(character) != 0 or "\u1160" <= character <= "\u11ff" or character in "\uff9e\uff9f"
    )
