"""Writes docs/python.md: `python -m knowlex.reference > docs/python.md`. A test compares the two."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from typing import Any, cast

from knowlex import (
    Hit,
    Hits,
    Knowlex,
    accessors,
    drain,
    evaluation,
    files,
    ingestion,
    passages,
    reembedding,
    search_log,
    watching,
)
from knowlex import projects as own_projects
from knowlex.access import Access
from knowlex.config import Settings
from knowlex.transfer import Imported
from pipeline.answer import Leg
from storage import (
    backup,
    chunks,
    conversations,
    erase,
    errors,
    growth,
    health,
    maintain,
    memories,
    message_search,
    messages,
    paging,
    projects,
    repair,
    runs,
    statistics,
    tokens,
    usage,
    verify,
)
from storage import files as stored_files
from workers import batch

INTRODUCTION = """\
# Python

<!-- Written by `python -m knowlex.reference`; change the docstrings instead. -->

```python
from knowlex import Knowlex, NotFoundError

with Knowlex() as kb:
    report = kb.ingest("notes", "~/notes")
    print(report.ingested, [failure.error for failure in report.failures])
    try:
        for hit in kb.search("notes", "what did we decide about refunds?", k=3):
            print(hit.score, hit.file, hit.text)
    except NotFoundError as error:
        print(error.message)
```

All calls are synchronous, and one object may be used by many threads. What is returned are dataclasses, listed
[below](#what-is-returned), unless said otherwise. Where the answer is large there is a call for a page of it: `after`
is the `next` of the page before. An object that was closed opens again at its next call.
"""

PARTS = """\
## Parts of a message

The content of a message is a list of parts, each an object with a `type`. What else it holds is kept as it is given;
only the text of text parts is searched.

| `type` | fields |
|---|---|
| `text` | `text`, a string |
| `image_ref` | one at least that says where the image is, a string: `uri`, `path`, `file_id` or another |
| `tool_call` | `name`, a string: of the tool; its arguments under any name; `id`, a string, names the call |
| `tool_result` | one at least: what the tool gave, under any name such as `content`; `tool_call_id`, a string, names \
the call that it answers |
"""

ERRORS = """\
## Errors

All are in `knowlex`, and all derive from `KnowlexError`. `message` is one line: the input, the cause, the remedy;
`code` names the cause for programs.
"""

OBJECTS: dict[str, type] = {
    "kb": Knowlex,
    "kb.projects": accessors.Projects,
    "kb.memories": accessors.Memories,
    "kb.conversations": accessors.Conversations,
    "kb.settings": accessors.AppSettings,
    "kb.tokens": accessors.Tokens,
    "hits": Hits,
    "kb.files(…)": files.Files,
    "kb.passages(…)": passages.Passages,
    "kb.projects.list()": own_projects.ProjectSummaries,
    "kb.batch(…)": ingestion.Ingestion,
    "kb.watch(…)": watching.Watch,
    "kb.drain(…)": drain.Drain,
    "kb.reembedding(…)": reembedding.Reembedding,
}
"""What has methods, under the name that they are called by."""

RETURNED: tuple[type, ...] = (
    Settings,
    batch.Report,
    batch.Failure,
    batch.Stages,
    batch.Slow,
    batch.PassedOver,
    drain.Drained,
    reembedding.Reembedded,
    Hit,
    Leg,
    files.FileRow,
    files.FileFacts,
    files.FileDetails,
    passages.PassageRow,
    chunks.Chunk,
    stored_files.File,
    own_projects.Project,
    own_projects.ProjectSummary,
    projects.Removed,
    memories.Memory,
    conversations.Conversation,
    conversations.Summary,
    conversations.ConversationWithMessages,
    messages.Message,
    message_search.MessageHit,
    message_search.MessagePage,
    Imported,
    tokens.NewToken,
    tokens.Token,
    Access,
    paging.Page,
    evaluation.Evaluation,
    evaluation.Judged,
    evaluation.Degraded,
    evaluation.Difference,
    statistics.Statistics,
    statistics.TableSize,
    statistics.ProjectSize,
    runs.Run,
    search_log.SlowSearch,
    usage.DayUsage,
    usage.ProjectUsage,
    growth.Sample,
    growth.Growth,
    health.Health,
    health.Check,
    verify.Problem,
    repair.Repaired,
    backup.Backup,
    backup.Restored,
    maintain.Maintained,
    maintain.Task,
    erase.Target,
    erase.Erased,
)
"""What methods return, and what is in that."""

INNER = {"engine", "database", "require_database", "abandon", "takes_hidden"}
"""What the doors of Knowlex need of these objects, and programs do not."""

OPERATORS = {"__getitem__": "{of}[{given}]", "__setitem__": "{of}[{given}] = value", "__delitem__": "del {of}[{given}]"}


def reference() -> str:
    """Return the reference as Markdown."""
    parts = [INTRODUCTION, *(part for name, made in OBJECTS.items() for part in _object(name, made))]
    parts += ["## What is returned\n", *(part for made in RETURNED for part in _returned(made))]
    tree = (errors.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    return "\n".join([*parts, PARTS, ERRORS, f"```\n{tree}\n```\n"])


def methods(made: type) -> Iterator[tuple[str, Any]]:
    """Yield what programs may use of a class, in the order it stands there."""
    for name, member in vars(made).items():
        public = not name.startswith("_") or name in OPERATORS
        usable = inspect.isfunction(member) or isinstance(member, property | cached_property)
        if public and usable and name not in INNER:
            yield name, member


def _object(name: str, made: type) -> Iterator[str]:
    title = name if name != "kb" else "Knowlex"
    yield f"## {title}\n\n{_text(made)}\n"
    if made is Knowlex:
        yield f"```python\nkb = Knowlex{_signature(Knowlex.__init__, returns=False)}\n```\n"
    for method, member in methods(made):
        yield f"### {name}.{method}\n" if method not in OPERATORS else f"### {_operator(method, name)}\n"
        if inspect.isfunction(member) and method not in OPERATORS:
            yield f"```python\n{name}.{method}{_signature(member)}\n```\n"
        yield f"{_text(member)}\n"


def _operator(method: str, name: str) -> str:
    return OPERATORS[method].format(of=name, given="number" if name == "hits" else "key")


def _signature(function: Any, *, returns: bool = True) -> str:
    """Return parameters and result as they stand in the source, on lines of their own where they are many."""
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    given = [_parameter(each) for each in parameters]
    if not any(each.kind is each.VAR_POSITIONAL for each in parameters):
        by_name = [number for number, each in enumerate(parameters) if each.kind is each.KEYWORD_ONLY]
        if by_name:
            given.insert(by_name[0], "*")
    result = f" -> {signature.return_annotation}" if returns else ""
    line = f"({', '.join(given)}){result}"
    if len(line) <= 90:
        return line
    return "(\n" + "".join(f"    {each},\n" for each in given) + f"){result}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = "" if parameter.default is parameter.empty else f" = {_shown(parameter.default)}"
    return f"{stars}{parameter.name}: {parameter.annotation}{default}"


def _shown(value: object) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    return "…" if callable(value) or type(value) is object else repr(value)


def _returned(made: type) -> Iterator[str]:
    yield f"### {made.__name__}\n\n{_text(made)}\n"
    if dataclasses.is_dataclass(made):
        fields = "".join(f"{field.name}: {field.type}\n" for field in dataclasses.fields(made))
        yield f"```\n{fields}```\n"
    for name, member in methods(cast("type", made)):
        call = f"{name}{_signature(member)}" if inspect.isfunction(member) else name
        yield f"`{call}`: {_text(member)}\n"


def _text(thing: object) -> str:
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


if __name__ == "__main__":
    sys.stdout.write(reference())
