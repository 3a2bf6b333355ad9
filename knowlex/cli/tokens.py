"""`knowlex token …`: who may use the server, and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from knowlex.cli.door import Door, Group, pass_door
from knowlex.cli.json_values import shown
from knowlex.terminal import one_line, table

if TYPE_CHECKING:
    from storage.tokens import Token


@click.group(cls=Group)
def token() -> None:
    """Make, list and revoke the access tokens of the server.

    \b
    Example:
      knowlex token create --project handbook --name "support agent"
    """


@token.command(writes=True)
@click.option("--project", "projects", multiple=True, help="A project that it is for; repeatable. Without: all.")
@click.option("--write", is_flag=True, help="It may change things, too. Without: only read.")
@click.option("--name", default="", help="What to call it in lists.")
@pass_door
def create(door: Door, projects: tuple[str, ...], write: bool, name: str) -> None:
    """Make a token and print it, which nobody can do again: only its hash is kept.

    \b
    Example:
      knowlex token create --project handbook --write
      knowlex token create --name "my own"
    """
    with door.open() as kb:
        made = kb.tokens.create(projects or None, write, name)
    if door.json:
        door.answer({"token": made.token, "id": made.id})
        return
    door.say(made.token)
    door.note("shown this once: keep it where nobody else reads it")
    door.note(f"to revoke it: knowlex token revoke {made.id}")


@token.command("list")
@pass_door
def list_(door: Door) -> None:
    """List the tokens, the revoked ones, too; never their secrets.

    \b
    Example:
      knowlex token list
    """
    with door.open(existing=True) as kb:
        found = kb.tokens.list()
    if door.json:
        door.answer([shown(each) | {"projects": _projects(each)} for each in found])
        return
    rows = [
        (each.id, each.name or None, _scope(each), _rights(each), each.created_at, each.last_used_at) for each in found
    ]
    door.say(table(("ID", "NAME", "PROJECTS", "MAY", "CREATED", "LAST USED"), rows))


@token.command(writes=True)
@click.argument("id")
@pass_door
def revoke(door: Door, id: str) -> None:
    """Have the token ID count for nothing from now on, also where a server is running.

    \b
    Example:
      knowlex token revoke 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11
    """
    with door.open() as kb:
        revoked = kb.tokens.revoke(id)
    if door.json:
        door.answer({"revoked": revoked.id, "revoked_at": revoked.revoked_at})
        return
    door.say(one_line(f"{revoked.id} revoked"))


def _projects(token: Token) -> list[dict[str, str]]:
    return [{"id": id, "name": name} for id, name in token.projects.items()]


def _scope(token: Token) -> str:
    return "all" if token.all_projects else ", ".join(token.projects.values()) or "none left"


def _rights(token: Token) -> str:
    if token.revoked_at:
        return f"nothing: revoked {token.revoked_at}"
    return "read, write" if token.write else "read"
