"""`knowlex settings …`: values kept in the database, for programs that use Knowlex."""

from __future__ import annotations

import json
from typing import Any

import click

from knowlex import config, project_settings
from knowlex.cli import pages
from knowlex.cli.door import Door, Group, pass_door
from knowlex.terminal import table
from storage.paging import Page


@click.group(cls=Group)
def settings() -> None:
    """Keep values in the database, each a JSON value under a key.

    How Knowlex itself works is set by --config, not here.

    \b
    Example:
      knowlex settings set theme dark
    """


@settings.command()
@click.argument("key")
@pass_door
def get(door: Door, key: str) -> None:
    """Show the value of KEY.

    \b
    Example:
      knowlex settings get theme
    """
    with door.open() as kb:
        value = kb.settings[key]
    if door.json:
        door.answer(value)
    door.say(_shown(value))


@settings.command("set", writes=True)
@click.argument("key")
@click.argument("value")
@pass_door
def set_(door: Door, key: str, value: str) -> None:
    """Keep VALUE under KEY: a JSON value, or else the text as it is.

    Where KEY is also the name of a setting of Knowlex, which is not read from here, it says where that is set.

    \b
    Example:
      knowlex settings set theme dark
      knowlex settings set window '{"width": 800}'
    """
    kept = _parsed(value)
    with door.open() as kb:
        kb.settings[key] = kept
    if door.json:
        door.answer({key: kept})
    door.say(f"{key} = {_shown(kept)}")
    if config.known(key) and not door.logs_json:
        door.note(_not_read(key))


@settings.command("list")
@click.option("--prefix", default="", help="Only keys that start so.")
@pages.options
@pass_door
def list_(door: Door, prefix: str, limit: int | None, after: str | None) -> None:
    """List keys and values, sorted by key.

    With --limit or --after the JSON is an object: the settings, and `next` for the following page.

    \b
    Example:
      knowlex settings list
      knowlex settings list --prefix window.
    """
    part = pages.asked(limit, after)
    with door.open(existing=True) as kb:
        page = Page(list(kb.settings.all(prefix).items()), None) if part is None else kb.settings.page(prefix, **part)
    if door.json:
        pages.answer(door, "settings", dict(page.items), part, page.next)
        return
    door.say(table(("KEY", "VALUE"), [(key, _shown(value)) for key, value in page.items]))
    pages.note_more(door, page.next)


@settings.command(writes=True)
@click.argument("key")
@pass_door
def delete(door: Door, key: str) -> None:
    """Forget KEY and its value.

    \b
    Example:
      knowlex settings delete theme
    """
    with door.open() as kb:
        del kb.settings[key]
    if door.json:
        door.answer({"deleted": key})
    door.say(f"{key} deleted")


def _not_read(key: str) -> str:
    own = f", for one project by knowlex project update PROJECT --set {key}=…" if key in project_settings.KEYS else ""
    return (
        f"kept, but Knowlex does not read it: its own setting {key} is set in a file for --config, or by"
        f" {config.variable(key)} in the environment{own}"
    )


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise click.UsageError("VALUE is nested too deeply.") from None
    except ValueError:  # also for what only Python's JSON knows: NaN, Infinity
        return text
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
