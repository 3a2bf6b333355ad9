"""`stats` and `health`, and what a search leaves behind: counts, never words."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from knowlex import Knowlex
from storage import files, growth, health, projects, queue, usage
from storage.files import Seen, Versions
from storage.fingerprint import Fingerprint
from storage.growth import Sample
from storage.ids import now_ms
from workers import owner

Call = Any

HOLDER = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Another process holds the write lock during the block; gives its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder.pid


def queued(kb: Knowlex, name: str = "a") -> None:
    """Put a file into the queue of project "p", as a scan does."""
    with kb.database.write() as db:
        pk = projects.ensure(db, "p").pk
        seen = Seen(f"/{name}".encode(), Fingerprint(1, 1, 1, 1), name * 64, "text/plain")
        files.register(db, pk, seen, Versions("v1", frozenset({"text 1"})), scanned_ns=10**18)


def searched(kb: Knowlex) -> list[int]:
    return [day.searches for day in kb.usage().items]


# --- searches


def test_a_search_is_counted_by_day_project_and_mode(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        for name in "pq":
            kb.projects.create(name)
            kb.memories.add(name, "Refunds", "Within 30 days.")
        kb.search("p", "refunds", mode="text", sources="memories")
        kb.search("p", "pizza", mode="text", sources="memories")
        kb.memories.search("q", "refunds", mode="text")
        [day] = kb.usage().items
        assert (day.day, day.searches, day.text, day.hybrid, day.empty) == (usage.today(), 3, 3, 0, 1)
        assert [(item.project, item.searches, item.empty) for item in kb.usage_by_project().items] == [
            ("p", 2, 1),
            ("q", 1, 0),
        ]
        assert [item.searches for item in kb.usage("q").items] == [1]


def test_a_refused_search_is_not_counted(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        with pytest.raises(ValueError, match="blank"):
            kb.search("p", " ", mode="text")
        assert searched(kb) == []


def test_what_one_process_counted_is_there_for_the_next(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        with Knowlex(tmp_path / "a.db") as kb:
            kb.projects.create("p") if count == 1 else None
            kb.search("p", "refunds", mode="text")
            assert searched(kb) == [count]


def test_counting_can_be_switched_off(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db", usage_counts=False) as kb:
        kb.projects.create("p")
        kb.search("p", "refunds", mode="text")
        assert searched(kb) == []


def test_no_word_of_a_question_is_kept(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db", slow_query_ms=0) as kb:
        kb.projects.create("p")
        kb.search("p", "xylophonist", mode="text")
        assert [slow.project for slow in kb.slow_queries().items] == ["p"]
        assert searched(kb) == [1]
        database, log = (tmp_path / name for name in ("a.db", "a.db-wal"))
        assert log.exists()
    for file in [database, *tmp_path.iterdir()]:
        assert b"xylophonist" not in file.read_bytes().lower()


def test_a_search_is_answered_while_another_process_holds_the_write_lock(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db", slow_query_ms=0) as kb:
        kb.projects.create("p")
        kb.memories.add("p", "Refunds", "Within 30 days.")
        with locked(kb.path):
            assert [hit.source for hit in kb.search("p", "refunds", mode="text", sources="memories")] == ["memory"]
            assert (searched(kb), kb.slow_queries().items) == ([], [])
        assert searched(kb) == [1]
        assert len(kb.slow_queries().items) == 1
        with kb.database.write() as db:
            assert db.value("PRAGMA busy_timeout") == 30_000


def test_what_could_not_be_written_at_the_end_is_written_later(tmp_path: Path) -> None:
    kb = Knowlex(tmp_path / "a.db")
    kb.projects.create("p")
    kb.search("p", "refunds", mode="text")
    with locked(kb.path):
        kb.close()
    with Knowlex(kb.path) as other:
        assert searched(other) == []
    assert searched(kb) == [1]
    kb.close()


def test_a_database_that_may_only_be_read_is_searched(
    open_folder: Path, as_plain_user: Callable[[], AbstractContextManager[None]]
) -> None:
    path = open_folder / "a.db"
    with Knowlex(path) as kb:
        kb.projects.create("p")
        kb.memories.add("p", "Refunds", "Within 30 days.")
    open_folder.chmod(0o777)
    path.chmod(0o444)
    with as_plain_user(), Knowlex(path, slow_query_ms=0) as kb:
        assert len(kb.search("p", "refunds", mode="text", sources="memories")) == 1
        assert searched(kb) == []


SEARCHER = """
import sys
from knowlex import Knowlex
kb = Knowlex(sys.argv[1], slow_query_ms=1e9)
for _ in range(5):
    kb.search("p", "refunds", mode="text")
while not kb._search_log.empty:
    kb.usage()
kb.close()
"""


def test_searches_of_many_processes_add_up(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        searchers = [subprocess.Popen([sys.executable, "-c", SEARCHER, str(kb.path)]) for _ in range(3)]
        assert [searcher.wait() for searcher in searchers] == [0, 0, 0]
        assert searched(kb) == [15]


FORGETFUL = """
import sys
from knowlex import Knowlex
kb = Knowlex(sys.argv[1])
kb.search("p", "refunds", mode="text")
"""

FORKED = (
    FORGETFUL
    + """
import os, warnings
warnings.simplefilter("ignore")
if child := os.fork():
    os.waitpid(child, 0)
else:
    kb.search("p", "refunds", mode="text")
"""
)


@pytest.mark.parametrize(("script", "searches"), [(FORGETFUL, 1), (FORKED, 2)])
def test_a_script_that_does_not_close_is_counted_once(tmp_path: Path, script: str, searches: int) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        done = subprocess.run([sys.executable, "-c", script, str(kb.path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert searched(kb) == [searches]


def test_an_object_that_is_dropped_is_counted(tmp_path: Path) -> None:
    kb = Knowlex(tmp_path / "a.db")
    kb.projects.create("p")
    kb.search("p", "refunds", mode="text")
    del kb
    gc.collect()
    with Knowlex(tmp_path / "a.db") as other:
        assert searched(other) == [1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_off_does_not_count_again_what_its_parent_did(tmp_path: Path) -> None:
    kb = Knowlex(tmp_path / "a.db")
    kb.projects.create("p")
    kb.search("p", "refunds", mode="text")
    child = os.fork()
    if child == 0:
        kb.search("p", "refunds", mode="text")
        kb.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert searched(kb) == [2]
    kb.close()


# --- stats


def test_stats_lists_what_is_asked_for(knowlex: Call, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knowlex("project", "create", "p")
    monkeypatch.setenv("KNOWLEX_SLOW_QUERY_MS", "0")
    knowlex("search", "p", "secret", "--mode", "text")
    plain = knowlex("stats", "--json").json
    found = knowlex("stats", "--tables", "--slow", "--usage", "--growth", "--json").json
    assert {"tables", "slow", "usage", "growth"} == set(found) - set(plain)
    assert found["slow"]["items"][0] | {"took_ms": 0, "created_at": ""} == {
        "kind": "text",
        "project": "p",
        "took_ms": 0,
        "created_at": "",
    }
    assert found["usage"]["days"]["items"][0]["searches"] == 1
    assert [item["project"] for item in found["usage"]["projects"]["items"]] == ["p"]
    assert found["growth"] == {"samples": {"items": [], "next": None}, "day": None, "week": None, "month": None}
    assert [item["name"] for item in found["tables"]["projects"]] == ["p"]
    assert "project_files" in [table["name"] for table in found["tables"]["sizes"]]
    assert "secret" not in json.dumps(found)


def test_stats_tells_people_what_is_there_before_what_it_takes(knowlex: Call) -> None:
    knowlex("project", "create", "p")
    lines = [line[:17].strip() for line in knowlex("stats").out.splitlines()]
    files = ["files pending", "files processing", "files ready", "files failed"]
    assert lines[:8] == ["database", *files, "passages", "vectors", "model"]
    assert max(map(lines.index, ("messages", "refused vectors"))) < min(map(lines.index, ("database bytes", "pages")))
    assert len(set(lines)) == len(lines) == 20


def test_stats_of_a_project_has_the_searches_of_it_alone(knowlex: Call) -> None:
    for name in "pq":
        knowlex("project", "create", name)
        knowlex("search", name, "refunds", "--mode", "text")
    found = knowlex("stats", "p", "--usage", "--json").json["usage"]
    assert [day["searches"] for day in found["days"]["items"]] == [1]
    assert "projects" not in found


def test_growth_is_shown_day_by_day(knowlex: Call, database: Path) -> None:
    with Knowlex(database) as kb, kb.database.write() as db:
        growth.keep(db, Sample("2026-03-01", 1_000_000, 10, 100, 0, 0, 0, 100))
        growth.keep(db, Sample("2026-03-02", 3_500_000, 12, 90, 0, 0, 0, 90))
    first = knowlex("stats", "--growth", "--limit", "1", "--json").json["growth"]
    assert (first["samples"]["items"][0]["day"], first["day"]["bytes"]) == ("2026-03-02", 2_500_000)
    rest = knowlex("stats", "--growth", "--after", first["samples"]["next"], "--json").json["growth"]["samples"]
    assert ([item["day"] for item in rest["items"]], rest["next"]) == (["2026-03-01"], None)
    shown = knowlex("stats", "--growth").out
    assert "in a day   +2.5 MB, +2 files, -10 passages (since 2026-03-01)" in shown
    with Knowlex(database) as kb, kb.database.write() as db:
        growth.keep(db, Sample("2026-03-02", 1_000_000, 11, 99, 0, 0, 0, 99))
    assert "in a day   +0 B, +1 file, -1 passage (since" in knowlex("stats", "--growth").out


def test_a_page_of_two_lists_is_refused(knowlex: Call) -> None:
    knowlex("project", "create", "p")
    assert knowlex("stats", "--slow", "--growth", "--after", "x").code == 2
    assert knowlex("stats", "--slow", "--after", "x").code == 2


def test_every_list_is_shown_to_people(knowlex: Call) -> None:
    knowlex("project", "create", "p")
    knowlex("search", "p", "refunds", "--mode", "text")
    shown = knowlex("stats", "--tables", "--slow", "--usage", "--growth")
    assert shown.code == 0
    for head in ("free bytes", "SLOW SEARCH", "DAY", "OF IT INDEXES", "SIZE OF FILES", "FOUND NOTHING"):
        assert head in shown.out


def test_a_run_that_changed_something_notes_the_size(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Refunds are paid within 30 days.\n")
    with Knowlex(tmp_path / "a.db") as kb:
        kb.ingest("p", tmp_path / "a.md")
        [sample] = kb.growth().items
        assert (sample.files, sample.chunks, sample.vectors) == (1, 1, 1)
        with kb.database.write() as db:
            growth.keep(db, Sample(usage.today(), 1, 2, 3, 4, 5, 6, 7))
        kb.ingest("p", tmp_path / "a.md")
        assert kb.growth().items[0].bytes == 1
        kb.ingest("p", tmp_path / "a.md", dry_run=True)
        assert kb.growth().items[0].bytes == 1
        assert kb.growth_over(7) is None


# --- health


def test_health_says_ok_a_line_a_check(knowlex: Call, database: Path) -> None:
    knowlex("project", "create", "p")
    answer = knowlex("health")
    assert answer.code == 0
    assert all(line.startswith("ok") for line in answer.out.splitlines())
    found = knowlex("health", "--json").json
    assert found["ok"]
    assert len(found["checks"]) == len(answer.out.splitlines())
    assert {"name", "ok", "detail", "code"} == set(found["checks"][0])


def test_health_of_nothing_is_not_found_and_makes_nothing(knowlex: Call, database: Path) -> None:
    answer = knowlex("health", "--json")
    assert answer.code == 3
    assert not json.loads(answer.out)["ok"]
    assert not database.exists()
    assert f"{database}: no such database; name an existing one with --db, or make it with" in knowlex("health").out


def test_health_of_another_file_is_a_database_error(knowlex: Call, database: Path) -> None:
    database.write_bytes(b"this is text, and long enough to be read as a header" * 20)
    answer = knowlex("health")
    assert answer.code == 4
    assert "FAILED  open" in answer.out
    assert answer.err == ""


def test_health_names_the_process_that_holds_the_lock(
    knowlex: Call, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOCK_MS", 50)
    monkeypatch.setattr(health, "WATCHED_S", 0.5)
    knowlex("project", "create", "p")
    with locked(database) as pid:
        answer = knowlex("health")
        assert answer.code == 0, "a transaction is no fault, only one that goes on for long and does nothing"
        for file in (database, database.with_name("knowlex.db-wal")):
            os.utime(file, (0, 0))
        stuck = knowlex("health")
    assert stuck.code == 4
    if Path("/proc/locks").exists():
        assert f"process {pid} writes" in answer.out
        assert f"process {pid} has held the write lock" in stuck.out
    assert knowlex("health").code == 0


def test_files_of_a_killed_worker_are_a_stuck_queue(knowlex: Call, database: Path) -> None:
    name = subprocess.check_output([sys.executable, "-c", "from workers import owner; print(owner.name())"], text=True)
    with Knowlex(database) as kb:
        queued(kb)
        with kb.database.write() as db:
            queue.claim(db, name.strip(), limit=9, now_ms=now_ms())
        assert [check.name for check in kb.health().checks if not check.ok] == ["queue"]
    answer = knowlex("health", "--json")
    assert answer.code == 4
    [fault] = [check for check in json.loads(answer.out)["checks"] if not check["ok"]]
    assert (fault["name"], fault["code"]) == ("queue", "stuck")
    assert "workers that are gone" in fault["detail"]


def test_files_of_this_process_are_not_stuck(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db", stuck_after_minutes=0) as kb:
        queued(kb)
        with kb.database.write() as db:
            queue.claim(db, owner.name(), limit=9, now_ms=now_ms())
        queued(kb, "b")
        assert kb.health().ok


def test_how_long_files_may_be_due_is_a_setting(knowlex: Call, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Knowlex(database) as kb:
        queued(kb)
    assert knowlex("health").code == 0
    monkeypatch.setenv("KNOWLEX_STUCK_AFTER_MINUTES", "0")
    answer = knowlex("health")
    assert answer.code == 4
    assert "run knowlex work" in answer.out


PROBE = """
import sys
from knowlex.cli import main
code = main(["--db", sys.argv[1], "health"])
print(sorted({"numpy", "torch", "openvino", "tokenizers"} & set(sys.modules)))
sys.exit(code)
"""


def test_health_loads_no_model(tmp_path: Path) -> None:
    Knowlex(tmp_path / "a.db").projects.create("p")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "a.db")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
