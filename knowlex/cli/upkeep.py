"""`knowlex backup`, `restore`, `maintain` and `erase`: keep the database safe, quick, small and clean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from knowlex.cli import exit_codes
from knowlex.cli.door import Command, Door, pass_door, yes_option
from knowlex.terminal import one_line, quantity, size, table

if TYPE_CHECKING:
    from storage.backup import Backup, Restored
    from storage.erase import Erased

NAMED_PROJECTS = 5
"""Projects of another database's backup that are named before it is restored."""

_FILE = click.Path(path_type=Path)


@click.command(cls=Command, writes=True)
@click.argument("file", type=_FILE)
@pass_door
def backup(door: Door, file: Path) -> None:
    """Copy the database to FILE, while others use it; read the copy through before it gets its name.

    The copy is for its owner alone (0600). An older backup of that name is replaced; anything else is not.

    \b
    Example:
      knowlex backup nightly.db
    """
    if str(file) == "-":
        raise click.UsageError("-: standard output is for the answer; give the name of a file.")
    with door.open() as kb:
        made = kb.backup(file)
    if door.json:
        door.answer(
            {
                "file": str(made.path),
                "bytes": made.bytes,
                "schema": made.schema,
                **_counts(made),
            }
        )
    door.say(f"{one_line(str(made.path))}: {size(made.bytes)}, {_held(made)}; read through")


@click.command(cls=Command, writes=True)
@click.argument("file", type=_FILE)
@yes_option
@pass_door
def restore(door: Door, file: Path, yes: bool) -> None:
    """Put the backup FILE in the place of the database, in one step, while others read.

    FILE is read through first. What was there is kept beside the database, as NAME.before-restore. A backup has not
    the bytes of uploads: where some are not here, it says which folder to copy beside the database.

    \b
    Example:
      knowlex restore nightly.db --yes
    """
    with door.open() as kb:
        other = _of_another(kb.path, file)
        if yes and other:
            door.note(f"{one_line(str(file))}{other}")
        door.confirm(yes, f"Replace {one_line(str(kb.path))} by {one_line(str(file))}{other}?")
        done = kb.restore(file)
    if door.json:
        door.answer(
            {
                "database": str(done.path),
                "schema": done.schema,
                **_counts(done),
                "kept": None if done.kept is None else str(done.kept),
                "uploads_without_bytes": done.uploads_without_bytes,
            }
        )
    door.say(f"{one_line(str(done.path))}: {_held(done)} restored")
    if done.kept is not None:
        door.note(f"what was there before is kept in {one_line(str(done.kept))}")
    if done.uploads_without_bytes:
        _note_uploads(door, done)


_HELD = {
    "files": ("file", "files"),
    "chunks": ("passage", "passages"),
    "projects": ("project", "projects"),
    "memories": ("memory", "memories"),
    "conversations": ("conversation", "conversations"),
    "messages": ("message", "messages"),
}
"""What is counted in a backup, and what people call one of it and several."""


def _counts(of: Backup | Restored) -> dict[str, int]:
    return {name: getattr(of, name) for name in _HELD}


def _held(of: Backup | Restored) -> str:
    return ", ".join(quantity(count, *_HELD[name]) for name, count in _counts(of).items())


def _note_uploads(door: Door, done: Restored) -> None:
    """Say that what came over the network is not all here: a backup has what was read of it, not its bytes."""
    from storage import uploads

    bare = done.uploads_without_bytes
    have = "has" if bare == 1 else "have"
    door.note(one_line(f"{quantity(bare, 'upload')} {have} no bytes here; {uploads.remedy(done.path)}"))


def _of_another(database: Path, file: Path) -> str:
    from storage.backup import projects_of_another
    from storage.paths import given_path

    projects = projects_of_another(database, given_path(file, "FILE"))
    if projects is None:
        return ""
    more = ", …" if len(projects) > NAMED_PROJECTS else ""
    names = ", ".join(projects[:NAMED_PROJECTS]) + more or "none"
    return one_line(f", a backup of another database (projects: {names})")


@click.command(cls=Command, writes=True)
@click.option("--vacuum", is_flag=True, help="Write the file anew, also where that saves little.")
@pass_door
def maintain(door: Door, vacuum: bool) -> int:
    """Count the indexes, merge the full text, cut the change log, give free space back, fold the log.

    `work` does it bit by bit when it has nothing else to do, save for clearing what an erasure had to leave.
    Exit code 4 where that cannot be finished yet; what is in the way is named.

    \b
    Example:
      knowlex maintain
    """
    with door.open() as kb:
        done = kb.maintain(vacuum=vacuum)
    if door.json:
        door.answer(done)
    door.say(table(("TASK", "MS", "DONE"), [(task.name, round(task.took_ms), task.detail) for task in done.tasks]))
    door.say(f"{size(done.bytes_before)} before, {size(done.bytes_after)} now")
    if not done.clean and not door.json:
        door.note(one_line(f"an erasure is {done.tasks[0].detail}"))
    return exit_codes.OK if done.clean else exit_codes.DATABASE


@click.command(cls=Command, writes=True)
@click.argument("target")
@yes_option
@pass_door
def erase(door: Door, target: str, yes: bool) -> int:
    """Delete TARGET so that no byte of its text is left: a project, file, conversation, message or memory.

    TARGET is an id, a project's name or a file's path. A project goes with its conversations, a file with
    every name of the same bytes in its project. The file on disk stays; the copies of the database that
    Knowlex made beside it before (.before-*, .damaged) go. Exit code 4 where something is, or may be, left.

    \b
    Example:
      knowlex erase handbook --yes
    """
    from storage import clearing

    with door.open() as kb:
        found = kb.find_to_erase(target)
        copies = f", and the copies beside {one_line(str(kb.path))}" if clearing.copies(kb.path) else ""
        door.confirm(yes, f"Erase {found.kind} {one_line(found.name)} ({found.id}) for good{copies}?")
        done = kb.erase(found.id)
    if door.json:
        door.answer(
            {
                "kind": done.target.kind,
                "id": done.target.id,
                "removed": done.removed,
                "places": done.places,
                "kept": done.kept,
                "not_searched": done.not_searched,
                "clean": done.clean,
            }
        )
    _describe(door, done)
    return exit_codes.OK if done.clean else exit_codes.DATABASE


_ONE = {"memories": "memory"}


def _describe(door: Door, done: Erased) -> None:
    rows = ", ".join(quantity(count, _ONE.get(name, name[:-1]), name) for name, count in done.removed.items())
    door.say(f"{done.target.kind} {one_line(done.target.name)} erased: {rows}")
    for place in done.places:
        left = {None: "; THE TEXT MAY BE LEFT", 0: ""}.get(place.left, f"; PIECES OF THE TEXT LEFT: {place.left}")
        door.say(f"  {one_line(place.place)}: {place.done}{left}")
        if place.left:
            door.say("    in no row of Knowlex: another program put it there, or it was written and deleted meanwhile;")
            door.say("    delete it where it still stands, then run knowlex maintain --vacuum")
    for name in done.kept:
        door.say(f"  the same text stays in {one_line(name)}")
    for place in done.not_searched:
        door.say(f"  not searched: {place}")
