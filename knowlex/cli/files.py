"""`knowlex files` and `knowlex file …`: what became of each file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from knowlex.cli import pages
from knowlex.cli.door import Command, Door, Group, pass_door
from knowlex.terminal import one_line, paragraph, plain, size, table
from storage.paging import Page

if TYPE_CHECKING:
    from knowlex.files import FileDetails, FileRow


@click.command(cls=Command)
@click.argument("project")
@click.option(
    "--status", type=click.Choice(["pending", "processing", "ready", "failed"]), help="Only files of this status."
)
@pages.options
@pass_door
def files(door: Door, project: str, status: str | None, limit: int | None, after: str | None) -> None:
    """List the files of PROJECT and their status, each with its reason where it failed.

    With --limit or --after the JSON is an object: the files, and `next` for the following page.

    \b
    Example:
      knowlex files handbook --status failed
    """
    part = pages.asked(limit, after)
    with door.open() as kb:
        page = Page(kb.files(project, status), None) if part is None else kb.files_page(project, status, **part)
    if door.json:
        pages.answer(door, "files", page.items, part, page.next)
        return
    paths = {row.id: row.path for row in page.items}
    rows = [(row.id, row.status, row.chunk_count, size(row.size), row.path, _remark(row, paths)) for row in page.items]
    door.say(table(("ID", "STATUS", "PASSAGES", "SIZE", "FILE", ""), rows))
    pages.note_more(door, page.next)


def _remark(row: FileRow, paths: Mapping[str, str]) -> str:
    """Return why a file failed, or which one it equals: by its path where that is listed, too, else by its id."""
    same = f"same content as {paths.get(row.duplicate_of, row.duplicate_of)}" if row.duplicate_of else ""
    return row.error_message or same


@click.group(cls=Group)
def file() -> None:
    """Look at one file, or forget it; ID is what `knowlex files` shows, or the file's path.

    \b
    Example:
      knowlex file show 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11
    """


@file.command()
@click.argument("id")
@pass_door
def show(door: Door, id: str) -> None:
    """Show a file's row, its other names, and its passages with their pages.

    \b
    Example:
      knowlex file show 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11
    """
    with door.open() as kb:
        found = kb.file(id)
    if door.json:
        door.answer(found.as_dict())
        return
    _describe(door, found)


def _describe(door: Door, found: FileDetails) -> None:
    from knowlex.hits import pages as page_range

    for name, value in found.facts().items():
        if value not in (None, "", {}) and (name != "parser" or found.row.status == "ready"):
            told = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
            door.say(f"{name:14} {one_line(told)}")
    for key, what in (("pages_without_text", "without text"), ("pages_failed", "not read")):
        if numbers := found.metadata.get(key):
            door.say(f"{what:14} page {_ranges(numbers)}")
    for name in found.names:
        door.say(f"{'also':14} {one_line(name)}")
    for chunk in found.chunks:
        place = f"  page {page_range(chunk.page_start, chunk.page_end)}" if chunk.page_start else ""
        heading = f"  {one_line(chunk.heading)}" if chunk.heading else ""
        door.say(f"\n[{chunk.chunk_index}]{place}{heading}")
        door.say(paragraph(plain(" ".join(chunk.content.split())), "  "))


def _ranges(numbers: list[int]) -> str:
    """Return ascending numbers as ranges: "2, 5-7"."""
    from knowlex.hits import pages as page_range

    known = set(numbers)
    starts = [number for number in numbers if number - 1 not in known]
    ends = [number for number in numbers if number + 1 not in known]
    return ", ".join(map(page_range, starts, ends))


@file.command(writes=True)
@click.argument("id")
@pass_door
def delete(door: Door, id: str) -> None:
    """Forget a file and its passages. The file on disk stays: ingesting its folder brings it back.

    \b
    Example:
      knowlex file delete 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11
    """
    with door.open() as kb:
        gone: Any = kb.delete_file(id)
    if door.json:
        door.answer({"deleted": gone.id, "path": gone.path})
    door.say(f"{one_line(gone.path)} forgotten")
