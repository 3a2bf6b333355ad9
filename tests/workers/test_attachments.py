"""Files within files: a mail's attachments are read, found, shared and deleted with it."""

from __future__ import annotations

import shutil
from email.message import EmailMessage
from pathlib import Path

from storage import files, text_index
from storage.files import File, Status
from storage.sources import Source
from storage.verify import verify
from workers.scan import ScanOptions

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def mail(subject: str, **attached: bytes | str) -> bytes:
    """A mail with some attachments; `_` in a name stands for a dot."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ada@varnholm.example", "bo@varnholm.example", subject
    message["Message-ID"] = f"<{subject.replace(' ', '-')}@varnholm.example>"
    message.set_content(f"Please read what is attached. This is about {subject}.")
    for name, content in attached.items():
        data = content.encode() if isinstance(content, str) else content
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name.replace("_", "."))
    return message.as_bytes()


def put(desk, name: str, content: bytes) -> Path:
    path = desk.folder / name
    path.write_bytes(content)
    return path


def names(desk) -> dict[str, Status]:
    with desk.db.read() as db:
        return {file.path.removeprefix(f"{desk.folder.resolve()}/"): file.status for file in _all(db, desk)}


def _all(db, desk) -> list[File]:
    return list(files.every(db, desk.project))


def found(desk, word: str) -> list[str]:
    with desk.db.read() as db:
        hits = text_index.search(db, Source.FILE, word, project_pk=desk.project, limit=20)
        sql = "SELECT f.path FROM file_chunks c JOIN project_files f ON f.pk = c.file_id WHERE c.pk = :pk"
        paths = [db.value(sql, pk=pk) for pk, _ in hits]
    return sorted(path.removeprefix(f"{desk.folder.resolve()}/") for path in paths)


def test_attachments_are_files_whose_parent_is_the_mail(desk) -> None:
    inner = mail("an inner matter", deep_txt="A walrus lies deep down.")
    put(desk, "m.eml", mail("boats", note_txt="The okapi is attached.", logo_png=PNG, sent_eml=inner))
    report = desk.ingest()
    assert (report.discovered, report.ingested, report.failed, report.attachments) == (1, 1, 0, 3)
    assert names(desk) == dict.fromkeys(
        ("m.eml", "m.eml/note.txt", "m.eml/sent.eml", "m.eml/sent.eml/deep.txt"), Status.READY
    )
    assert found(desk, "okapi") == ["m.eml/note.txt"]
    assert found(desk, "walrus") == ["m.eml/sent.eml/deep.txt"]
    with desk.db.read() as db:
        assert files.parent(db, desk.file("deep.txt")).filename == "sent.eml"
    assert desk.file("m.eml").metadata["attachments_skipped"] == [{"name": "logo.png", "reason": "image"}]
    assert verify(desk.db, deep=True) == []
    again = desk.ingest(prune=True)
    assert (again.unchanged, again.attachments, again.chunks, again.removed) == (1, 0, 0, 0)


def test_an_attachment_shares_the_passages_of_an_equal_file(desk) -> None:
    desk.write("report.txt", "The okapi is back.")
    put(desk, "a.eml", mail("a", report_txt="The okapi is back."))
    put(desk, "b.eml", mail("b", again_txt="The okapi is back."))
    assert desk.ingest().attachments == 2
    assert len(found(desk, "okapi")) == 1
    (desk.folder / "report.txt").unlink()
    (desk.folder / "a.eml").unlink()
    desk.ingest(prune=True, force=True)
    assert found(desk, "okapi") == ["b.eml/again.txt"]
    assert verify(desk.db, deep=True) == []


def test_an_edited_mail_keeps_what_it_still_holds_and_drops_the_rest(desk) -> None:
    put(desk, "m.eml", mail("boats", kept_txt="The okapi stays.", dropped_txt="The walrus goes."))
    desk.ingest()
    kept = desk.file("kept.txt")
    put(desk, "m.eml", mail("boats and more", kept_txt="The okapi stays.", new_txt="The heron comes."))
    assert desk.ingest().attachments == 1
    assert desk.file("kept.txt").id == kept.id
    assert (found(desk, "walrus"), found(desk, "heron")) == ([], ["m.eml/new.txt"])
    assert verify(desk.db, deep=True) == []


def test_what_lies_in_a_mail_goes_with_it(desk) -> None:
    put(desk, "m.eml", mail("boats", sent_eml=mail("inner", deep_txt="A walrus.")))
    desk.write("stays.txt", "words")
    desk.ingest()
    (desk.folder / "m.eml").unlink()
    assert desk.ingest(prune=True, force=True).removed == 1
    assert names(desk) == {"stays.txt": Status.READY}
    assert verify(desk.db, deep=True) == []


def test_of_two_equal_mails_the_other_takes_the_attachments_over(desk) -> None:
    put(desk, "1.eml", mail("boats", note_txt="The okapi."))
    shutil.copyfile(desk.folder / "1.eml", desk.folder / "2.eml")
    assert desk.ingest().attachments == 1
    id = desk.file("note.txt").id
    (desk.folder / "1.eml").unlink()
    desk.ingest(prune=True, force=True)
    assert names(desk) == dict.fromkeys(("2.eml", "2.eml/note.txt"), Status.READY)
    assert desk.file("note.txt").id == id
    assert verify(desk.db, deep=True) == []


def test_a_mail_that_also_lay_in_one_that_is_gone_keeps_its_attachments(desk) -> None:
    inner = mail("an inner matter", deep_txt="A walrus lies deep down.")
    put(desk, "outer.eml", mail("boats", one_eml=inner, two_eml=inner))
    desk.ingest()
    put(desk, "single.eml", inner)
    assert desk.ingest().duplicates == 1
    (desk.folder / "outer.eml").unlink()
    desk.ingest(prune=True, force=True)
    assert names(desk) == dict.fromkeys(("single.eml", "single.eml/deep.txt"), Status.READY)
    assert found(desk, "walrus") == ["single.eml/deep.txt"]
    assert verify(desk.db, deep=True) == []


def test_a_mail_that_becomes_what_lay_deep_in_it_takes_it_from_no_other(desk) -> None:
    deep = "A walrus lies deep down."
    inner = mail("an inner matter", deep_txt=deep, other_txt="The okapi.")
    put(desk, "outer.eml", mail("boats", one_eml=inner))
    desk.ingest()
    put(desk, "single.eml", inner)
    assert desk.ingest().duplicates == 1
    put(desk, "outer.eml", deep.encode())
    desk.ingest()
    left = ("outer.eml", "single.eml", "single.eml/deep.txt", "single.eml/other.txt")
    assert names(desk) == dict.fromkeys(left, Status.READY)
    assert found(desk, "walrus") == ["outer.eml"]
    assert verify(desk.db, deep=True) == []
    (desk.folder / "outer.eml").unlink()
    desk.ingest(prune=True, force=True)
    assert found(desk, "walrus") == ["single.eml/deep.txt"]
    assert verify(desk.db, deep=True) == []


def test_a_moved_mail_takes_its_attachments_along(desk) -> None:
    put(desk, "m.eml", mail("boats", note_txt="The okapi."))
    desk.ingest()
    id = desk.file("note.txt").id
    (desk.folder / "m.eml").rename(desk.folder / "renamed.eml")
    report = desk.ingest(prune=True)
    assert (report.moved, report.removed, report.chunks) == (1, 0, 0)
    assert names(desk) == dict.fromkeys(("renamed.eml", "renamed.eml/note.txt"), Status.READY)
    assert desk.file("note.txt").id == id


def test_a_broken_attachment_fails_alone_and_is_named(desk) -> None:
    put(desk, "m.eml", mail("boats", bad_pdf=b"%PDF-1.7 cut off", good_txt="The okapi."))
    report = desk.ingest()
    assert (report.ingested, report.failed, report.attachments, report.attachments_failed) == (1, 0, 1, 1)
    [failure] = report.failures
    assert failure.path.endswith("m.eml/bad.pdf")
    assert "corrupt" in failure.error
    again = desk.ingest()
    assert (again.attachments_failed, again.failures) == (0, ())


def test_an_attachment_whose_mail_was_away_is_read_once_the_mail_is_back(desk) -> None:
    put(desk, "m.eml", mail("boats", note_txt="The okapi is attached."))
    desk.ingest()
    with desk.db.write() as db:  # what is recorded where its turn comes while the mail is away
        files.mark_unreadable(db, desk.file("note.txt").pk, code="unreadable", message="no longer there")
    report = desk.ingest()
    assert (report.unchanged, report.attachments, report.attachments_failed) == (1, 1, 0)
    assert found(desk, "okapi") == ["m.eml/note.txt"]


def test_a_locked_attachment_opens_once_its_password_is_given(desk, sample_data: Path) -> None:
    locked = (sample_data / "bad" / "encrypted.pdf").read_bytes()
    put(desk, "m.eml", mail("boats", locked_pdf=locked))
    assert desk.ingest().attachments_failed == 1
    desk.parse = {"passwords": ("heron-42",)}
    assert desk.ingest(scan=ScanOptions(retry_encrypted=True)).attachments == 1


def test_attachments_are_read_anew_when_what_reads_them_changed(desk) -> None:
    put(desk, "m.eml", mail("boats", note_txt="The okapi. " * 200))
    desk.ingest()
    with desk.db.write() as db:
        db.run("UPDATE project_files SET parser = 'text 0' WHERE filename = 'note.txt'")
    assert desk.ingest(dry_run=True).attachments == 0
    report = desk.ingest()
    assert (report.unchanged, report.attachments) == (1, 1)
    assert desk.ingest().attachments == 0


def test_names_of_attachments_are_never_paths(desk) -> None:
    message = EmailMessage()
    message["From"], message["Subject"], message["Message-ID"] = "a@b.example", "odd names", "<1@b.example>"
    message.set_content("see below")
    for name in ("../../etc/passwd.txt", "C:\\temp\\x.txt", "x.txt", "x.txt", "", "a\0b.txt", "n" * 300 + ".txt"):
        message.add_attachment(
            f"{len(name)} {name!r}".encode(), maintype="text", subtype="plain", filename=name or None
        )
    put(desk, "m.eml", message.as_bytes())
    desk.ingest()
    inner = [path.removeprefix("m.eml/") for path in names(desk) if path != "m.eml"]
    assert len(inner) == 7
    assert all("/" not in name and "\\" not in name and name.isprintable() and len(name) <= 130 for name in inner)
    assert {"passwd.txt", "x.txt", "x (2).txt", "x (3).txt"} <= set(inner)
    assert verify(desk.db, deep=True) == []


def test_what_lies_within_files_does_not_make_a_loss_look_small(desk) -> None:
    for number in (1, 2):
        put(desk, f"{number}.eml", mail(f"{number}", **{f"{part}_txt": f"words {number} {part}" for part in range(6)}))
    assert desk.ingest().attachments == 12
    for number in (1, 2):
        (desk.folder / f"{number}.eml").unlink()
    assert desk.ingest(prune=True).removed == 0
    assert desk.count("project_files") == 14
    assert desk.ingest(prune=True, force=True).removed == 2
    assert desk.count("project_files") == 0


def test_attachments_beyond_the_limit_are_told(desk) -> None:
    box = b"".join(
        b"From a@x.example Mon Mar  2 09:30:00 2026\n" + mail(f"{number}", **{f"{part}_png": PNG for part in range(51)})
        for number in range(4)
    )
    put(desk, "all.mbox", box)
    assert desk.ingest().attachments_left_out == 4
    assert desk.file("all.mbox").metadata["attachments_left_out"] == 4
    assert desk.ingest().attachments_left_out == 0
