"""Whatever a client gives to a tool is answered as its schema says, or with an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp_client import Agent, connected, text_of
from mcp_types import Tool

from knowlex import Knowlex
from knowlex.access import EVERYTHING
from knowlex.mcp_server.door import Door
from knowlex.mcp_server.server import create

CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
SQL = [
    "'; DROP TABLE projects; --",
    '" OR 1=1 --',
    "%",
    "_",
    "\\",
    "NEAR(a b)",
    "a AND NOT b",
    "*",
    "x'00'",
    "{}",
    "[]",
]
READING = ("search", "get_document", "list_files", "ingest_status", "recall", "search_conversations")


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knowlex]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "keeper.md").write_text("# Log\n\nThe lighthouse keeper wrote it into the log.\n")
    with Knowlex(folder / "knowlex.db", workers=1) as kb:
        kb.ingest("p", folder / "keeper.md", progress=False)
        kb.memories.add("p", "Keeper", "He keeps a log.", tags=["log"])
        kb.conversations.add(kb.conversations.create("Talk", project="p").id, "user", "Who keeps the log?")
        kb.search("p", "keeper", sources=["memories", "messages"])
        yield kb


@pytest.fixture(scope="module")
def agent(kb: Knowlex) -> Iterator[Agent]:
    with connected(create(Door(kb, access=EVERYTHING, project="p"))) as agent:
        yield agent


@pytest.fixture(scope="module")
def tools(agent: Agent) -> dict[str, Tool]:
    return {tool.name: tool for tool in agent.run(agent.client.list_tools()).tools}


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return what makes values that fit a schema, of those that our tools have."""
    if "anyOf" in schema:
        return st.one_of([values(part) for part in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "null":
            return st.none()
        case "integer":
            low, high = schema.get("minimum"), schema.get("maximum")
            return st.integers(low, high) | st.sampled_from([low, high])
        case "string":
            low, high = schema.get("minLength", 0), min(schema.get("maxLength", 200), 200)
            return st.text(min_size=low, max_size=high) | st.sampled_from(SQL) | st.sampled_from(["keeper", "log"])
        case "array":
            return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=schema["maxItems"])
        case "object":
            return st.dictionaries(st.text(max_size=20), JSON, max_size=5)
        case kind:
            raise AssertionError(f"a schema of type {kind} is new here: say what values it has")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50) | st.sampled_from(SQL),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def fitting(draw: st.DrawFn, schema: dict[str, Any]) -> dict[str, Any]:
    """Draw arguments that fit the schema of a tool; most often of a project that is there."""
    chosen: dict[str, Any] = {}
    for name, one in schema["properties"].items():
        if name == "project":
            chosen |= draw(st.sampled_from([{}, {}, {"project": "p"}, {"project": None}])) or {}
        elif name in schema.get("required", []) or draw(st.booleans()):
            chosen[name] = draw(values(one))
    return chosen


@st.composite
def other(draw: st.DrawFn, schema: dict[str, Any]) -> dict[str, Any]:
    """Draw arguments of which some are anything, whatever the schema says."""
    chosen = draw(fitting(schema))
    for name in draw(st.lists(st.sampled_from([*schema["properties"], "unknown"]), min_size=1, max_size=3)):
        chosen[name] = draw(JSON)
    return chosen


def held(agent: Agent, tool: Tool, arguments: dict[str, Any]) -> bool:
    """Call a tool; its answer must fit its schema, or be an error that tells what is wrong. Return whether it did."""
    result = agent.ask(tool.name, **arguments)
    if result.is_error:
        assert result.structured_content is None
        assert "fault in Knowlex" not in text_of(result), (tool.name, arguments)
        assert len(text_of(result).splitlines()) == 1
        return False
    assert tool.output_schema is not None
    jsonschema.validate(result.structured_content, tool.output_schema)
    return True


def counted(kb: Knowlex) -> tuple[int, int, int]:
    figures = kb.stats("p")
    return figures.chunks, figures.messages, figures.files["ready"]


def fuzzed(kb: Knowlex, agent: Agent, tools: dict[str, Tool], examples: int) -> tuple[int, int]:
    """Call every tool with as many drawn arguments, and return how many calls there were, and how many answered."""
    before = counted(kb)
    told = [answered for tool in tools.values() for answered in called(kb, agent, tool, examples)]
    assert counted(kb) == before
    assert [project.project.name for project in kb.projects.list()] == ["p"]
    return len(told), sum(told)


def called(kb: Knowlex, agent: Agent, tool: Tool, examples: int) -> list[bool]:
    """Call a tool with drawn arguments, and return of each call whether it was answered."""
    told: list[bool] = []

    @settings(max_examples=examples, suppress_health_check=CALM, database=None, derandomize=examples < 100)
    @given(st.data())
    def call(data: st.DataObject) -> None:
        fits = data.draw(st.booleans())
        arguments = data.draw(fitting(tool.input_schema) if fits else other(tool.input_schema))
        memories = kb.stats("p").memories
        told.append(held(agent, tool, arguments))
        if tool.name in READING:
            assert kb.stats("p").memories == memories

    call()
    return told


@pytest.mark.row(24)
def test_whatever_is_given_is_answered(kb: Knowlex, agent: Agent, tools: dict[str, Tool]) -> None:
    calls, answers = fuzzed(kb, agent, tools, 12)
    assert calls >= 8 * 12
    assert answers > calls / 5
    assert kb.verify() == []


@pytest.mark.soak
@pytest.mark.row(24)
def test_thousands_of_calls_are_answered(kb: Knowlex, agent: Agent, tools: dict[str, Tool], figure: Any) -> None:
    calls, answers = fuzzed(kb, agent, tools, 250)
    sound = kb.verify(deep=True) == []
    figure(
        24,
        f"MCP: {calls} calls, {answers} answered as their schema says, the others refused with reason",
        sound and calls >= 1000,
    )
