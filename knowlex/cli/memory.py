"""`knowlex memory …`: what is worth keeping of a project."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

from knowlex.cli import standard_input
from knowlex.cli.door import Door, Group, pass_door
from knowlex.cli.json_values import shown
from knowlex.cli.search import show_hits
from knowlex.terminal import one_line, paragraph, plain, table

if TYPE_CHECKING:
    from storage.memories import Memory, Order

_TYPES = click.Choice(["memory", "note", "insight"])
_IMPORTANCE = click.IntRange(1, 10)


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which memories it looks at."""
    for option in (
        click.option("--min-importance", type=_IMPORTANCE, help="Only those at least so important."),
        click.option("--tag", help="Only those with this tag."),
        click.option("--type", type=_TYPES, help="Only those of this kind."),
    ):
        command = option(command)
    return command


@click.group(cls=Group)
def memory() -> None:
    """Keep what is worth remembering of a project.

    \b
    Example:
      knowlex memory add handbook "Refunds" "Within 30 days, with the receipt."
    """


@memory.command(writes=True)
@click.argument("project")
@click.argument("title")
@click.argument("content")
@click.option("--type", "type_", type=_TYPES, default="memory", show_default=True, help="What kind of thing it is.")
@click.option("--importance", type=_IMPORTANCE, default=5, show_default=True, help="From 1 to 10.")
@click.option("--tag", "tags", multiple=True, help="A tag; repeatable.")
@pass_door
def add(door: Door, project: str, title: str, content: str, type_: str, importance: int, tags: tuple[str, ...]) -> None:
    """Remember CONTENT under TITLE in PROJECT; a CONTENT of - is read from standard input.

    \b
    Example:
      knowlex memory add handbook "Refunds" "Within 30 days, with the receipt." --importance 8
    """
    content = standard_input.given(content)
    with door.open() as kb:
        made = kb.memories.add(project, title, content, type=type_, importance=importance, tags=tags)
    _show(door, made)


@memory.command("list")
@click.argument("project")
@_filters
@click.option(
    "--order",
    type=click.Choice(["recency", "importance"]),
    default="recency",
    show_default=True,
    help="The latest first, or the most important.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
@click.option("--after", help="Go on behind a page: its `next`.")
@pass_door
def list_(door: Door, project: str, order: str, limit: int, after: str | None, **filters: Any) -> None:
    """List the memories of PROJECT.

    \b
    Example:
      knowlex memory list handbook --order importance
      knowlex memory list handbook --type insight --tag refunds --min-importance 7
    """
    with door.open() as kb:
        page = kb.memories.list(project, order=cast("Order", order), limit=limit, after=after, **filters)
    if door.json:
        door.answer({"memories": list(map(shown, page.items)), "next": page.next})
        return
    rows = [(item.id, item.importance, item.type.value, item.title) for item in page.items]
    door.say(table(("ID", "IMPORTANCE", "TYPE", "TITLE"), rows))
    if page.next:
        door.note(f"more: --after {page.next}")


@memory.command()
@click.argument("id")
@pass_door
def show(door: Door, id: str) -> None:
    """Show the memory ID.

    \b
    Example:
      knowlex memory show 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11
    """
    with door.open() as kb:
        found = kb.memories.get(id)
    _show(door, found)


@memory.command()
@click.argument("project")
@click.argument("query")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many to return.")
@_filters
@pass_door
def search(door: Door, project: str, query: str, k: int, **filters: Any) -> None:
    """Search the memories of PROJECT.

    \b
    Example:
      knowlex memory search handbook "money back"
    """
    with door.open() as kb:
        hits = kb.memories.search(project, query, k, **filters)
    show_hits(door, hits)


@memory.command(writes=True)
@click.argument("id")
@click.option("--title", help="The new title.")
@click.option("--content", help="The new content; - is read from standard input.")
@click.option("--type", type=_TYPES, help="What kind of thing it is.")
@click.option("--importance", type=_IMPORTANCE, help="From 1 to 10.")
@click.option("--tag", "tags", multiple=True, help="A tag, instead of those it has; repeatable.")
@click.option("--no-tags", is_flag=True, help="Take all of its tags away.")
@pass_door
def update(door: Door, id: str, content: str | None, tags: tuple[str, ...], no_tags: bool, **changes: Any) -> None:
    """Change a memory; what is not given stays.

    \b
    Example:
      knowlex memory update 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11 --importance 9
    """
    if tags and no_tags:
        raise click.UsageError("--tag and --no-tags exclude each other.")
    if content is None and not tags and not no_tags and all(value is None for value in changes.values()):
        raise click.UsageError("nothing to change: give --title, --content, --type, --importance, --tag or --no-tags.")
    content = None if content is None else standard_input.given(content)
    with door.open() as kb:
        changed = kb.memories.update(id, content=content, tags=tags if tags or no_tags else None, **changes)
    _show(door, changed)


@memory.command(writes=True)
@click.argument("id")
@pass_door
def delete(door: Door, id: str) -> None:
    """Forget a memory.

    \b
    Example:
      knowlex memory delete 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11
    """
    with door.open() as kb:
        kb.memories.delete(id)
    if door.json:
        door.answer({"deleted": id})
    door.say(f"{id} forgotten")


def _show(door: Door, memory: Memory) -> None:
    if door.json:
        door.answer(shown(memory))
    door.say(f"{memory.id}  {one_line(memory.title)}")
    tags = f"  tags: {one_line(', '.join(memory.tags))}" if memory.tags else ""
    door.say(f"{memory.type.value}, importance {memory.importance}{tags}")
    door.say(paragraph(plain(memory.content), "  "))
