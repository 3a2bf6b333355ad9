"""Writes docs/mcp.md: `python -m knowlex.mcp_server.reference > docs/mcp.md`. A test compares the two."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from mcp.server.mcpserver.tools import Tool

from knowlex.access import EVERYTHING
from knowlex.facade import Knowlex
from knowlex.mcp_server.door import Door
from knowlex.mcp_server.resources import DOCUMENT, MAX_TOKENS, PROJECT_LIST
from knowlex.mcp_server.server import INSTRUCTIONS
from knowlex.mcp_server.tools import Tools

INTRODUCTION = f"""\
# MCP

<!-- Written by `python -m knowlex.mcp_server.reference`; change the tools' own descriptions instead. -->

What agents can do with Knowlex by the [Model Context Protocol](https://modelcontextprotocol.io), in its versions
2026-07-28 and 2025-11-25. [agents.md](agents.md) says how to set a client up: `knowlex mcp` serves one over standard
input and output, and `knowlex serve` any number over streamable HTTP at `/mcp`.

**Projects.** Every call is about one project, and no call searches all. It may be left out where there is only one that
could be meant: that of `knowlex mcp --project`, or of a token bound to one. Else it is an error, which names the
projects there are. What a caller may not see answers as what does not exist.

**Answers** are typed values (`structuredContent`) that fit the schema of the tool, and the same as text. What others
wrote stands in the text between marks drawn at random for each answer, and in the values beside `untrusted: true`;
characters that steer a terminal, turn the reading direction or are invisible are shown as their code, such as
`<U+001B>`. That helps a model to tell information from instructions; it cannot make it. Let agents that read
documents of others do nothing dangerous unasked.

**Errors** are results with `isError` and one line: what was given, what is wrong with it, what to do. Arguments that a
tool does not know are refused. A fault in Knowlex is told by an id alone, under which the log has where it happened.

**The model** is loaded in the background when `knowlex mcp` starts. Until it is there, searches go by words and say so
in `degraded`; in mode `vector` they wait, and report that as progress.

What the server tells every client at its start:

> {INSTRUCTIONS}

## Tools
"""

RESOURCES = f"""\
## Resources

| address | what it is |
|---|---|
| `{DOCUMENT}` | The text of a file, as `get_document` gives it, up to {MAX_TOKENS} tokens. Project: its id or name. |
| `{PROJECT_LIST}` | The projects that may be given to the tools, as JSON: \
`{{"untrusted", "projects": [{{"id", "name"}}], "next"}}`. |

`resources/list` lists the documents that are ready, page by page over the projects in scope.
"""


def reference() -> str:
    """Return the reference as Markdown."""
    tools = Tools(Door(Knowlex(), access=EVERYTHING)).all()
    return "\n".join([INTRODUCTION, *map(_section, tools), RESOURCES])


def _section(tool: Tool) -> str:
    parts = [f"### {tool.name}", tool.description, _hints(tool), _arguments(tool.parameters)]
    schema = tool.output_schema or {}
    fields = "\n".join(_fields(schema, schema.get("$defs", {})))
    return "\n\n".join([*parts, "It answers:", fields]) + "\n"


def _hints(tool: Tool) -> str:
    hints = tool.annotations
    if hints is None or hints.read_only_hint:
        return "Changes nothing."
    return "Needs a token that may write." + (" Cannot be undone." if hints.destructive_hint else "")


def _arguments(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        f"| `{name}` | {_type(one, {})} | {_default(name, one, required)} | {one.get('description', '')} |"
        for name, one in schema["properties"].items()
    ]
    return "\n".join(["| argument | type | default | meaning |", "|---|---|---|---|", *rows])


def _default(name: str, schema: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "required"
    value = schema.get("default")
    return "" if value is None else f"`{json.dumps(value)}`"


def _fields(schema: dict[str, Any], models: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Yield a line for each value of an answer, those within it further in."""
    for name, one in schema.get("properties", {}).items():
        meaning = f": {one['description']}" if "description" in one else ""
        yield f"{indent}- `{name}` ({_type(one, models)}){meaning}"
        if (inner := _model(one, models)) is not None:
            yield from _fields(inner, models, f"{indent}  ")


def _model(schema: dict[str, Any], models: dict[str, Any]) -> dict[str, Any] | None:
    """Return the model that a value is, or a list of, or may be."""
    for part in (schema, schema.get("items", {}), *schema.get("anyOf", [])):
        if "$ref" in part:
            return models[part["$ref"].rpartition("/")[2]]
    return None


def _type(schema: dict[str, Any], models: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part, models) for part in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "$ref" in schema:
        return "object"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], models)}"
    return f"{schema.get('type', 'any')}{_range(schema)}"


def _range(schema: dict[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" {schema['minimum']}–{schema['maximum']}"
    return ""


if __name__ == "__main__":
    sys.stdout.write(reference())
