"""What a project knows of its files: status, dedupe, edits, deletions."""

from __future__ import annotations

import hashlib

import pytest

from storage import chunks, files, parts
from storage.errors import LeaseLostError, NotFoundError, UsageError
from storage.files import Registered, Seen, Status, Versions
from storage.fingerprint import Fingerprint
from storage.verify import verify


def test_a_new_file_is_queued_and_becomes_ready(shelf) -> None:
    assert shelf.find("a", "red green") is Registered.QUEUED
    assert shelf.file("a").status is Status.PENDING
    shelf.commit(shelf.claim()[0], "red green")
    file = shelf.file("a")
    assert (file.status, file.chunk_count, file.error_message) == (Status.READY, 2, None)
    assert shelf.found("green") == ["a"]
    assert shelf.find("a", "red green") is Registered.UNCHANGED


def test_equal_files_share_one_set_of_chunks(shelf) -> None:
    shelf.add("a", "red green")
    assert shelf.find("b", "red green") is Registered.DUPLICATE
    twin = shelf.file("b")
    assert (twin.status, twin.duplicate_of, twin.chunk_count) == (Status.READY, shelf.file("a").pk, 2)
    assert shelf.count("file_chunks") == 2
    assert shelf.claim() == []


def test_a_duplicate_of_a_queued_file_waits_and_flips_with_it(shelf) -> None:
    shelf.find("a", "red")
    assert shelf.find("b", "red") is Registered.DUPLICATE
    assert shelf.file("b").status is Status.PENDING
    claims = shelf.claim()
    assert [claim.filename for claim in claims] == ["a"]
    shelf.commit(claims[0], "red")
    assert shelf.file("b").status is Status.READY
    assert shelf.file("b").duplicate_of == shelf.file("a").pk


def test_deleting_the_owner_hands_its_chunks_to_the_next_name(shelf) -> None:
    shelf.add("a", "red green")
    shelf.find("b", "red green")
    shelf.find("c", "red green")
    ids = [chunk.id for chunk in _chunks(shelf, "a")]
    shelf.delete("a")
    assert shelf.found("red") == ["b"]
    assert [chunk.id for chunk in _chunks(shelf, "b")] == ids
    assert shelf.file("c").duplicate_of == shelf.file("b").pk
    shelf.delete("b")
    shelf.delete("c")
    assert [shelf.count(t) for t in ("file_chunks", "vector_bits", "embeddings", "chunk_fts_docsize")] == [0, 0, 0, 0]


def test_editing_the_owner_leaves_the_old_text_with_its_other_names(shelf) -> None:
    shelf.add("a", "red")
    shelf.find("b", "red")
    shelf.add("a", "blue")
    assert shelf.found("red") == ["b"]
    assert shelf.found("blue") == ["a"]
    assert shelf.file("b").duplicate_of is None
    assert verify(shelf.db) == []


def test_of_names_that_wait_for_one_file_one_may_lie_in_another_that_lets_it_go(shelf) -> None:
    shelf.find("a", "red")
    (first,) = shelf.claim()
    shelf.add("box", "blue")
    with shelf.db.write() as db:
        inner = Seen(parts.path_in(b"/box", "inner"), Fingerprint(3, 0, 0, 0), sha256("red"))
        files.replace_within(db, shelf.file("box"), [inner], shelf.versions)
    assert shelf.find("box", "red") is Registered.DUPLICATE
    shelf.commit(first, "red")
    with shelf.db.read() as db:
        served = {file.filename: file.status for file in files.every(db, shelf.project)}
    assert served == {"a": Status.READY, "box": Status.READY}
    assert (shelf.found("red"), shelf.found("blue")) == (["a"], [])
    assert verify(shelf.db) == []


def test_a_file_that_becomes_what_lies_twice_in_it_is_read_for_both(shelf) -> None:
    shelf.add("box", "blue")
    with shelf.db.write() as db:
        inner = [Seen(parts.path_in(b"/box", name), Fingerprint(3, 0, 0, 0), sha256("red")) for name in ("one", "two")]
        files.replace_within(db, shelf.file("box"), inner, shelf.versions)
    assert shelf.find("other", "red") is Registered.DUPLICATE
    assert shelf.find("box", "red") is Registered.QUEUED
    (job,) = shelf.claim()
    assert shelf.file("other").waiting_for == shelf.file("box").pk
    shelf.commit(job, "red")
    with shelf.db.write() as db:
        files.replace_within(db, shelf.file("box"), [], shelf.versions)
        served = {file.filename: file.status for file in files.every(db, shelf.project)}
    assert served == {"box": Status.READY, "other": Status.READY}
    assert verify(shelf.db) == []


def test_a_failed_file_that_goes_with_another_that_is_tried_again_is_not_missed(shelf) -> None:
    shelf.add("a", "red")
    shelf.add("box", "blue")
    with shelf.db.write() as db:
        inner = Seen(parts.path_in(b"/box", "inner"), Fingerprint(5, 0, 0, 0), sha256("green"))
        files.replace_within(db, shelf.file("box"), [inner], shelf.versions)
    _fail(shelf, shelf.claim()[0])
    shelf.delete("a")
    shelf.find("box", "red")
    _fail(shelf, shelf.claim()[0])
    shelf.add("a", "red")
    with shelf.db.write() as db:
        assert files.retry_failed(db, shelf.project, shelf.versions) == 1
        assert {file.filename for file in files.every(db, shelf.project)} == {"a", "box"}
    assert verify(shelf.db) == []


def test_an_edited_file_keeps_its_old_text_until_the_new_one_commits(shelf) -> None:
    shelf.add("a", "red")
    assert shelf.find("a", "blue") is Registered.QUEUED
    assert shelf.found("red") == ["a"]
    assert shelf.file("a").chunk_count == 1
    shelf.commit(shelf.claim()[0], "blue")
    assert (shelf.found("red"), shelf.found("blue")) == ([], ["a"])


def test_a_copy_of_what_a_failed_file_was_before_is_read_by_today_s_versions(shelf) -> None:
    shelf.add("a", "red")
    shelf.find("a", "blue")
    _fail(shelf, shelf.claim()[0])
    assert shelf.find("b", "red") is Registered.QUEUED
    assert shelf.found("red") == ["b"]
    shelf.commit(shelf.claim()[0], "red")
    assert shelf.find("b", "red") is Registered.UNCHANGED
    assert (shelf.file("a").duplicate_of, shelf.file("a").status) == (shelf.file("b").pk, Status.FAILED)
    assert verify(shelf.db) == []


def test_a_name_served_by_a_failed_owner_is_read_anew_when_the_versions_change(shelf) -> None:
    shelf.add("a", "red")
    shelf.find("b", "red")
    shelf.find("a", "blue")
    _fail(shelf, shelf.claim()[0])
    shelf.versions = Versions("v2", frozenset({"text 1"}))
    assert shelf.find("b", "red") is Registered.QUEUED
    shelf.commit(shelf.claim()[0], "red")
    assert verify(shelf.db) == []


def test_a_failed_edit_keeps_the_old_text_and_says_why(shelf) -> None:
    shelf.add("a", "red")
    shelf.find("a", "blue")
    _fail(shelf, shelf.claim()[0])
    file = shelf.file("a")
    assert (file.status, file.error_message) == (Status.FAILED, "corrupt: mend it")
    assert shelf.found("red") == ["a"]
    assert shelf.find("a", "red") is Registered.QUEUED
    shelf.commit(shelf.claim()[0], "red")
    assert shelf.file("a").status is Status.READY


def test_unchanged_passages_of_an_edited_file_keep_their_ids_and_are_not_written(shelf) -> None:
    shelf.add("a", "red green blue")
    before = {chunk.content: chunk.id for chunk in _chunks(shelf, "a")}
    shelf.find("a", "blue yellow red")
    assert shelf.commit(shelf.claim()[0], "blue yellow red") == 1
    after = _chunks(shelf, "a")
    assert [(c.chunk_index, c.content) for c in after] == [(0, "blue"), (1, "yellow"), (2, "red")]
    assert {c.content: c.id for c in after if c.content != "yellow"} == {k: before[k] for k in ("blue", "red")}
    assert verify(shelf.db, deep=True) == []


def test_a_failed_file_never_blocks_a_later_equal_one(shelf) -> None:
    shelf.find("a", "red")
    _fail(shelf, shelf.claim()[0])
    assert shelf.find("b", "red") is Registered.QUEUED
    shelf.commit(shelf.claim()[0], "red")
    assert shelf.file("b").status is Status.READY
    assert shelf.file("a").status is Status.FAILED


def test_names_that_wait_fail_with_the_bytes_they_share(shelf) -> None:
    shelf.find("a", "red")
    shelf.find("b", "red")
    _fail(shelf, shelf.claim()[0])
    assert shelf.file("b").status is Status.FAILED
    assert shelf.file("b").error_message == "corrupt: mend it"


def test_names_that_wait_go_on_when_only_the_first_path_is_gone(shelf) -> None:
    for name in "abc":
        shelf.find(name, "red")
    claim = shelf.claim()[0]
    with shelf.db.write() as db:
        files.mark_unreadable(db, claim.pk, code="unreadable", message="gone")
    claims = shelf.claim()
    assert [c.filename for c in claims] == ["b"]
    shelf.commit(claims[0], "red")
    assert [shelf.file(n).status for n in "abc"] == [Status.FAILED, Status.READY, Status.READY]


def _empty(shelf) -> None:
    [claim] = shelf.claim()
    with shelf.db.write() as db:
        files.mark_empty(db, claim.pk, code="empty", message="empty: add text", versions=shelf.versions)


def test_what_was_emptied_is_found_no_more_and_other_names_of_the_old_text_keep_it(shelf) -> None:
    shelf.add("a", "red")
    for name in "bc":
        shelf.find(name, "red")
    for name in "ab":
        shelf.find(name, "")
    _empty(shelf)
    assert shelf.found("red") == ["c"]
    assert [shelf.file(name).status for name in "abc"] == [Status.FAILED, Status.FAILED, Status.READY]
    assert [shelf.file(name).indexed_hash for name in "abc"] == [None, None, sha256("red")]
    assert verify(shelf.db, deep=True) == []
    shelf.find("c", "")
    _empty(shelf)
    assert shelf.found("red") == []
    assert shelf.count("file_chunks") == 0
    assert verify(shelf.db, deep=True) == []


def test_what_could_not_be_read_and_then_holds_no_text_is_found_no_more(shelf) -> None:
    shelf.add("a", "red")
    with shelf.db.write() as db:
        files.mark_unreadable(db, shelf.file("a").pk, code="unreadable", message="may not be read")
    assert shelf.found("red") == ["a"]
    with shelf.db.write() as db:
        files.retry_failed(db, shelf.project, shelf.versions)
    _empty(shelf)
    assert (shelf.found("red"), shelf.file("a").indexed_hash) == ([], None)
    assert verify(shelf.db, deep=True) == []


def test_what_lay_in_an_emptied_file_goes_with_its_text(shelf) -> None:
    shelf.add("box", "blue")
    with shelf.db.write() as db:
        inner = Seen(parts.path_in(b"/box", "inner"), Fingerprint(0, 0, 0, 0), sha256(""))
        files.replace_within(db, shelf.file("box"), [inner], shelf.versions)
    shelf.find("box", "")  # equal to what it held: one waits for the other
    _empty(shelf)
    with shelf.db.read() as db:
        assert [file.filename for file in files.every(db, shelf.project)] == ["box"]
    assert shelf.found("blue") == []
    assert verify(shelf.db, deep=True) == []


def test_chunks_added_to_a_file_outlive_its_text(shelf) -> None:
    shelf.add("a", "red blue")
    with shelf.db.write() as db:
        chunks.add(db, shelf.file("a").pk, shelf.model, shelf.words("green")[0])
    shelf.find("a", "")
    _empty(shelf)
    assert (shelf.found("red"), shelf.found("green"), shelf.file("a").chunk_count) == ([], ["a"], 1)
    assert verify(shelf.db, deep=True) == []
    shelf.add("a", "red blue")
    assert (shelf.found("red"), shelf.found("green"), shelf.file("a").chunk_count) == (["a"], ["a"], 3)
    assert verify(shelf.db, deep=True) == []


def test_a_reader_that_finds_no_text_in_the_same_bytes_takes_none_away(shelf) -> None:
    shelf.add("a", "red")
    shelf.versions = Versions("v2", frozenset({"text 1"}))
    shelf.find("a", "red")
    _empty(shelf)
    assert shelf.found("red") == ["a"]
    assert verify(shelf.db, deep=True) == []


def test_a_failed_file_is_unchanged_until_its_bytes_or_the_readers_change(shelf) -> None:
    shelf.find("a", "red")
    _fail(shelf, shelf.claim()[0])
    assert shelf.find("a", "red") is Registered.UNCHANGED
    assert shelf.find("a", "red", retry=True) is Registered.QUEUED
    _fail(shelf, shelf.claim()[0])
    shelf.versions = Versions("v1", frozenset({"text 2"}))
    assert shelf.find("a", "red") is Registered.QUEUED


def test_changed_settings_queue_one_of_the_names_and_serve_all(shelf) -> None:
    shelf.add("a", "red")
    shelf.find("b", "red")
    shelf.versions = Versions("v2", frozenset({"text 1"}))
    assert shelf.find("b", "red") is Registered.QUEUED
    assert shelf.find("a", "red") is Registered.UNCHANGED
    assert shelf.found("red") == ["b"]
    shelf.commit(shelf.claim()[0], "red")
    assert {shelf.file(n).settings_fingerprint for n in "ab"} == {"v2"}
    assert verify(shelf.db) == []


def test_an_edit_is_not_lost_when_the_owner_of_the_old_text_is_made_anew(shelf) -> None:
    shelf.add("a", "red")
    shelf.find("b", "red")
    shelf.versions = Versions("v2", frozenset({"text 1"}))
    shelf.find("a", "red")
    shelf.find("b", "blue yellow")
    first, second = shelf.claim()
    shelf.commit(first, "red")
    assert (shelf.file("b").status, shelf.found("red")) == (Status.PROCESSING, ["a"])
    shelf.commit(second, "blue yellow")
    assert shelf.found("yellow") == ["b"]
    assert verify(shelf.db, deep=True) == []


def test_time_stamps_as_young_as_the_scan_are_not_believed(shelf) -> None:
    seen = Fingerprint(3, 1, 1, 1)
    shelf.find("a", "red", scanned_ns=2)
    shelf.commit(shelf.claim()[0], "red")
    with shelf.db.read() as db:
        assert not files.known(db, shelf.project)[b"/a"].settled(seen, shelf.versions)
    shelf.find("a", "red", scanned_ns=10**18)
    with shelf.db.read() as db:
        assert files.known(db, shelf.project)[b"/a"].settled(seen, shelf.versions)


@pytest.mark.parametrize(("hashed_after_s", "is_settled"), [(0.3, False), (1.3, False), (2.05, False), (2.2, True)])
def test_a_second_save_within_a_step_of_a_coarse_clock_is_noticed(
    shelf, hashed_after_s: float, is_settled: bool
) -> None:
    written_ns = 1_790_000_000 * 10**9  # as FAT keeps it: in steps of 2 s
    look = Fingerprint(3, written_ns, written_ns, 7)
    seen = Seen(b"/a", look, hashlib.sha256(b"red").hexdigest())
    for _ in range(2):  # as a new row and as one that is there
        with shelf.db.write() as db:
            scanned_ns = written_ns + int(hashed_after_s * 10**9)
            pk, _ = files.register(db, shelf.project, seen, shelf.versions, scanned_ns=scanned_ns)
            files.mark_failed(db, pk, code="empty", message="empty", versions=shelf.versions)
        with shelf.db.read() as db:
            assert files.known(db, shelf.project)[b"/a"].settled(look, shelf.versions) is is_settled
            assert files.get(db, pk).mtime_ns == written_ns, "searches ask when it was written"


def test_a_file_edited_while_it_is_processed_is_taken_from_its_worker(shelf) -> None:
    shelf.find("a", "red")
    claim = shelf.claim()[0]
    shelf.find("a", "blue")
    with pytest.raises(LeaseLostError):
        shelf.commit(claim, "red")
    assert shelf.found("red") == []


def test_a_file_deleted_while_it_is_processed_stays_deleted(shelf) -> None:
    shelf.find("a", "red")
    claim = shelf.claim()[0]
    shelf.delete("a")
    with pytest.raises(LeaseLostError):
        shelf.commit(claim, "red")
    assert shelf.count("project_files") == 0


def test_an_unreadable_file_is_news_once(shelf) -> None:
    for news in (True, False):
        with shelf.db.write() as db:
            _, said = files.record_unreadable(
                db, shelf.project, b"/a", Fingerprint(1, 1, 1, 1), code="unreadable", message="no right"
            )
        assert said is news
    assert shelf.file("a").error_message == "no right"


def test_a_name_need_not_be_utf8(shelf) -> None:
    path = b"/caf\xe9.txt"
    with shelf.db.write() as db:
        files.record_unreadable(db, shelf.project, path, Fingerprint(1, 1, 1, 1), code="x", message="m")
        file = files.by_path(db, shelf.project, path)
    assert file is not None
    assert file.path_bytes == path
    assert file.filename == "caf\\udce9.txt"


def test_retry_queues_every_failed_file(shelf) -> None:
    shelf.find("a", "red")
    shelf.find("b", "blue")
    for claim in shelf.claim():
        _fail(shelf, claim)
    with shelf.db.write() as db:
        assert files.retry_failed(db, shelf.project, shelf.versions) == 2
        assert files.counts(db, shelf.project)["pending"] == 2


def test_unknown_files_are_named(shelf) -> None:
    with shelf.db.read() as db:
        with pytest.raises(NotFoundError, match="no-such-id"):
            files.by_id(db, "no-such-id")
        with pytest.raises(NotFoundError):
            files.get(db, 99)


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _chunks(shelf, name: str) -> list[chunks.Chunk]:
    with shelf.db.read() as db:
        return chunks.of_file(db, shelf.file(name).pk)


def _fail(shelf, claim) -> None:
    with shelf.db.write() as db:
        files.mark_failed(db, claim.pk, code="corrupt", message="corrupt: mend it", versions=shelf.versions)


def test_a_list_is_paged_in_the_order_of_arrival_whatever_the_status(shelf) -> None:
    for name in "abcde":
        shelf.find(name, f"red {name}")
    [claim, other] = shelf.claim(limit=2)
    _fail(shelf, claim)
    shelf.commit(other, "red b")

    def pages(status: Status | None) -> list[list[str]]:
        with shelf.db.read() as db:
            page = files.listed(db, shelf.project, status=status, limit=2)
            found = [page]
            while page.next is not None:
                page = files.listed(db, shelf.project, status=status, limit=2, after=page.next)
                found.append(page)
        return [[file.filename for file in page.items] for page in found]

    assert pages(None) == [["a", "b"], ["c", "d"], ["e"]]
    assert pages(Status.PENDING) == [["c", "d"], ["e"]]
    assert pages(Status.FAILED) == [["a"]]
    assert pages(Status.PROCESSING) == [[]]
    with shelf.db.read() as db:
        assert [file.filename for file in files.every(db, shelf.project)] == list("abcde")
        assert files.counts(db) == files.counts(db, shelf.project)
        with pytest.raises(UsageError, match="limit 0"):
            files.listed(db, shelf.project, limit=0)
        with pytest.raises(UsageError, match="no cursor"):
            files.listed(db, shelf.project, after="x")
