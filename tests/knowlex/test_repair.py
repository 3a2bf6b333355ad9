"""`knowlex repair` and `verify` on databases that have drifted or are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest

from knowlex import Knowlex
from knowlex.cli import main


@pytest.fixture
def kept(database: Path, knowlex) -> Path:
    """A database with a memory, a message's worth of settings, and no file: nothing is embedded."""
    knowlex("project", "create", "p")
    knowlex("memory", "add", "p", "Refunds", "Within 30 days.")
    return database


def spoil(database: Path, sql: str) -> None:
    raw = apsw.Connection(str(database))
    raw.execute(sql)
    raw.close()


def test_a_sound_database_needs_none(kept: Path, knowlex) -> None:
    answer = knowlex("repair")
    assert (answer.code, answer.out) == (0, "nothing to repair\n")
    assert knowlex("repair", "--json").json == {"mended": [], "left": [], "copy": None}
    assert list(kept.parent.glob("*.before-repair")) == []


def test_drift_is_mended_after_a_copy(kept: Path, knowlex) -> None:
    spoil(kept, "DELETE FROM text_stats; UPDATE project_memories SET tags = 'x'")
    assert knowlex("verify").code == 4
    found = knowlex("repair", "--json").json
    assert {mended["kind"] for mended in found["mended"]} == {"text_stats", "tags"}
    assert all(set(mended) == {"kind", "detail", "count"} for mended in found["mended"])
    assert (found["left"], found["copy"]) == ([], f"{kept}.before-repair")
    assert knowlex("verify", "--deep").code == 0
    assert knowlex("memory", "list", "p", "--json").json["memories"][0]["tags"] == ["x"]


def test_what_is_left_is_said_with_its_remedy(kept: Path, knowlex) -> None:
    spoil(kept, "CREATE TABLE mine (x); DELETE FROM generations")
    answer = knowlex("repair")
    assert answer.code == 4
    assert "mended generation: " in answer.out
    assert "left unknown_object: the table mine is not Knowlex's (1); drop it" in answer.out
    assert f"the database as it was: {kept}.before-repair" in answer.out
    again = knowlex("repair", "--json")
    assert again.code == 4
    assert [set(left) for left in json.loads(again.out)["left"]] == [{"kind", "detail", "count", "remedy"}]


def test_damage_is_named_and_a_backup_advised(kept: Path, knowlex) -> None:
    content = kept.read_bytes()
    kept.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    verified = knowlex("verify", "--json")
    assert verified.code == 4
    assert {problem["kind"] for problem in json.loads(verified.out)["problems"]} == {"damaged"}
    assert "knowlex repair mends what can be mended" in knowlex("verify").err
    repaired = knowlex("repair")
    assert repaired.code == 4
    for line in repaired.out.splitlines():
        assert "; restore a backup: knowlex restore FILE" in line
        assert line.endswith("; or without one, save what can be read first: knowlex conversation export --output FILE")
        assert (line.count("damaged"), "knowlex repair" in line) == (1, False)
    with Knowlex(kept) as kb:
        assert kb.repair().left


def test_a_file_that_is_no_database_is_not_touched(database: Path, knowlex) -> None:
    database.write_bytes(b"not a database at all, and longer than a header" * 100)
    before = database.read_bytes()
    assert knowlex("verify").code == 4
    answer = knowlex("repair")
    assert (answer.code, database.read_bytes()) == (4, before)
    assert "; name another with --db, or move it away (mv) and restore a backup (knowlex restore FILE)\n" in answer.out


def test_where_there_is_no_database_none_is_made(database: Path, knowlex) -> None:
    assert knowlex("repair").code == 3
    assert not database.exists()


def test_files_that_a_repair_queues_are_finished_by_work(database: Path, knowlex, tmp_path: Path) -> None:
    """A chunk that lost its vector gets it back from the file on disk."""
    page = tmp_path / "page.md"
    page.write_text("# Refunds\n\nWithin thirty days of purchase.\n")
    assert knowlex("ingest", "p", page).code == 0
    before = knowlex("search", "p", "money back", "--json").json["hits"]
    spoil(database, "DELETE FROM vector_bits; DELETE FROM embeddings; UPDATE file_chunks SET content = 'x'")
    found = knowlex("repair", "--json")
    assert (found.code, found.json["left"]) == (0, [])
    assert {"missing_vector", "chunk_text"} <= {mended["kind"] for mended in found.json["mended"]}
    assert "knowlex work --once" in found.json["mended"][0]["detail"]
    assert main(["work", "--once"]) == 0
    assert knowlex("verify", "--deep", "--json").json["ok"]
    after = knowlex("search", "p", "money back", "--json").json["hits"]
    assert [(hit["text"], hit["vector_score"]) for hit in after] == [(h["text"], h["vector_score"]) for h in before]
