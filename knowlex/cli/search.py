"""`knowlex search …`: which passages matter for a question?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from knowlex.cli.door import Command, Door, pass_door
from knowlex.terminal import one_line, shows_bold

if TYPE_CHECKING:
    from knowlex.hits import Hits


mode_option = click.option(
    "--mode",
    type=click.Choice(["hybrid", "text", "vector"]),
    default="hybrid",
    show_default=True,
    help="By words, by meaning, or by both.",
)


@click.command(cls=Command)
@click.argument("project")
@click.argument("query")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many passages to return.")
@mode_option
@click.option(
    "--source", "sources", default="files", show_default=True, help="Of files, memories, messages: a comma list."
)
@click.option(
    "--filter", "filters", metavar="EXPR", help='Only passages of which this is true: "page >= 3"; see docs/search.md.'
)
@click.option("--window", type=click.IntRange(min=0), default=0, help="Passages to add before and behind each hit.")
@click.option("--section", is_flag=True, help="Add the passages around each hit that have the same headings.")
@click.option("--merge", is_flag=True, help="Show hits that touch in their file as one.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Leave out hits that do not fit into so many tokens.")
@click.option("--rerank", is_flag=True, help="Order the first passages by the cross-encoder of rerank_model.")
@click.option("--mmr", is_flag=True, help="Put what says something new before what repeats a hit above it.")
@click.option("--collapse", is_flag=True, help="Show a text that stands in several files once, with all their paths.")
@click.option(
    "--min-score",
    type=float,
    help="Leave out hits that score less: 0 to 1 is sensible; in mode text, a share of the highest score possible.",
)
@click.option("--explain", is_flag=True, help="Say how each score came about.")
@click.option(
    "--syntax",
    type=click.Choice(["plain", "fts5"]),
    default="plain",
    show_default=True,
    help="plain takes any words, quoted ones as a phrase; fts5 is SQLite's query language. For the text leg alone.",
)
@pass_door
def search(door: Door, project: str, query: str, **options: Any) -> None:
    """Search PROJECT for the passages that answer QUERY.

    A file is named by its base name, an attachment behind its mail, and by its path where several hits have the same
    name; --json has all paths.

    --filter compares what is known of a passage: file, path, folder, extension, kind, mime_type, size, modified, page
    and heading of files, type, tags and importance of memories, role and conversation of messages, title, created_at
    and updated_at; any other key is looked up in the file's metadata. It knows = != < <= > >= in, not in, and, or and
    parentheses; text stands in quotes. JSON of the same meaning begins with a brace.

    \b
    Example:
      knowlex search handbook "how do refunds work?" -k 3
      knowlex search handbook "ADR-016" --mode text --json
      knowlex search handbook "refunds" --filter "kind = 'pdf' and page >= 3"
      knowlex search handbook "refunds" --filter "folder = 'docs' and author in ('Ada', 'Grace')"
      knowlex search handbook "notice periods" --rerank --mmr --collapse
      knowlex search handbook "notice periods" --section --merge --max-tokens 2000
    """
    with door.open() as kb:
        hits = kb.search(project, query, **options)
    show_hits(door, hits)


def show_hits(door: Door, hits: Hits) -> None:
    """Print what a search found."""
    from knowlex.hits import as_text
    from pipeline.left_out import is_still_to_read

    if door.json:
        door.answer(hits.as_dict())
        return
    door.say(as_text(hits, bold=shows_bold()))
    for note in hits.notes:
        # Here no worker need be running.
        door.note(one_line(f"{note}: run knowlex work --once" if is_still_to_read(note) else note))
    for leg, ran in hits.legs.items():
        if ran.degraded:
            door.note(f"{leg} leg: {ran.degraded}")
