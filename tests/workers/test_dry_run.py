"""A dry run counts what the run right after it does, in whatever state the files are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest

from workers.scan import ScanOptions

COUNTS = (
    "discovered",
    "ingested",
    "unchanged",
    "duplicates",
    "removed",
    "skipped",
    "failed",
    "moved",
    "outdated",
    "bytes",
    "failures",
)
LONG = "A sentence about boats. " * 60
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)

State = Callable[[Any], dict[str, Any] | None]
"""Brings a desk into a state and returns the options of the runs to compare, if there are any."""


def state_of_new_files(desk) -> None:
    for name in ("a.md", "b.md", "sub/c.txt"):
        desk.write(name, "the same text")
    desk.write("d.md", "another text")
    desk.write("e.png", "").write_bytes(PNG)


def state_of_other_lengths(desk) -> None:
    """Whoever is met first of equal files is not always the one that has the chunks."""
    desk.write("m.md", LONG)
    desk.ingest()
    for name in ("a.md", "b.md", "z.md"):
        desk.write(name, LONG)
    desk.write("alone.md", "A note.")
    desk.ingest()
    desk.write("new.md", LONG)
    (desk.folder / "alone.md").rename(desk.folder / "renamed.md")
    desk.chunks = replace(desk.chunks, max_tokens=128, target_tokens=100)


def state_of_another_parser(desk) -> None:
    for name in ("a.md", "b.md", "c.md"):
        desk.write(name, "the same text")
    desk.write("alone.md", "A note.")
    desk.ingest()
    with desk.db.write() as db:
        db.run("UPDATE project_files SET parser = 'text 0' WHERE filename IN ('b.md', 'alone.md')")


def state_of_edits(desk) -> None:
    for number in range(3):
        desk.write(f"{number}.md", f"Text {number}.")
        desk.write(f"copy-of-{number}.md", f"Text {number}.")
    desk.ingest()
    desk.write("0.md", "Text 1.")
    desk.write("1.md", "Text 0.")
    desk.write("2.md", "Something new.")
    desk.write("copy-of-1.md", "Something new.")


def state_of_names_that_went(desk) -> dict[str, Any]:
    for name in ("a.md", "b.md"):
        desk.write(name, "the same text")
    for number in range(4):
        desk.write(f"{number}.md", f"Text {number}.")
    desk.ingest()
    (desk.folder / "0.md").rename(desk.folder / "renamed.md")
    shutil.copyfile(desk.folder / "renamed.md", desk.folder / "renamed and copied.md")
    (desk.folder / "1.md").unlink()
    (desk.folder / "a.md").unlink()
    (desk.folder / "2.md").rename(desk.folder / "renamed and edited.md").write_text("Text 3.")
    return {"prune": True, "force": True}


def state_of_too_many_names_that_went(desk) -> dict[str, Any]:
    """A fifth of the files may go: those that come count, too."""
    for number in range(9):
        desk.write(f"{number}.md", f"Text {number}.")
    desk.ingest()
    for number in range(2):
        (desk.folder / f"{number}.md").unlink()
    desk.write("new.md", "New.")
    return {"prune": True}


def state_of_failures(desk) -> None:
    for name in ("a.pdf", "b.pdf"):
        desk.write(name, "no PDF at all")
    desk.ingest()
    desk.write("c.pdf", "no PDF at all")


def state_of_failures_that_are_over(desk) -> None:
    desk.parse = {"max_chunks_per_file": 3}
    for name in ("a.md", "b.md"):
        desk.write(name, LONG * 5)
    desk.write("edited.md", "It was short.")
    desk.write("z.md", "It was short.")
    desk.ingest()
    desk.write("edited.md", LONG * 4)
    assert desk.ingest().failed == 1
    desk.write("c.md", LONG * 5)
    desk.write("edited.md", "It was short.")
    desk.parse = {}
    desk.chunks = replace(desk.chunks, max_tokens=128, target_tokens=100)


def state_of_files_that_cannot_be_read(desk) -> dict[str, Any]:
    scan = ScanOptions(max_file_bytes=40)
    desk.write("large.md", LONG)
    desk.write("small.md", "A note.")
    assert desk.ingest(scan=scan).failed == 1
    desk.write("large too.md", LONG)
    desk.write("small.md", LONG)
    return {"scan": scan}


def state_of_files_that_are_no_text_any_more(desk) -> None:
    for name in ("a.md", "b.md"):
        desk.write(name, "the same text")
    desk.write("c.md", "A note.")
    desk.ingest()
    for name in ("a.md", "c.md"):
        desk.write(name, "").write_bytes(PNG)
    desk.write("d.md", "A note.")


def state_of_attachments(desk) -> None:
    mail = EmailMessage()
    mail["From"], mail["Subject"], mail["Message-ID"] = "a@b.example", "boats", "<1@b.example>"
    mail.set_content("see below")
    mail.add_attachment(b"The okapi is attached.", maintype="text", subtype="plain", filename="note.txt")
    desk.write("m.eml", mail.as_string())
    desk.ingest()
    with desk.db.write() as db:
        db.run("UPDATE project_files SET parser = 'text 0' WHERE filename = 'note.txt'")
    desk.write("note.txt", "The okapi is attached.")


STATES: tuple[State, ...] = tuple(act for name, act in list(globals().items()) if name.startswith("state_of_"))


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__.removeprefix("state_of_"))
def test_a_dry_run_counts_what_the_next_run_does(desk, state: State) -> None:
    options = state(desk) or {}
    before = _rows(desk)
    foretold = desk.ingest(dry_run=True, **options)
    assert _rows(desk) == before
    done = desk.ingest(**options)
    assert {name: getattr(foretold, name) for name in COUNTS} == {name: getattr(done, name) for name in COUNTS}


def _rows(desk) -> list[tuple[Any, ...]]:
    with desk.db.read() as db:
        return db.all("SELECT * FROM project_files ORDER BY pk")
