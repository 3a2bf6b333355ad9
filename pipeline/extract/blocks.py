"""Markdown blocks, and how they are put together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Block(NamedTuple):
    """One Markdown block; `depth` is that of a list item, from 0, and -1 for anything else."""

    text: str
    depth: int = -1


def paragraph(text: str) -> Block:
    """A paragraph of plain text."""
    return Block(escaped(text))


def escaped(text: str) -> str:
    """Plain text as Markdown: what Markdown takes for headings and fences is marked as text.

    A fence that is never closed would swallow all that follows, and "----" ends a text more often than it
    underlines a title.
    """
    return _UNDERLINE.sub("\n\n", _MARKS.sub(r"\1\\", text))


_MARKS = re.compile(r"^([ \t]*)(?=#{1,6}(?:[ \t]|$)|```|~~~)", re.MULTILINE)
_UNDERLINE = re.compile(r"(?<=[^\n])\n(?=[ \t]{0,3}(?:-{3,}|={3,})[ \t]*$)", re.MULTILINE)


def item(text: str, label: str, depth: int) -> Block:
    """A list item of plain text; only "3." is a number to Markdown, so other labels follow a bullet."""
    mark = label if re.fullmatch(r"\d{1,9}[.)]", label, re.ASCII) else f"- {label}".rstrip()
    return Block(f"{mark} {escaped(text)}", depth)


def joined(blocks: Iterable[Block]) -> str:
    """Blocks with an empty line between, except between list items.

    An item is indented one step more than the one before it at most: four spaces would make it code.
    """
    parts: list[str] = []
    depth = -1
    for block in blocks:
        between = "\n" if depth >= 0 and block.depth >= 0 else "\n\n"
        depth = min(block.depth, depth + 1)
        indent = "  " * depth
        text = block.text if depth < 0 else block.text.replace("\n", f"\n{indent}  ")
        parts.append((between if parts else "") + indent + text)
    return "".join(parts)
