"""`knowlex project …`: create, list, show, update and delete projects."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from knowlex import project_settings
from knowlex.cli import pages
from knowlex.cli.door import Door, Group, pass_door, yes_option
from knowlex.cli.json_values import settings_option, shown
from knowlex.terminal import one_line, quantity, size, table
from storage.errors import ConfigurationError
from storage.paging import Page

if TYPE_CHECKING:
    from knowlex import Knowlex
    from storage.projects import Project, ProjectSummary, Removed


def _pairs(context: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any] | None:
    return project_settings.parsed(pairs) or None


_set_option = click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_pairs,
    help=f"A setting of its own; repeatable, a list by one item each. Keys: {', '.join(project_settings.KEYS)}.",
)


@click.group(cls=Group)
def project() -> None:
    """Manage projects: what files, memories and conversations belong to.

    \b
    Example:
      knowlex project list
    """


@project.command(writes=True)
@click.argument("name")
@click.option("--description", default="", help="What the project is about.")
@settings_option
@_set_option
@pass_door
def create(
    door: Door, name: str, description: str, settings: dict[str, Any] | None, pairs: dict[str, Any] | None
) -> None:
    """Create the project NAME. (`ingest` does it, too.)

    \b
    Example:
      knowlex project create handbook --description "Staff handbook"
      knowlex project create logs --set max_tokens=128 --set exclude="*.bak" --set exclude="tmp/"
    """
    with door.open() as kb:
        made = kb.projects.create(name, description=description, settings=settings, set=pairs)
    _show(door, made)
    _say_changed(door, made, pairs or ())


@project.command("list")
@pages.options
@pass_door
def list_(door: Door, limit: int | None, after: str | None) -> None:
    """List projects with what they hold, the last updated first.

    With --limit or --after the JSON is an object: the projects, and `next` for the following page.

    \b
    Example:
      knowlex project list
    """
    part = pages.asked(limit, after)
    with door.open(existing=True) as kb:
        page = Page(kb.projects.list(), None) if part is None else kb.projects.page(**part)
    if door.json:
        pages.answer(door, "projects", map(_summary, page.items), part, page.next)
        return
    rows = [
        (item.project.name, item.file_count, size(item.total_file_size), item.memory_count, item.project.description)
        for item in page.items
    ]
    door.say(table(("PROJECT", "FILES", "SIZE", "MEMORIES", "DESCRIPTION"), rows))
    pages.note_more(door, page.next)


@project.command()
@click.argument("project")
@pass_door
def show(door: Door, project: str) -> None:
    """Show PROJECT (name or id), what it holds, and the settings in force for its files.

    \b
    Example:
      knowlex project show handbook
    """
    with door.open() as kb:
        summary = kb.projects.summary(project)
        in_force = _in_force(door, kb, summary.project)
        longest = None if door.json or not in_force or in_force["max_tokens"] else kb.engine.longest()
    if door.json:
        door.answer(_summary(summary) | {"in_force": in_force})
        return
    for name, value in _summary(summary).items():
        told = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
        door.say(f"{name:20} {one_line(told)}")
    for name, value in (in_force or {}).items():
        model = f"  (the model's: {longest})" if longest and name == "max_tokens" else ""
        door.say(f"{name:20} {one_line(_value(value))}{model}{_own(summary.project, name)}")


@project.command(writes=True)
@click.argument("project")
@click.option("--name", help="The new name.")
@click.option("--description", help="The new description.")
@settings_option
@_set_option
@click.option("--unset", multiple=True, metavar="KEY", help="Give up a setting of its own; repeatable.")
@pass_door
def update(door: Door, project: str, pairs: dict[str, Any] | None, unset: tuple[str, ...], **changes: Any) -> None:
    """Rename PROJECT or change its description or its settings; what is not given stays.

    What --set and --unset change is read anew by the next ingest; ingest --dry-run says how much that is.

    \b
    Example:
      knowlex project update handbook --name staff-handbook --settings '{"language": "en"}'
      knowlex project update handbook --set max_tokens=128 --unset exclude
    """
    if not pairs and not unset and all(value is None for value in changes.values()):
        raise click.UsageError("nothing to change: give --name, --description, --settings, --set or --unset.")
    with door.open() as kb:
        changed = kb.projects.update(project, set=pairs, unset=unset, **changes)
    _show(door, changed)
    _say_changed(door, changed, (*(pairs or ()), *unset))


@project.command(writes=True)
@click.argument("project")
@click.option("--with-conversations", is_flag=True, help="Delete its conversations, too, which else stay.")
@yes_option
@pass_door
def delete(door: Door, project: str, with_conversations: bool, yes: bool) -> None:
    """Delete PROJECT with its indexed files and memories; files in your folders are not touched.

    What was uploaded over HTTP is deleted from disk, and no backup has its bytes: keep a copy of the folder
    NAME.db.uploads where you may want it back.
    Asks first at a terminal; without one, or with --json, it does not.

    \b
    Example:
      knowlex project delete handbook
    """
    with door.open() as kb:
        found = kb.projects.summary(project)
        uploads = kb.projects.uploads(found.project.id)
        door.confirm(yes, _question(found, uploads, with_conversations), required=False)
        removed = kb.projects.delete(project, with_conversations=with_conversations)
    if door.json:
        door.answer({"project": project, "removed": removed})
    door.say(
        f"{one_line(project)} deleted: {quantity(removed.files, 'file')}{_of_uploads(uploads, 'deleted')}"
        f" with {quantity(removed.chunks, 'passage')},"
        f" {quantity(removed.memories, 'memory', 'memories')}{_of_conversations(found, removed, with_conversations)}"
    )


def _of_uploads(uploads: int, what: str) -> str:
    return f" ({quantity(uploads, 'upload')} {what} from disk)" if uploads else ""


def _of_conversations(found: ProjectSummary, removed: Removed, with_conversations: bool) -> str:
    if with_conversations:
        return f", {quantity(removed.conversations, 'conversation')}"
    stay = found.conversation_count
    return f"; {quantity(stay, 'conversation')} stay{'s' * (stay == 1)}, of no project" if stay else ""


def _question(found: ProjectSummary, uploads: int, with_conversations: bool) -> str:
    going = _of_uploads(uploads, "to be deleted")
    held = [quantity(found.file_count, "file") + going, quantity(found.memory_count, "memory", "memories")]
    if with_conversations:
        held.append(quantity(found.conversation_count, "conversation"))
    return f"Delete project {one_line(found.project.name)} with {', '.join(held)}?"


def _show(door: Door, project: Project) -> None:
    if door.json:
        door.answer(shown(project))
    door.say(f"{one_line(project.name)}  {project.id}")


def _say_changed(door: Door, project: Project, keys: Collection[str]) -> None:
    """Say what the project has of its own now, of the settings that were set or given up."""
    own = project_settings.stored(project) if keys else {}  # unnamed, they may be what nobody can read
    for key in dict.fromkeys(keys):
        door.say(f"{key:20} {one_line(_value(own[key])) if key in own else 'none of its own'}")


def _in_force(door: Door, kb: Knowlex, project: Project) -> dict[str, Any] | None:
    """Return the settings for its files; None, and why on the side, where one of its own cannot be used."""
    try:
        settings = kb.projects.configuration(project.id)
    except ConfigurationError as error:
        door.note(one_line(error.message))
        return None
    return {key: getattr(settings, key) for key in project_settings.KEYS}


def _value(value: Any) -> str:
    return ", ".join(cast(Sequence[str], value)) if isinstance(value, list | tuple) else str(value)


def _own(project: Project, name: str) -> str:
    own = project_settings.stored(project)
    if name not in own:
        return ""
    return f"  (its own: {one_line(_value(own[name]))})"


def _summary(summary: ProjectSummary) -> dict[str, Any]:
    return shown(summary.project) | {
        "files": summary.file_count,
        "bytes": summary.total_file_size,
        "conversations": summary.conversation_count,
        "messages": summary.message_count,
        "memories": summary.memory_count,
    }
