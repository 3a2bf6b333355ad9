"""`knowlex token` and `kb.tokens`: from the command line to what a caller may see."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from canaries import Canaries

from knowlex import DatabaseError, Knowlex, NotFoundError, UsageError
from knowlex.access import Access
from knowlex.accessors import NOTED_EVERY_S, Tokens

Call = Callable[..., Any]


@pytest.fixture
def kb(database: Path) -> Iterator[Knowlex]:
    """A database with the projects p and q."""
    with Knowlex(database) as kb:
        for name in ("p", "q"):
            kb.projects.create(name)
        yield kb


def access(kb: Knowlex, token: str) -> Access:
    found = kb.tokens.authenticate(token)
    assert found is not None
    return found


def test_a_token_made_on_the_command_line_opens_its_projects_alone(kb: Knowlex, knowlex: Call) -> None:
    made = knowlex("token", "create", "--project", "p", "--write", "--name", "agent", "--json").json
    assert set(made) == {"token", "id"}
    caller = access(kb, made["token"])
    assert caller == Access(frozenset({kb.project("p").id}), write=True, caller=made["id"])
    caller.require_write("ingest")
    with pytest.raises(NotFoundError, match="^project q: not found$"):
        caller.require(kb.project("q").id, "project q")
    assert made["token"] not in repr(caller)


def test_without_project_it_is_for_all_and_without_write_to_read(kb: Knowlex, knowlex: Call) -> None:
    answer = knowlex("token", "create")
    token = answer.out.strip()
    assert (access(kb, token).everywhere, access(kb, token).write) == (True, False)
    assert token not in answer.err
    assert f"knowlex token revoke {access(kb, token).caller}" in answer.err


def test_the_list_tells_of_each_token_and_never_its_secret(kb: Knowlex, knowlex: Call) -> None:
    tokens = [kb.tokens.create(["p", "q"], True, "agent"), kb.tokens.create(), kb.tokens.create(["q"])]
    kb.projects.delete("q")
    kb.tokens.revoke(tokens[1].id)
    listed = knowlex("token", "list", "--json").json
    assert [each["id"] for each in listed] == [token.id for token in tokens]
    assert [each["all_projects"] for each in listed] == [False, True, False]
    assert listed[0]["projects"] == [{"id": kb.project("p").id, "name": "p"}]
    shown = knowlex("token", "list").out
    assert ["revoked" in line for line in shown.splitlines()] == [False, False, True, False]
    assert "none left" in shown
    assert not [token for token in tokens if token.token in shown + str(listed)]


def test_a_revoked_token_counts_for_nothing_in_a_running_process(kb: Knowlex, knowlex: Call) -> None:
    assert not kb.tokens.made()
    token = kb.tokens.create()
    assert kb.tokens.authenticate(token.token)
    assert kb.tokens.any()
    answer = knowlex("token", "revoke", token.id, "--json").json
    assert answer["revoked"] == token.id
    assert kb.tokens.authenticate(token.token) is None
    assert not kb.tokens.any()
    assert kb.tokens.made(), "what the first token has closed stays closed"
    assert knowlex("token", "revoke", token.id, "--json").json == answer


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["create", "--project", "nowhere"], 3, "no project named nowhere"),
        (["create", "--project", ""], 3, "no project named"),
        (["create", "--name", "a\nb"], 2, "holds a line break"),
        (["revoke", "nothing"], 3, "token nothing: not found; list them with knowlex token list"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    kb: Knowlex, knowlex: Call, arguments: list[str], code: int, says: str
) -> None:
    answer = knowlex("token", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert says in answer.err
    assert answer.err.count("\n") == 1
    assert kb.tokens.list() == []


def test_some_projects_are_never_taken_for_all(kb: Knowlex) -> None:
    with pytest.raises(UsageError, match="give a list"):
        kb.tokens.create("p")
    with pytest.raises(UsageError, match="none given"):
        kb.tokens.create([])
    assert kb.tokens.list() == []


def test_where_there_is_no_database_no_token_is_known_and_none_is_made(database: Path, knowlex: Call) -> None:
    kb = Knowlex(database)
    assert kb.tokens.authenticate(f"kx_{'A' * 43}") is None
    assert not kb.tokens.any()
    assert not kb.tokens.made()
    assert knowlex("token", "list").code == 3
    assert knowlex("token", "create", "--project", "p").code == 3
    assert not database.exists()


def test_its_use_is_noted_once_a_minute(kb: Knowlex) -> None:
    token = kb.tokens.create()
    access(kb, token.token)
    [first] = kb.tokens.list()
    assert first.last_used_at is not None
    access(kb, token.token)
    assert kb.tokens.list() == [first]


@pytest.mark.timeout(25)  # a writer waits for 30 s
def test_who_uses_a_token_waits_for_no_writer_and_does_not_fail(
    kb: Knowlex, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token, now = kb.tokens.create(), [1000.0]
    guard = Tokens(kb, lambda: kb.database, clock=lambda: now[0])
    caplog.set_level(logging.INFO, "knowlex")
    with Knowlex(database) as other, other.database.write():
        for _ in range(3):
            assert guard.authenticate(token.token)
    assert [str(record.msg) for record in caplog.records] == [
        f"use of a token not noted id={token.id} error_code=locked"
    ]
    assert guard.authenticate(token.token)
    assert kb.tokens.list()[0].last_used_at is None
    now[0] += NOTED_EVERY_S
    assert guard.authenticate(token.token)
    assert kb.tokens.list()[0].last_used_at is not None


def test_a_backup_that_is_looked_at_stays_a_backup(kb: Knowlex, tmp_path: Path) -> None:
    """One that was written to would count as a database, which no later backup replaces."""
    token = kb.tokens.create()
    kb.backup(tmp_path / "copy.db")
    with Knowlex(tmp_path / "copy.db") as looked_at:
        assert looked_at.tokens.authenticate(token.token)
    kb.backup(tmp_path / "copy.db")


@pytest.mark.row(28)
def test_a_token_is_in_no_log_and_no_error(
    kb: Knowlex, database: Path, knowlex: Call, caplog: pytest.LogCaptureFixture
) -> None:
    """Of whatever kind: made, used, wrong, revoked; by a database that is locked, damaged or gone."""
    caplog.set_level(logging.DEBUG)
    said, canaries = list[str](), Canaries()
    made = knowlex("token", "create", "-vv", "--log-format", "json", "--json")
    token = canaries.note("token", made.json["token"])
    canaries.note("secret", token.removeprefix("kx_"))
    canaries.note("digest", hashlib.sha256(token.encode()).hexdigest())
    assert canaries.found(made.out) == ["secret", "token"], "the one place where it is shown"
    said.append(made.err)
    guard = Tokens(kb, lambda: kb.database, clock=lambda: 0.0)
    with Knowlex(database) as other, other.database.write():
        said.append(repr(guard.authenticate(token)))
    for answer in (
        knowlex("token", "list", "-vv"),
        knowlex("token", "list", "--json"),
        knowlex("token", "revoke", token, "--json"),  # mistaken for its id
        knowlex("token", "revoke", made.json["id"], "-vv"),
    ):
        said += [answer.out, answer.err.replace(f"token {token}: not found", "")]  # says again what was given
    with apsw.Connection(str(database)) as raw:
        raw.execute("DROP TABLE token_projects")
    with pytest.raises(DatabaseError) as caught:
        kb.tokens.authenticate(token)
    said += [str(caught.value), str(caught.value.__cause__), *(record.getMessage() for record in caplog.records)]
    assert any("use of a token not noted" in each for each in said)
    assert canaries.found(*said) == []
