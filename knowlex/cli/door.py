"""What all commands share: the options before or behind a command's name, and how it answers."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from knowlex.cli import exit_codes, streams
from knowlex.terminal import is_terminal, one_line, quantity
from storage.errors import KnowlexError, NotFoundError

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from workers.batch import Failure

SHOWN_FAILURES = 20

INSTALL_SERVER = "install Knowlex with its extra: in a clone, pip install -c configs/constraints.txt '.[server]'"
"""What to do where the libraries of `serve` and `mcp` are missing."""


@dataclass(slots=True)
class Door:
    """What the shared options said, wherever they stood."""

    db: Path | None = None
    config: Path | None = None
    json: bool = False
    log_format: str | None = None
    verbose: int = 0
    writes: bool = False
    """Whether the command changes anything, and does so before it answers."""

    @contextmanager
    def open(self, *, existing: bool = False, **settings: Any) -> Generator[Knowlex]:
        """Give the database and the settings of this call, and write the log as they say.

        existing: raise NotFoundError where there is no database, as a list of what a mistyped one holds is empty.
        settings: those that flags of the command gave; None for one that none did.
        """
        from knowlex.facade import Knowlex
        from knowlex.log_output import to_stderr

        level = {0: None, 1: "info"}.get(self.verbose, "debug")
        kb = Knowlex(self.db, config=self.config, log_format=self.log_format, log_level=level, **settings)
        self.log_format = kb.configuration.log_format
        kb.on_new = self._note_new
        announced = self.log_format == "text" and is_terminal(sys.stderr)
        with to_stderr(self.log_format, kb.configuration.log_level, announce=announced), kb:
            self._note_unknown_variables()
            try:
                if existing:
                    kb.require_database()
                yield kb
            except NotFoundError as error:
                if (told := located(error, kb)) is error:
                    raise
                raise told from error
            finally:
                self._note_copy(kb.schema_copy)

    def _note_new(self, database: Path) -> None:
        """Print which database was made: where one was there already, its name was mistyped."""
        if not self.logs_json:
            self.note(one_line(f"new database: {database}"))

    def _note_copy(self, copy: Path | None) -> None:
        """Print where the database is kept as it was before its schema was changed, in whichever command that was."""
        if copy is not None and not self.logs_json:
            self.note(one_line(f"the schema was changed; the database as it was: {copy}"))

    @property
    def progress(self) -> bool | None:
        """Whether to show a bar: None where a person looks on, never under --json or beside a log for machines."""
        return False if self.json or self.logs_json else None

    @property
    def logs_json(self) -> bool:
        """Whether standard error is a log for machines, which tells nothing by name."""
        return self.log_format == "json"

    def answer(self, value: Any) -> None:
        """Print one JSON value: the only thing on standard output."""
        # Half a character (a file name or argument that is not UTF-8) becomes its JSON escape.
        text = json.dumps(value, ensure_ascii=False, default=_json)
        with streams.answering(done=self.writes):
            click.echo(text.encode("utf8", "backslashreplace"))

    def say(self, text: str) -> None:
        """Print text for people to standard output; nothing under --json."""
        if not self.json:
            with streams.answering(done=self.writes):
                click.echo(text)

    def confirm(self, yes: bool, question: str, *, required: bool = True) -> None:
        """Ask, unless `yes`, and end the command at a no.

        Where nobody can answer, raises click.UsageError, or takes it for a yes unless it is `required`.
        """
        if yes:
            return
        if self.json or not is_terminal(sys.stdin):
            if not required:
                return
            raise click.UsageError("nobody is asked under --json or without a terminal: give --yes.")
        if not click.confirm(question, err=True):
            self.note("nothing was done")
            raise click.exceptions.Exit(exit_codes.SOME_FAILED)

    def _note_unknown_variables(self) -> None:
        from knowlex.config import unknown_variables

        if self.logs_json:
            return
        for name, near in unknown_variables().items():
            remedy = f"did you mean {near}?" if near else "configs/default.toml lists the settings"
            self.note(one_line(f"{name}: names no setting and changes nothing; {remedy}"))

    def note_failures(self, failures: Sequence[Failure], project: str | None) -> None:
        """Print the first files that failed, and why; under --json the answer says it.

        project: whose files they are; None where they may be of several.
        """
        if self.json or self.logs_json:
            return
        for failure in failures[:SHOWN_FAILURES]:
            self.note(one_line(f"{failure.path}: {failure.error}"))
        if more := len(failures[SHOWN_FAILURES:]):
            whose = "PROJECT" if project is None else shlex.quote(project)
            self.note(one_line(f"and {more} more: knowlex files {whose} --status failed lists all"))

    def note_waiting(self, why: str, waiting: int) -> None:
        """Print that a run ended before it was done, and how to go on; a log for machines says so itself."""
        if self.logs_json:
            return
        wait = f": {quantity(waiting, 'file')} wait{'s' * (waiting == 1)}" if waiting else ""
        self.note(f"{why}{wait}; run the same command to go on")

    def note(self, text: str) -> None:
        """Print a line on the side: to standard error."""
        streams.tell(text)


def located(error: KnowlexError, kb: Knowlex) -> KnowlexError:
    """Return an error with the database in which a project was looked for, and with a like name: one may be wrong."""
    if not isinstance(error, NotFoundError) or error.project is None:
        return error
    near = get_close_matches(error.project, [each.project.name for each in kb.projects.list()], n=1)
    remedy = f"did you mean {near[0]}?" if near else "list them with knowlex project list"
    return NotFoundError(f"no project named {error.project} in {kb.path}; {remedy}")


def _json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    raise TypeError(f"{type(value).__name__} cannot be said in JSON")


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
pass_door = click.make_pass_decorator(Door, ensure=True)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Note a shared option; one that is not given leaves what stood before the command's name."""
    door = context.ensure_object(Door)
    if value and parameter.name:
        setattr(door, parameter.name, value)


def _shared_options() -> list[click.Option]:
    path = click.Path(path_type=Path)
    return [
        click.Option(
            ["--db"],
            metavar="PATH",
            type=path,
            expose_value=False,
            callback=_keep,
            help="The database. Default: KNOWLEX_DB, else knowlex.db in the user's data folder.",
        ),
        click.Option(
            ["--config"],
            metavar="FILE",
            type=path,
            expose_value=False,
            callback=_keep,
            help="A TOML file with settings; configs/default.toml lists them all.",
        ),
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_keep, help="Answer as one JSON value on stdout."
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_keep,
            help="How the log on stderr is written; docs/logs.md lists its events. Default: text.",
        ),
        click.Option(
            ["-v", "--verbose"], count=True, expose_value=False, callback=_keep, help="Log to stderr; -vv logs more."
        ),
    ]


class Command(click.Command):
    """A command that knows the shared options; writes: whether it changes anything before it answers."""

    def __init__(self, *arguments: Any, writes: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.writes = writes
        self.params += _shared_options()

    def invoke(self, ctx: click.Context) -> Any:
        ctx.ensure_object(Door).writes = self.writes
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _of_this(ctx):
            return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of commands; the shared options may stand before the command's name, too."""

    command_class = Command
    group_class = type

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params += _shared_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _of_this(ctx):
            return super().parse_args(ctx, args)


@contextmanager
def _of_this(context: click.Context) -> Generator[None]:
    """Have an error in arguments point to the help of its command, which is printed while they are read."""
    try:
        with streams.answering():
            yield
    except click.UsageError as error:
        error.ctx = error.ctx or context
        raise
