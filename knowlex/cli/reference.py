"""Writes docs/cli.md: `python -m knowlex.cli.reference > docs/cli.md`. A test compares the two."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from knowlex.cli import cli

INTRODUCTION = """\
# Command line

<!-- Written by `python -m knowlex.cli.reference`; change the commands' own help instead. -->

`knowlex COMMAND …`. The answer goes to standard output, progress and notes to standard error. With `--json`
the answer is exactly one JSON value; after an error standard output is empty. `--db`, `--config`, `--json`,
`--log-format` and `-v` may stand before or behind the command. Settings come from flags, then the project's own, then
`KNOWLEX_<KEY>` in the environment, then `--config FILE`, then `configs/default.toml`, which explains each; see
[settings.md](settings.md).

| exit code | meaning |
|---|---|
| 0 | ok |
| 1 | files failed (`ingest`: that had not failed before with the same bytes); or a question was answered with no |
| 2 | usage: a flag or value that cannot be used |
| 3 | not found: a project, path, id or database |
| 4 | the database, configuration or model cannot be used, or a name is taken; a check found something; the answer \
cannot be written to standard output (one that was closed before the start counts as `/dev/null`: nothing was to be \
told, and the code says how the command ended) |
| 130, 143 | ended by Ctrl-C or SIGTERM (`ingest --watch` and `serve`: 0, unless told twice or not done in \
8 s); what was not done waits for the next run |
| 141 | whoever read standard output left before its end, as `head` does; what the command was to change is changed |
| 70 | a fault in Knowlex; `-v` shows where |

## JSON

`ingest --json` prints one object. `duplicates` are new names of bytes that another file has, whatever became of
it; `chunks` and `bytes` are those of this run; a file that failed before and has
not changed counts as `unchanged`. `outdated` of those ingested have the bytes they had, but their reader, the chunking
or the model changed; `moved` of those unchanged have a new name. Files within files (a mail's attachments) count in
`attachments` and `attachments_failed`; nothing is kept of `attachments_left_out`, beyond the 200 (and 200 MB)
of a file. Uploads of the project that are read anew, as their reader, the chunking or the model has changed, lie in
none of the folders, and count in `uploads` and `uploads_failed`. Neither are among the `discovered` and what these are
split into; `chunks`, `stages`, `slowest` and `failures` have both, too. With `--watch` each run that did something
prints such an object on a line of its own. `stages` says where the time went, summed over what ran side by side
(`scan_s`: until the folders were walked and what changed was hashed), and how many passages were
embedded or had their vector already; `slowest` are the files that took the longest to parse, `passed_over` the first
of those `skipped`. `gone` files below these folders are gone from disk and stay searchable, as nothing
pruned them; `locked` are those of the `unchanged` that had failed for want of a password and that none of those given
opens; `unreadable_folders` could not be looked into: what they hold is not among the `discovered`, and stays as it is.
A `--prune` that is refused says why among the `failures`; no file failed by it.

```
{"project", "discovered", "ingested", "unchanged", "duplicates", "removed", "skipped", "failed",
 "chunks", "bytes", "seconds", "failures": [{"path", "error"}], "outdated", "moved",
 "attachments", "attachments_failed", "attachments_left_out", "slowest": [{"path", "seconds"}],
 "passed_over": [{"path", "reason"}], "gone", "locked": [{"path", "error"}],
 "unreadable_folders": [{"path", "error"}], "uploads", "uploads_failed",
 "stages": {"scan_s", "parse_s", "embed_s", "write_s", "embedded", "reused"}}
```

`files --json` prints a list; `path` is absolute, `parent` the id of the file that this one lies in, `duplicate_of`
the id of the file whose passages serve this name.

```
[{"id", "filename", "path", "status", "chunk_count", "content_hash", "size", "mime_type",
  "duplicate_of", "error_message", "attempts", "parent"}]
```

`search --json` prints one object; `degraded` is null, or says why a leg could not do its part. `rank` counts from 1;
a hit that a leg did not find has null for that leg's rank and score. `text` without the `repeated` characters at its
start, which repeat the head of its table, stands at `char_start` to `char_end` of the file's text. `link` is a
`file:` URL of the file on disk, of a PDF with `#page=`, and null for an upload, a memory or a message. `took_ms` is of
the search without its snippets; `slow_query_ms` is compared with that less the embedding of the question, which first
loads the model.
`--rerank` adds a leg of that name; behind `link`, `--window` and `--section` add `before` and `after`, `--merge` adds
`merged` (ids of the passages that became part of the hit), `--collapse` adds `also`, and `--explain` adds `also` and
`why`. `notes` behind `hits` names passages that were found and cannot be read, and says how many hits `--max-tokens`
had no room for, how many files still wait to be read (above 1,000, that they are more) and, where nothing was found,
what else was left out, as far as that is known;
without any of it, it is not there.

```
{"query", "mode", "project", "took_ms",
 "legs": {"text": {"returned", "ms", "degraded"}, "vector": {"returned", "ms", "degraded"}},
 "hits": [{"rank", "score", "source", "id", "file_id", "file", "path", "page_start", "page_end", "heading",
           "char_start", "char_end", "text", "snippet", "text_rank", "text_score", "vector_rank", "vector_score",
           "repeated", "link"}]}
```

`serve --json` prints `{"url", "database", "pid"}` once it answers requests, and nothing more.

`verify --json` prints `{"ok", "problems": [{"kind", "detail", "count"}]}`, `health --json`
`{"ok", "checks": [{"name", "ok", "detail", "code"}]}`, and `repair --json`:

```
{"mended": [{"kind", "detail", "count"}], "left": [{"kind", "detail", "count", "remedy"}], "copy"}
```

`reembed --json` prints one object. `switched`: this run made the model live; `live`: it is live now. `made` are texts
that it embedded, `reused` passages whose vector was there already, `left` those that still lack one. `cut` are longer
than the model takes; `outdated` files are cut anew by the next ingestion; `removed` counts vectors of former models.

```
{"model", "replaced", "switched", "live", "made", "reused", "left", "cut", "outdated", "removed", "seconds"}
```

`erase --json` prints one object: `removed` counts rows by table, `left` pieces of the text that no other row explains
(null: the text may be there), `kept` names the rows that have the same text, settings by their key.

```
{"kind", "id", "removed", "places": [{"place", "done", "left"}], "kept", "not_searched", "clean"}
```

`stats --json` has in `ingestion` the last run, and what passed each stage in it and in all `runs` that are kept
([logs.md](logs.md) says what the figures mean); `--runs` lists runs of that form:

```
{"runs", "last": {"id", "project", "kind", "outcome", "error_code", "started_at", "ended_at", "seconds", "figures"},
 "last_stages": {"scan": {"unit", "items", "seconds", "per_second"}, "parse", "embed", "write"}, "stages"}
```

`ingest --report` writes a line a file: `outcome` is one of `ingested`, `unchanged`, `duplicates`, `skipped`,
`failed`, `pending` (a run that was stopped) and `vanished`, or for a file within a file its status; `reason` says
why it failed, also before, or is not read, or what it was called before. `eval --report` writes a line a question:
`ms` is null where it was not timed, `missed` are relevant documents that are not among the first ten of `ranking`.

What the other commands print is below; a list that is asked for by pages (`--limit`, `--after`), and `memory list`,
`conversation list` and `conversation search` always, is an object with that list and `next`, the `--after` of the
next page or null, as `conversation show` and `answers` have it. `settings` and `metadata` are objects of your own,
`in_force` has each setting that a project may have, `content` is a list of parts, each with its `type`. `memory
search` answers as `search` does. `conversation export --output` of a damaged database adds `lost`, a list of
`{"type", "id", "detail", "count"}`: what could not be read.

| command | JSON |
|---|---|
| `ingest --report` | `{"path", "outcome", "reason"}` |
| `eval` | `{"dataset", "mode", "queries", "ndcg@10", "recall@10", "recall@100", "mrr@10", "query_ms": {"p50", \
"p95"}, "documents", "unsearchable", "seconds", "rerank", "unknown_questions", "unknown_documents"}`, with \
`--compare` also `"compare"`: by measure `{"other", "difference", "p", "better", "worse"}`, and `"unanswered"`: \
questions that the run has no line for |
| `eval --report` | `{"query", "text", "scope", "ndcg@10", "recall@10", "recall@100", "mrr@10", "ms", "ranking", \
"missed"}` |
| `retry` | `{"project", "retried", "ready", "failed", "chunks", "vectors", "seconds", "failures": [{"path", \
"error"}]}` |
| `work` | `{"project", "ready", "failed", "chunks", "vectors", "seconds", "failures": [{"path", "error"}]}` |
| `file show` | `{"id", "filename", "path", "status", "chunk_count", "content_hash", "size", "mime_type", \
"duplicate_of", "error_message", "attempts", "parent", "page_count", "error_code", "parser", "metadata", \
"created_at", "updated_at", "names", "chunks": [{"id", "index", "token_count", "char_start", "char_end", \
"page_start", "page_end", "heading", "repeated", "created_at", "text"}]}` |
| `file delete` | `{"deleted", "path"}` |
| `project create`, `project update` | `{"id", "name", "description", "settings", "created_at", "updated_at"}` |
| `project list` | `[{"id", "name", "description", "settings", "created_at", "updated_at", "files", "bytes", \
"conversations", "messages", "memories"}]` |
| `project show` | `{"id", "name", "description", "settings", "created_at", "updated_at", "files", "bytes", \
"conversations", "messages", "memories", "in_force"}` |
| `project delete` | `{"project", "removed": {"files", "chunks", "memories", "conversations", "messages"}}` |
| `memory add`, `memory show`, `memory update` | `{"id", "project_id", "title", "content", "type", "importance", \
"tags", "created_at", "updated_at"}` |
| `memory list` | `{"memories": [{"id", "project_id", "title", "content", "type", "importance", "tags", \
"created_at", "updated_at"}], "next"}` |
| `memory delete`, `conversation delete`, `conversation delete-message`, `settings delete` | `{"deleted"}` |
| `conversation create`, `conversation update` | `{"id", "project_id", "project_name", "title", "settings", \
"created_at", "updated_at", "message_count"}` |
| `conversation list` | `{"conversations": [{"id", "project_id", "project_name", "title", "settings", "created_at", \
"updated_at", "message_count", "last_message_at", "last_message_preview"}], "next"}` |
| `conversation show` | `{"id", "project_id", "project_name", "title", "settings", "created_at", "updated_at", \
"message_count", "messages": [{"id", "conversation_id", "role", "content", "parent_id", "created_at", \
"updated_at"}]}` |
| `conversation add`, `conversation edit-message`, `conversation show-message` | `{"id", "conversation_id", "role", \
"content", "parent_id", "created_at", "updated_at"}` |
| `conversation thread` | `[{"id", "conversation_id", "role", "content", "parent_id", "created_at", "updated_at"}]` \
|
| `conversation answers` | `{"messages": [{"id", "conversation_id", "role", "content", "parent_id", "created_at", \
"updated_at"}], "next"}` |
| `conversation search` | `{"messages": [{"id", "conversation_id", "role", "content", "created_at", \
"conversation_title", "project_id", "project_name", "snippet", "score"}], "next"}`, and `degraded` where not all of \
QUERY was searched for |
| `conversation export --output` | `{"file", "conversations", "messages"}` |
| `conversation import` | `{"conversations", "messages", "unchanged_conversations", "unchanged_messages"}` |
| `token create` | `{"token", "id"}`, the only time that the token is shown |
| `token list` | `[{"id", "name", "write", "all_projects", "projects": [{"id", "name"}], \
"created_at", "last_used_at", "revoked_at"}]` |
| `token revoke` | `{"revoked", "revoked_at"}` |
| `backup` | `{"file", "bytes", "schema", "files", "chunks", "projects", "memories", "conversations", "messages"}` |
| `restore` | `{"database", "schema", "files", "chunks", "projects", "memories", "conversations", "messages", "kept", \
"uploads_without_bytes"}` |
| `maintain` | `{"tasks": [{"name", "took_ms", "detail"}], "bytes_before", "bytes_after", "clean"}` |
| `migrate` | `{"version", "taken"}` |

## Commands
"""


def reference() -> str:
    """Return the reference as Markdown."""
    context = click.Context(cli, info_name="knowlex")
    parts = [INTRODUCTION, _options(cli, skip_shared=False)]
    parts += [_section(command, path) for path, command in commands(cli, context)]
    return "\n".join(part for part in parts if part)


def commands(group: click.Group, context: click.Context, path: str = "knowlex") -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group with its full name, in the order of the names."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            continue
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, context, f"{path} {name}")


def _section(command: click.Command, path: str) -> str:
    usage = " ".join([path, *_arguments(command)])
    text, _, example = inspect.cleandoc(command.help or "").partition("\b\n")
    commands = inspect.cleandoc(example.removeprefix("Example:\n"))
    parts = [f"### {usage}\n", text.strip() + "\n", _options(command), f"```sh\n{commands}\n```\n" if commands else ""]
    return "\n".join(part for part in parts if part)


def _arguments(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            name = parameter.metavar or (parameter.name or "").upper()
            yield name if parameter.required else f"[{name}]"
    if isinstance(command, click.Group):
        yield "COMMAND"


SHARED = {"db", "config", "json", "log_format", "verbose"}


def _options(command: click.Command, *, skip_shared: bool = True) -> str:
    options = [p for p in command.params if isinstance(p, click.Option)]
    rows = [_option(option) for option in options if not (skip_shared and option.name in SHARED)]
    return "\n".join(["| option | meaning |", "|---|---|", *rows, ""]) if rows else ""


def _option(option: click.Option) -> str:
    value = "" if option.is_flag or option.count else f" {_metavar(option)}"
    # Flags and counters have a default that goes without saying.
    says = option.show_default and option.default is not None
    default = f" Default: {option.default}." if says else ""
    return f"| `{', '.join(option.opts)}{value}` | {option.help}{default} |".replace("\n", " ")


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "\\|".join(str(choice) for choice in option.type.choices)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    return "N" if option.type.name in ("integer", "integer range", "float", "float range") else "TEXT"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
