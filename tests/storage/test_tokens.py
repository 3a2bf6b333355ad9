"""Access tokens: hashed, bound, revoked, and never for more than they were made for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from storage import backup, projects, tokens
from storage.database import Database
from storage.errors import NotFoundError, UsageError
from storage.tokens import Grant, NewToken


def made(db: Database, *names: str, write: bool = False, name: str = "") -> NewToken:
    """Make a token for projects that are made, or for everything."""
    with db.write() as tx:
        bound = [projects.ensure(tx, each) for each in names] if names else None
        return tokens.create(tx, bound, write=write, name=name)


def granted(db: Database, token: str) -> Grant | None:
    with db.read() as tx:
        return tokens.find(tx, token)


def scope(db: Database, token: str) -> frozenset[str] | None:
    """Return the ids of the projects that a token is for; None for all."""
    grant = granted(db, token)
    assert grant is not None
    return grant.projects


def test_a_token_is_256_random_bits_behind_a_prefix_that_scanners_know(db: Database) -> None:
    first, second = made(db), made(db)
    assert first.token.startswith("kx_")
    assert len(first.token) == len("kx_") + 43
    assert first.token != second.token


def test_only_the_hash_is_kept(db: Database) -> None:
    token = made(db, "p", name="agent").token
    with db.read() as tx:
        assert tx.value("SELECT digest FROM access_tokens") == hashlib.sha256(token.encode()).digest()
    db.close()
    stored = b"".join(path.read_bytes() for path in db.path.parent.iterdir())
    assert b"agent" in stored
    assert token.encode() not in stored
    assert token.removeprefix("kx_").encode() not in stored


def test_a_token_is_for_its_projects_alone(db: Database) -> None:
    token = made(db, "p", "q", write=True).token
    made(db, "r")
    with db.read() as tx:
        wanted = frozenset(projects.find(tx, name).id for name in "pq")
    assert scope(db, token) == wanted
    grant = granted(db, token)
    assert grant is not None
    assert grant.write


def test_a_token_without_projects_is_for_all_and_reads_only_unless_told_otherwise(db: Database) -> None:
    token = made(db).token
    made(db, "later")
    grant = granted(db, token)
    assert grant is not None
    assert (grant.projects, grant.write) == (None, False)


def test_a_token_for_an_empty_list_of_projects_is_for_none(db: Database) -> None:
    with db.write() as tx:
        token = tokens.create(tx, [], write=True).token
    assert scope(db, token) == frozenset()


def test_a_token_whose_projects_were_deleted_is_for_none(db: Database) -> None:
    token = made(db, "p", "q").token
    for name in "pq":
        with db.write() as tx:
            projects.delete(tx, projects.find(tx, name))
    assert scope(db, token) == frozenset()
    with db.write() as tx:
        projects.ensure(tx, "p")
    assert scope(db, token) == frozenset(), "another project of the same name is another project"


@pytest.mark.parametrize(
    "wrong",
    ["", "kx_", "kx_" + "A" * 43, "KX_{0}", "{0}x", " {0}", "{0}\n", "{0}\0", "Bearer {0}", "kx_{1}", "kx_é", "{0}é"],
)
def test_what_is_no_token_is_none(db: Database, wrong: str) -> None:
    token = made(db).token
    assert granted(db, wrong.format(token, token.removeprefix("kx_").swapcase())) is None
    assert granted(db, token) is not None


def test_the_hash_of_a_token_is_no_token(db: Database) -> None:
    made(db)
    with db.read() as tx:
        digest = tx.value("SELECT hex(digest) FROM access_tokens")
    assert granted(db, f"kx_{digest[:43]}") is None
    assert granted(db, digest) is None


def test_a_revoked_token_counts_for_nothing_at_once_and_elsewhere_too(db: Database) -> None:
    token, other = made(db), made(db, "p")
    with Database.open(db.path) as elsewhere:
        assert granted(elsewhere, token.token) is not None
        with db.write() as tx:
            assert tokens.usable(tx)
            first = tokens.revoke(tx, token.id).revoked_at
        assert granted(db, token.token) is granted(elsewhere, token.token) is None
        assert granted(elsewhere, other.token) is not None
    with db.write() as tx:
        assert tokens.revoke(tx, token.id).revoked_at == first
        tokens.revoke(tx, other.id)
        assert not tokens.usable(tx)
        assert [each.revoked_at is None for each in tokens.every(tx)] == [False, False]


def test_an_unknown_id_is_not_found(db: Database) -> None:
    token = made(db).token
    with db.write() as tx, pytest.raises(NotFoundError, match="nothing: not found; list them"):
        tokens.revoke(tx, "nothing")
    with db.write() as tx, pytest.raises(NotFoundError):
        tokens.revoke(tx, token)
    assert granted(db, token) is not None


def test_a_name_is_one_line(db: Database) -> None:
    with pytest.raises(UsageError, match="line break"):
        made(db, name="a\nb")


def test_the_list_tells_all_but_the_secret(db: Database) -> None:
    first, second = made(db, "q", "p", write=True, name="agent"), made(db)
    with db.read() as tx:
        one, two = tokens.every(tx)
        assert tokens.get(tx, second.id) == two
    assert (one.id, one.name, one.write, one.all_projects) == (first.id, "agent", True, False)
    assert sorted(one.projects.values()) == ["p", "q"]
    assert (two.name, two.write, two.all_projects, two.projects) == ("", False, True, {})
    assert first.token not in repr(one)


def test_its_use_is_due_to_be_noted_once_a_minute(db: Database) -> None:
    token = made(db)

    def due() -> bool:
        grant = granted(db, token.token)
        assert grant is not None
        return grant.use_is_due

    assert due()
    with db.write() as tx:
        tokens.note_use(tx, token.id)
    assert not due()
    with db.write() as tx:
        tx.run("UPDATE access_tokens SET last_used_at = '2026-01-01T00:00:00.000Z'")
    assert due()


def test_a_restore_brings_tokens_back_but_none_that_was_revoked_since(db: Database, tmp_path: Path) -> None:
    kept, ended = made(db, "p"), made(db)
    backup.make(db, tmp_path / "copy.db")
    late = made(db)
    with db.write() as tx:
        tokens.revoke(tx, ended.id)
    db.close()
    backup.restore(db.path, tmp_path / "copy.db")
    with Database.open(db.path) as restored:
        assert granted(restored, kept.token) is not None
        assert granted(restored, ended.token) is None
        assert granted(restored, late.token) is None
        with restored.read() as tx:
            assert [each.id for each in tokens.every(tx)] == [kept.id, ended.id]


def test_a_restore_over_an_older_schema_knows_of_no_tokens(db: Database, tmp_path: Path) -> None:
    token = made(db).token
    backup.make(db, tmp_path / "copy.db")
    db.migrate(5)
    db.close()
    backup.restore(db.path, tmp_path / "copy.db")
    with Database.open(db.path) as restored:
        assert granted(restored, token) is not None
