"""The numbers that Word draws before paragraphs, which the text itself does not hold, and how programs write them.

"See clause 4.2" finds nothing unless the 4.2 is written out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.extract.ooxml import Element, child, children, value, w

_DEPTH = 9


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of a list: Word's name of the number format, a pattern such as "%1.%2.", the first number."""

    number_format: str
    pattern: str
    start: int


@dataclass(frozen=True, slots=True)
class _List:
    """A list that paragraphs name: what it counts with, its levels by depth, levels it starts anew."""

    abstract: str
    levels: dict[int, _Level]
    restarts: dict[int, int]


@dataclass(slots=True)
class Numbering:
    """Counts through a document's lists in reading order.

    Lists made from one abstract list count on together, unless one says that it starts anew.
    """

    lists: dict[str, _List] = field(default_factory=dict[str, _List])
    _counts: dict[str, list[int | None]] = field(default_factory=dict[str, list[int | None]])
    _begun: set[str] = field(default_factory=set[str])

    def next_label(self, list_id: str, depth: int) -> str:
        """The number of the next paragraph of a list, e.g. "4.2" or "(a)"; empty for a bullet."""
        found = self.lists.get(list_id)
        level = found.levels.get(depth) if found else None
        if found is None or level is None or level.number_format in ("bullet", "none"):
            return ""
        counts = self._counts_of(list_id, found)
        before = counts[depth]
        now = level.start if before is None else before + 1
        counts[depth:] = [now] + [None] * (_DEPTH - depth - 1)
        levels = found.levels
        return re.sub(r"%([1-9])", lambda part: _written(int(part[1]) - 1, counts, levels), level.pattern)

    def _counts_of(self, list_id: str, found: _List) -> list[int | None]:
        counts = self._counts.setdefault(found.abstract, [None] * _DEPTH)
        if list_id not in self._begun:
            self._begun.add(list_id)
            for depth, start in found.restarts.items():
                counts[depth] = start - 1
        return counts


def read_numbering(root: Element | None) -> Numbering:
    """Numbering of a document from its part `numbering.xml`, or an empty one."""
    numbering = Numbering()
    if root is None:
        return numbering
    plans = children(root, w("abstractNum"))
    abstract = {plan.get(w("abstractNumId")) or "": _levels(plan) for plan in plans}
    for each in children(root, w("num")):
        made_from = value(each, "abstractNumId") or ""
        overrides = list(children(each, w("lvlOverride")))
        levels = abstract.get(made_from, {}) | {k: v for o in overrides for k, v in _levels(o).items()}
        restarts = {_depth(o): whole_number(start, 1) for o in overrides if (start := value(o, "startOverride"))}
        numbering.lists[each.get(w("numId")) or ""] = _List(made_from, levels, restarts)
    return numbering


def _levels(holder: Element) -> dict[int, _Level]:
    return {_depth(level): _level(level) for level in children(holder, w("lvl"))}


def _depth(level: Element) -> int:
    return min(whole_number(level.get(w("ilvl")), 0), _DEPTH - 1)


def _level(level: Element) -> _Level:
    pattern = child(level, w("lvlText"))
    return _Level(
        value(level, "numFmt") or "decimal",
        (pattern.get(w("val")) or "") if pattern is not None else "",
        whole_number(value(level, "start"), 1),
    )


def _written(depth: int, counts: list[int | None], levels: dict[int, _Level]) -> str:
    level = levels.get(depth)
    count = counts[depth]
    if count is None:
        count = level.start if level else 1
    return numeral(count, level.number_format if level else "decimal")


def whole_number(text: str | None, default: int) -> int:
    """The whole number that a document states, or the default; none that anyone counts to has over six digits."""
    return int(text) if text and re.fullmatch(r"\d{1,6}", text, re.ASCII) else default


def numeral(count: int, number_format: str) -> str:
    """A number as a list shows it; number_format is Word's name, such as "upperRoman"; an unknown one is decimal."""
    match number_format:
        case "lowerLetter":
            return _letters(count)
        case "upperLetter":
            return _letters(count).upper()
        case "lowerRoman":
            return _roman(count)
        case "upperRoman":
            return _roman(count).upper()
        case "decimalZero":
            return f"{count:02}"
        case _:
            return str(count)


def _letters(count: int) -> str:
    """a to z, then aa, bb, as Word counts."""
    turns, letter = divmod(max(count, 1) - 1, 26)
    return chr(ord("a") + letter) * min(turns + 1, 8)


_ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl")),
    *((10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)


def _roman(count: int) -> str:
    written = ""
    for worth, letters in _ROMAN:
        turns, count = divmod(min(count, 3999), worth)
        written += letters * turns
    return written
