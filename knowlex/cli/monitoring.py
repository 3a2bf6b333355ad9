"""`knowlex stats` and `knowlex health`: how much there is, how it is used, and whether all is well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from knowlex.cli import exit_codes, pages
from knowlex.cli.door import Command, Door, pass_door
from knowlex.terminal import one_line, quantity, size, table

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from storage.health import Health
    from storage.paging import Page

SPANS = {"day": 1, "week": 7, "month": 30}
"""Over how many days growth is told."""


@click.command(cls=Command)
@click.argument("project", required=False)
@click.option("--tables", is_flag=True, help="Also what each table takes on disk, and the largest projects.")
@click.option("--slow", is_flag=True, help="Also the searches slower than `slow_query_ms`; never what was asked.")
@click.option("--usage", is_flag=True, help="Also how often was searched each day (UTC), and in which projects.")
@click.option("--growth", is_flag=True, help="Also how the database grew, by the day (UTC).")
@click.option("--runs", is_flag=True, help="Also the last runs of ingestion, a hundred of each project at most.")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True, help="Rows of each list.")
@click.option("--after", help="Go on behind a page of --slow, --usage, --growth or --runs: its `next`.")
@pass_door
def stats(door: Door, project: str | None, limit: int, after: str | None, **wanted: bool) -> None:
    """Show how much the database, or PROJECT, holds, and how fast each stage of its ingestion went.

    PROJECT also narrows --usage and --runs; the other lists are of the whole database. --tables reads every page,
    which takes seconds where the file is large.

    \b
    Example:
      knowlex stats
      knowlex stats --usage --growth
    """
    if after is not None and sum(wanted[name] for name in ("slow", "usage", "growth", "runs")) != 1:
        raise click.UsageError("--after goes on with one list: give one of --slow, --usage, --growth and --runs.")
    with door.open() as kb:
        found = _without_keys(asdict(kb.stats(project)))
        lists = {name: _LISTS[name](kb, project, limit, after) for name, asked in wanted.items() if asked}
        path = kb.path
    if door.json:
        door.answer({"database": str(path), "project": project} | found | lists)
        return
    _say_counts(door, str(path), found)
    for name, answer in lists.items():
        _SAY[name](door, answer)


def _tables(kb: Knowlex, project: str | None, limit: int, after: str | None) -> dict[str, Any]:
    sizes, projects = kb.table_sizes(), kb.project_sizes(limit=limit)
    return {"sizes": [asdict(one) for one in sizes], "projects": [asdict(one) for one in projects]}


def _slow(kb: Knowlex, project: str | None, limit: int, after: str | None) -> dict[str, Any]:
    return _page(kb.slow_queries(limit=limit, after=after))


def _usage(kb: Knowlex, project: str | None, limit: int, after: str | None) -> dict[str, Any]:
    answer = {"days": _page(kb.usage(project, limit=limit, after=after))}
    return answer if project else answer | {"projects": _page(kb.usage_by_project(limit=limit))}


def _growth(kb: Knowlex, project: str | None, limit: int, after: str | None) -> dict[str, Any]:
    over = {name: kb.growth_over(days) for name, days in SPANS.items()}
    return {"samples": _page(kb.growth(limit=limit, after=after))} | over


def _runs(kb: Knowlex, project: str | None, limit: int, after: str | None) -> dict[str, Any]:
    return _page(kb.runs(project, limit=limit, after=after))


def _page(page: Page[Any]) -> dict[str, Any]:
    return {"items": [_without_keys(asdict(item)) for item in page.items], "next": page.next}


def _without_keys(value: Any) -> Any:
    """Return what an answer shows of a dataclass: not the keys of rows."""
    if not isinstance(value, dict):
        return value
    items: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    return {name: _without_keys(inner) for name, inner in items.items() if name != "project_pk"}


_FIRST = ("chunks", "vectors", "model", "memories", "conversations", "messages", "pending_vectors", "refused_vectors")
"""What a person wants to know behind the files; what it takes on disk comes last."""
_LABELS = {"chunks": "passages"}


def _say_counts(door: Door, path: str, found: dict[str, Any]) -> None:
    door.say(f"{'database':16} {one_line(path)}")
    for status, count in found["files"].items():
        door.say(f"{'files ' + status:16} {count}")
    if half := found["building"]:
        door.say(
            f"{'being built':16} {one_line(half['model'])}: {half['vectors']} of {half['of']} vectors, the last"
            f" at {half['at']}"
        )
    counted = [name for name in found if name not in ("files", "building", "ingestion", *_FIRST)]
    for name in (*_FIRST, *counted):
        door.say(f"{_LABELS.get(name, name.replace('_', ' ')):16} {_figure(name, found[name])}")
    if found["ingestion"]["last"]:
        _say_ingestion(door, found["ingestion"])


def _figure(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return size(value)
    return "none yet" if value is None else one_line(str(value))


def _say_ingestion(door: Door, found: dict[str, Any]) -> None:
    last, figures = found["last"], found["last"]["figures"]
    door.say(
        f"{'last run':16} {last['kind']} {last['outcome']} at {last['ended_at']}, {last['seconds']:.1f} s:"
        f" {quantity(figures['ready'], 'file')} ready ({quantity(figures['chunks'], 'passage')}),"
        f" {figures['failed']} failed"
    )
    rows = [
        (name, _passages(one["unit"]), *_shown(found["last_stages"][name]), *_shown(one))
        for name, one in found["stages"].items()
    ]
    heads = ("STAGE", "OF", "LAST RUN", "SECONDS", "A SECOND", quantity(found["runs"], "RUN", "RUNS"))
    door.say("\n" + table((*heads, "SECONDS", "A SECOND"), rows))


def _passages(unit: str) -> str:
    return "passages" if unit == "chunks" else unit


def _shown(stage: dict[str, Any]) -> tuple[Any, ...]:
    return stage["items"], round(stage["seconds"], 1), stage["per_second"]


def _say_tables(door: Door, answer: dict[str, Any]) -> None:
    rows = [(one["name"], size(one["bytes"]), size(one["index_bytes"])) for one in answer["sizes"]]
    door.say("\n" + table(("TABLE", "SIZE", "OF IT INDEXES"), rows))
    projects = [(one["name"], one["files"], one["chunks"], size(one["bytes"])) for one in answer["projects"]]
    door.say("\n" + table(("PROJECT", "FILES", "PASSAGES", "SIZE OF FILES"), projects))


def _say_slow(door: Door, answer: dict[str, Any]) -> None:
    rows = [(one["created_at"], one["project"], one["kind"], round(one["took_ms"])) for one in answer["items"]]
    door.say("\n" + table(("SLOW SEARCH", "PROJECT", "MODE", "MS"), rows))
    pages.note_more(door, answer["next"])


def _say_usage(door: Door, answer: dict[str, Any]) -> None:
    days = [
        (one["day"], one["searches"], one["hybrid"], one["text"], one["vector"], one["empty"], _mean_ms(one))
        for one in answer["days"]["items"]
    ]
    door.say("\n" + table(("DAY", "SEARCHES", "HYBRID", "TEXT", "VECTOR", "FOUND NOTHING", "MEAN MS"), days))
    if "projects" in answer:
        rows = [(p["project"], p["searches"], p["empty"], _mean_ms(p)) for p in answer["projects"]["items"]]
        door.say("\n" + table(("PROJECT, LAST 30 DAYS", "SEARCHES", "FOUND NOTHING", "MEAN MS"), rows))
    pages.note_more(door, answer["days"]["next"])


def _say_growth(door: Door, answer: dict[str, Any]) -> None:
    rows = [
        (one["day"], size(one["bytes"]), one["files"], one["chunks"], one["memories"], one["messages"], one["vectors"])
        for one in answer["samples"]["items"]
    ]
    door.say("\n" + table(("DAY", "SIZE", "FILES", "PASSAGES", "MEMORIES", "MESSAGES", "VECTORS"), rows))
    for line in _grown(answer):
        door.say(line)
    pages.note_more(door, answer["samples"]["next"])


def _say_runs(door: Door, answer: dict[str, Any]) -> None:
    rows = [
        (
            one["ended_at"], one["project"] or "all", one["kind"], one["outcome"], one["error_code"] or "",
            one["figures"]["ready"], one["figures"]["failed"], one["figures"]["chunks"], f"{one['seconds']:.1f}",
        )
        for one in answer["items"]
    ]  # fmt: skip
    heads = ("RUN ENDED", "PROJECT", "KIND", "OUTCOME", "ERROR", "READY", "FAILED", "PASSAGES", "SECONDS")
    door.say("\n" + table(heads, rows))
    pages.note_more(door, answer["next"])


def _grown(answer: dict[str, Any]) -> Iterator[str]:
    for span in SPANS:
        if over := answer[span]:
            grown = (
                _sign(over.bytes) + size(abs(over.bytes)),
                _sign(over.files) + quantity(abs(over.files), "file"),
                _sign(over.chunks) + quantity(abs(over.chunks), "passage"),
            )
            yield f"in a {span:5} {', '.join(grown)} (since {over.since})"


def _sign(count: int) -> str:
    return "-" if count < 0 else "+"


def _mean_ms(one: dict[str, Any]) -> int:
    return round(one["took_ms"] / one["searches"])


_LISTS = {"tables": _tables, "slow": _slow, "usage": _usage, "growth": _growth, "runs": _runs}
_SAY = {"tables": _say_tables, "slow": _say_slow, "usage": _say_usage, "growth": _say_growth, "runs": _say_runs}


@click.command(cls=Command)
@pass_door
def health(door: Door) -> int:
    """Tell whether the database can be used and its queue moves on, one line a check.

    Nothing is made, migrated or mended, and no check waits for long: a supervisor may ask as often as it likes.
    Exit code 0 when all is well, 3 when there is no database, else 4.

    \b
    Example:
      knowlex health
    """
    with door.open() as kb:
        found = kb.health()
    if door.json:
        door.answer(found)
    for check in found.checks:
        door.say(f"{'ok' if check.ok else 'FAILED':6}  {check.name:11}  {one_line(check.detail)}")
    return _exit_code(found)


def _exit_code(found: Health) -> int:
    if found.ok:
        return exit_codes.OK
    missing = any(check.code == "not_found" for check in found.checks)
    return exit_codes.NOT_FOUND if missing else exit_codes.DATABASE
