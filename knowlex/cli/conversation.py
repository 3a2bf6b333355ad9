"""`knowlex conversation …`: what was said, in a project or in none."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from knowlex.cli import pages, standard_input, streams
from knowlex.cli.door import Door, Group, pass_door
from knowlex.cli.exporting import Export
from knowlex.cli.json_values import parsed, settings_option, shown
from knowlex.terminal import emphasised, one_line, paragraph, plain, quantity, shows_bold, table
from storage.errors import NotFoundError, UsageError
from storage.paging import Page

if TYPE_CHECKING:
    from knowlex.salvaging import Lost
    from storage.conversations import Conversation
    from storage.message_search import MessageHit
    from storage.messages import Message

_ROLES = click.Choice(["user", "assistant", "system", "tool"])
_LIMIT = click.IntRange(1, 1000)
_AFTER = click.option("--after", help="Go on behind a page: its `next`.")
_NO_PROJECT = click.option("--no-project", is_flag=True, help="What is of no project.")


@click.group(cls=Group)
def conversation() -> None:
    """Keep conversations and search their messages.

    \b
    Example:
      knowlex conversation create "Refund of order 1234" --project handbook
    """


@conversation.command(writes=True)
@click.argument("title")
@click.option("--project", help="The project it belongs to; without it, none.")
@settings_option
@pass_door
def create(door: Door, title: str, project: str | None, settings: dict[str, Any] | None) -> None:
    """Begin a conversation named TITLE.

    \b
    Example:
      knowlex conversation create "Refund of order 1234" --project handbook
    """
    with door.open() as kb:
        made = kb.conversations.create(title, project=project, settings=settings)
    _show(door, made)


@conversation.command(writes=True)
@click.argument("id")
@click.argument("content")
@click.option("--role", type=_ROLES, default="user", show_default=True, help="Who says it.")
@click.option("--parent", help="The id of the message it answers.")
@click.option(
    "--parts",
    is_flag=True,
    help="CONTENT is a JSON list of parts: text, image_ref, tool_call, tool_result; docs/python.md has their fields.",
)
@pass_door
def add(door: Door, id: str, content: str, role: str, parent: str | None, parts: bool) -> None:
    """Add a message to the conversation ID; a CONTENT of - is read from standard input.

    \b
    Example:
      knowlex conversation add 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11 "How do refunds work?"
    """
    said = _content(content, parts=parts)
    with door.open() as kb:
        made = kb.conversations.add(id, role, said, parent=parent)
    _show_message(door, made)


@conversation.command("list")
@click.option("--project", help="Only those of this project.")
@_NO_PROJECT
@click.option("--limit", type=_LIMIT, default=100, show_default=True, help="How many at most.")
@_AFTER
@pass_door
def list_(door: Door, project: str | None, no_project: bool, limit: int, after: str | None) -> None:
    """List conversations with their last words, the last updated first.

    \b
    Example:
      knowlex conversation list --project handbook
    """
    _require_one_place(project, no_project)
    with door.open(existing=True) as kb:
        page = kb.conversations.summaries(project, no_project=no_project, limit=limit, after=after)
    if door.json:
        listed = [
            shown(item.conversation)
            | {"last_message_at": item.last_message_at, "last_message_preview": item.last_message_preview}
            for item in page.items
        ]
        door.answer({"conversations": listed, "next": page.next})
        return
    rows = [
        (
            item.conversation.id,
            item.conversation.project_name,
            item.conversation.message_count,
            item.conversation.title,
            item.last_message_preview,
        )
        for item in page.items
    ]
    door.say(table(("ID", "PROJECT", "MESSAGES", "TITLE", "LAST"), rows))
    _note_more(door, page)


@conversation.command()
@click.argument("id")
@pages.options
@pass_door
def show(door: Door, id: str, limit: int | None, after: str | None) -> None:
    """Show the conversation ID with its messages, in the order they were said.

    With --limit or --after the JSON has `next`, too, for the following messages.

    \b
    Example:
      knowlex conversation show 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11 --limit 20
    """
    part = pages.asked(limit, after)
    with door.open() as kb:
        whole = kb.conversations.get(id) if part is None else None
        found = whole.conversation if whole else kb.conversations.details(id)
        page = Page(whole.messages, None) if whole else kb.conversations.messages(id, **part or {})
    if door.json:
        following = {} if part is None else {"next": page.next}
        door.answer(shown(found) | {"messages": list(map(shown, page.items))} | following)
        return
    _show(door, found)
    _say_messages(door, page.items)
    pages.note_more(door, page.next)


@conversation.command("show-message")
@click.argument("message")
@pass_door
def show_message(door: Door, message: str) -> None:
    """Show MESSAGE alone.

    \b
    Example:
      knowlex conversation show-message 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a12
    """
    with door.open() as kb:
        found = kb.conversations.message(message)
    _show_message(door, found)


@conversation.command()
@click.argument("message")
@click.option("--limit", type=_LIMIT, default=100, show_default=True, help="How many at most.")
@_AFTER
@pass_door
def answers(door: Door, message: str, limit: int, after: str | None) -> None:
    """Show what directly answers MESSAGE, the oldest first.

    \b
    Example:
      knowlex conversation answers 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a12
    """
    with door.open() as kb:
        page = kb.conversations.answers(message, limit=limit, after=after)
    if door.json:
        door.answer({"messages": list(map(shown, page.items)), "next": page.next})
        return
    _say_messages(door, page.items)
    _note_more(door, page)


@conversation.command()
@click.argument("message")
@pass_door
def thread(door: Door, message: str) -> None:
    """Show the way from the first message of a thread down to MESSAGE, by what answers what.

    \b
    Example:
      knowlex conversation thread 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a12
    """
    with door.open() as kb:
        found = kb.conversations.thread(message)
    if door.json:
        door.answer(list(map(shown, found)))
        return
    _say_messages(door, found)


@conversation.command()
@click.argument("query")
@click.option("--project", "projects", multiple=True, help="Only in this project; repeatable.")
@_NO_PROJECT
@click.option("--conversation", metavar="ID", help="Only in this conversation.")
@click.option("--role", type=_ROLES, help="Only what this role said.")
@click.option("--from", "date_from", metavar="TIME", help="Only what was said then or later: 2026-01-31, in UTC.")
@click.option(
    "--to",
    "date_to",
    metavar="TIME",
    help="Only what was said before; of a day, on it or before. A time has a zone: 2026-01-31T09:30:00Z.",
)
@click.option(
    "--sort",
    type=click.Choice(["relevance", "time"]),
    default="relevance",
    show_default=True,
    help="The best first, or the newest.",
)
@click.option(
    "--match",
    type=click.Choice(["any", "all"]),
    help="Whether any word of QUERY must be there, or all.  [default: any by relevance, all by time]",
)
@click.option("--limit", type=_LIMIT, default=20, show_default=True, help="How many at most.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="How many to skip; --after costs less.")
@_AFTER
@pass_door
def search(door: Door, query: str, projects: tuple[str, ...], no_project: bool, **filters: Any) -> None:
    """Search the messages of all conversations for the words of QUERY.

    An empty QUERY ("") finds all messages that pass the options, the newest first. To search one project
    by meaning, too: knowlex search PROJECT QUERY --source messages.

    \b
    Example:
      knowlex conversation search "refund" --project handbook --role user --from 2026-01-01
    """
    _require_one_place(projects, no_project)
    with door.open() as kb, _naming_options():
        page = kb.conversations.find(query, projects=projects or None, no_project=no_project, **filters)
    if door.json:
        degraded = {"degraded": page.degraded} if page.degraded else {}
        door.answer({"messages": list(map(shown, page.items)), "next": page.next, **degraded})
        return
    door.say("\n\n".join(_hit_as_text(hit, bold=shows_bold()) for hit in page.items) or "nothing found")
    if page.degraded:
        door.note(page.degraded)
    _note_more(door, page)


@conversation.command(writes=True)
@click.argument("id")
@click.option("--title", help="The new title.")
@click.option("--project", help="The project to move it to.")
@click.option("--no-project", is_flag=True, help="Take it out of its project.")
@settings_option
@pass_door
def update(door: Door, id: str, project: str | None, no_project: bool, **changes: Any) -> None:
    """Rename the conversation ID, move it or change its settings; what is not given stays.

    \b
    Example:
      knowlex conversation update 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11 --title "Refunds" --project handbook
    """
    _require_one_place(project, no_project)
    moves, changes = project is not None or no_project, {k: v for k, v in changes.items() if v is not None}
    if not moves and not changes:
        raise click.UsageError("nothing to change: give --title, --settings, --project or --no-project.")
    with door.open(existing=True) as kb, kb.transaction():
        if changes:
            kb.conversations.update(id, **changes)
        if moves:
            kb.conversations.move(id, project)
        changed = kb.conversations.details(id)
    _show(door, changed)


@conversation.command("edit-message", writes=True)
@click.argument("message")
@click.argument("content")
@click.option("--parts", is_flag=True, help="CONTENT is a JSON list of parts.")
@pass_door
def edit_message(door: Door, message: str, content: str, parts: bool) -> None:
    """Give MESSAGE another content; - is read from standard input.

    \b
    Example:
      knowlex conversation edit-message 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a12 "How long do refunds take?"
    """
    said = _content(content, parts=parts)
    with door.open() as kb:
        changed = kb.conversations.edit(message, said)
    _show_message(door, changed)


@conversation.command("delete-message", writes=True)
@click.argument("message")
@pass_door
def delete_message(door: Door, message: str) -> None:
    """Delete MESSAGE; its answers become answers to what it answered.

    \b
    Example:
      knowlex conversation delete-message 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a12
    """
    with door.open() as kb:
        kb.conversations.delete_message(message)
    _deleted(door, message)


@conversation.command(writes=True)
@click.argument("id")
@pass_door
def delete(door: Door, id: str) -> None:
    """Delete the conversation ID with its messages.

    \b
    Example:
      knowlex conversation delete 01939c3e-5b0a-7c53-8b1e-0d6f6d1f2a11
    """
    with door.open() as kb:
        kb.conversations.delete(id)
    _deleted(door, id)


@conversation.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--project", help="Those of this project.")
@_NO_PROJECT
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; else standard output."
)
@pass_door
def export(door: Door, ids: tuple[str, ...], project: str | None, no_project: bool, output: Path | None) -> int:
    """Write conversations as JSON Lines: those named by ID, those of a project, or all.

    A line for each conversation, and behind it one for each of its messages. With --json the lines stand
    in one JSON list; with --output it says how many there were. An older export of that name is replaced;
    anything else is not. Where pages are damaged, --output and --json give all that can be read, and exit code 4; what
    cannot is named on standard error, the first 20 of it; --output with --json lists all. A value that another program
    put in place of a message is no such damage: the error names it, and knowlex repair mends it.

    \b
    Example:
      knowlex conversation export --project handbook --output talks.jsonl
    """
    from storage.output import Kind, is_stream, require_free
    from storage.paths import given_path

    _require_one_place(project, no_project)
    output = None if output is None else given_path(output, "--output")
    with door.open() as kb:
        if output is not None:
            require_free(output, kb.path, Kind("export", re.compile(_BEGINNING)))
        asked = Export(kb, ids, {"project": project, "no_project": no_project})
        if output is not None:
            written = asked.take(lambda lines: _write(lines, output, kb.path), again=not is_stream(output))
            _say_written(door, output, written, asked.lost)
        elif door.json:
            door.answer(asked.take(lambda lines: [parsed(line, "a line") for line in lines], again=True))
        else:
            with streams.answering():
                asked.take(lambda lines: _copy(lines, sys.stdout.buffer), again=False)
        return asked.end(door)


@conversation.command("import", writes=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--project", help="Where all conversations go; else into the projects that FILE names.")
@pass_door
def import_(door: Door, file: Path, project: str | None) -> None:
    """Take in conversations that `export` wrote: all of FILE or nothing; - is standard input.

    What is there already, by its id, stays as it is; with another content, or in another project than
    --project or FILE names, it is an error. Projects that FILE names are made where they are missing. FILE is
    read to its end before the database is locked.

    \b
    Example:
      knowlex conversation import talks.jsonl
    """
    with door.open() as kb, _opened(file) as stream:
        done = kb.conversations.load(_lines_of(stream, file), project=project, name=str(file))
    if not (done.conversations or done.unchanged_conversations):
        door.note(one_line(f"{'standard input' if str(file) == '-' else file} holds no conversation"))
    if door.json:
        door.answer(done)
    unchanged = done.unchanged_conversations or done.unchanged_messages
    were = f"; {_held(done.unchanged_conversations, done.unchanged_messages)} were there already" if unchanged else ""
    door.say(f"{_held(done.conversations, done.messages)} imported{were}")


# --- in and out ------------------------------------------------------------------------------------


def _require_one_place(projects: str | tuple[str, ...] | None, no_project: bool) -> None:
    if projects and no_project:
        raise click.UsageError("--project and --no-project exclude each other.")


@contextmanager
def _naming_options() -> Generator[None]:
    """Name the option in what is wrong with its value, where it is called otherwise than in Python."""
    try:
        yield
    except UsageError as error:
        name, colon, fault = error.message.partition(":")
        raise UsageError(f"{_OPTIONS.get(name, name)}{colon}{fault}") from error


_OPTIONS = {"date_from": "--from", "date_to": "--to", "date_from, date_to": "--from, --to"}


def _content(content: str, *, parts: bool) -> Any:
    """Return what a message says: text, or a list of parts."""
    text = standard_input.given(content)
    return parsed(text, "CONTENT") if parts else text


def _opened(file: Path) -> AbstractContextManager[BinaryIO]:
    from storage.paths import given_path

    if str(file) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return given_path(file, "FILE").open("rb")
    except FileNotFoundError:
        raise NotFoundError(f"{file}: no such file; name one that knowlex conversation export wrote") from None
    except OSError as error:
        raise _unreadable(file, error) from None


def _lines_of(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    """Yield the lines of a file, which may be on a disk or share that fails half-way."""
    try:
        yield from stream
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> UsageError:
    return UsageError(f"{file}: cannot be read ({error.strerror}); name a file that you may read")


_BEGINNING = b'{"type":"conversation"'
"""How the lines of conversations, and so exports, begin."""


def _write(lines: Iterator[str], output: Path, database: Path) -> tuple[int, int]:
    """Write lines to a file and return `_copy`'s counts."""
    from storage.output import replacing

    with replacing(output, database) as stream:
        return _copy(lines, stream)


def _copy(lines: Iterable[str], stream: BinaryIO) -> tuple[int, int]:
    """Write lines to a stream and return how many were of conversations and of messages."""
    conversations = messages = 0
    for line in lines:
        stream.write(f"{line}\n".encode())
        begins = line.startswith(_BEGINNING.decode())
        conversations, messages = conversations + begins, messages + (not begins)
    stream.flush()
    return conversations, messages


def _say_written(door: Door, output: Path, written: tuple[int, int], lost: list[Lost] | None) -> None:
    conversations, messages = written
    if door.json:
        more = {} if lost is None else {"lost": lost}
        door.answer({"file": str(output), "conversations": conversations, "messages": messages} | more)
    door.say(f"{one_line(str(output))}: {_held(conversations, messages)}")


def _held(conversations: int, messages: int) -> str:
    return f"{quantity(conversations, 'conversation')} with {quantity(messages, 'message')}"


# --- what is shown ---------------------------------------------------------------------------------


def _show(door: Door, conversation: Conversation) -> None:
    if door.json:
        door.answer(shown(conversation))
    where = f"  ({one_line(conversation.project_name)})" if conversation.project_name else ""
    door.say(f"{conversation.id}  {one_line(conversation.title)}{where}")


def _show_message(door: Door, message: Message) -> None:
    if door.json:
        door.answer(shown(message))
    _say_messages(door, [message])


def _say_messages(door: Door, messages: Iterable[Message]) -> None:
    for message in messages:
        door.say(f"\n{message.created_at}  {message.role}  {message.id}")
        door.say(paragraph(plain(" ".join(_text(message).split())), "  "))


def _text(message: Message) -> str:
    """Return what a message says as people read it: its text, and the kinds of its other parts."""
    return " ".join(part["text"] if part["type"] == "text" else f"[{part['type']}]" for part in message.content)


def _deleted(door: Door, id: str) -> None:
    if door.json:
        door.answer({"deleted": id})
    door.say(f"{one_line(id)} deleted")


def _note_more(door: Door, page: Page[Any]) -> None:
    if page.next:
        door.note(f"more: --after {page.next}")


def _hit_as_text(hit: MessageHit, *, bold: bool) -> str:
    score = "" if hit.score is None else f"  {hit.score:.3f}"
    where = one_line(f"{hit.project_name}: {hit.conversation_title}" if hit.project_name else hit.conversation_title)
    head = f"{hit.created_at}  {hit.role}{score}  {where}\n    {hit.id} in {hit.conversation_id}"
    snippet = emphasised(" ".join(hit.snippet.split()), bold=bold)
    return f"{head}\n{paragraph(snippet, '    ')}" if snippet else head
