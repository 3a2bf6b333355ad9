"""No tool or resource shows anything of another project, or tells what documents say as if it said so itself."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp_client import Agent, connected, text_of

from knowlex import Knowlex
from knowlex.access import Access
from knowlex.mcp_server.answers import NOTICE, Answer, Line, ProjectRow, Text
from knowlex.mcp_server.door import Door
from knowlex.mcp_server.scope import PROJECTS, document_uri
from knowlex.mcp_server.server import create
from knowlex.untrusted import FENCE, neutral


@dataclass(frozen=True)
class Place:
    """A project, and the ids of what is in it; canary: a word that stands in all of it, and nowhere else."""

    id: str
    name: str
    canary: str
    file: str
    memory: str
    message: str
    passage: str

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.id, self.file, self.memory, self.message, self.passage)


def made(kb: Knowlex, folder: Path, number: int) -> Place:
    canary = f"zq{number:02}canary"
    folder = folder / canary
    folder.mkdir()
    (folder / f"{canary}.md").write_text(f"# {canary} heading\n\nThe lighthouse keeper wrote {canary} into the log.\n")
    name = f"project {canary}"
    kb.ingest(name, folder, progress=False)
    project = kb.project(name)
    memory = kb.memories.add(project.id, f"{canary} title", f"The keeper remembers {canary}.", tags=[canary])
    talk = kb.conversations.create(f"{canary} talk", project=project.id)
    message = kb.conversations.add(talk.id, "user", f"Did the keeper say {canary}?")
    [row] = kb.files(project.id)
    [passage] = kb.passages_of_file(project.id, row.id)
    return Place(project.id, name, canary, row.id, memory.id, message.id, passage.id)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Knowlex, list[Place]]]:
    """Four projects."""
    with _world(tmp_path_factory.mktemp("scope"), 4) as world:
        yield world


class _world:
    def __init__(self, folder: Path, projects: int) -> None:
        self._kb = Knowlex(folder / "knowlex.db", workers=1)
        self._folder, self._projects = folder, projects

    def __enter__(self) -> tuple[Knowlex, list[Place]]:
        places = [made(self._kb, self._folder, number) for number in range(self._projects)]
        self._kb.search(places[0].id, "keeper", sources=["memories", "messages"])
        return self._kb, places

    def __exit__(self, *_: object) -> None:
        self._kb.close()


NOWHERE = "0190a000-0000-7000-8000-000000000000"
"""An id that nothing has."""

Ask = Callable[[Agent], str]
MODES = ["hybrid", "text", "vector"]
SOURCES = [["files"], ["memories"], ["messages"], ["files", "memories", "messages"]]


def tool(name: str, **arguments: Any) -> Ask:
    return lambda agent: _dumped(agent.ask(name, **arguments))


def paths(chosen: random.Random) -> dict[str, Callable[[str, str], Ask]]:
    """Return by name every way to ask: for an id or a word, in a project."""
    mode, sources = chosen.choice(MODES), chosen.choice(SOURCES)
    return {
        "search": lambda word, of: tool("search", project=of, query=word, mode=mode, sources=sources, k=50),
        "filters": lambda word, of: tool("search", project=of, query="keeper", filters=f"file = '{word}.md'"),
        "get_document": lambda id, of: tool("get_document", project=of, document=id),
        "list_files": lambda _, of: tool("list_files", project=of),
        "ingest_status": lambda _, of: tool("ingest_status", project=of),
        "recall": lambda word, of: tool("recall", project=of, query=word),
        "latest": lambda _, of: tool("recall", project=of),
        "tag": lambda word, of: tool("recall", project=of, tag=word),
        "remember": lambda word, of: tool("remember", project=of, title="Log", content="Kept."),
        "forget": lambda id, of: tool("forget", project=of, memory_id=id),
        "search_conversations": lambda word, of: tool("search_conversations", project=of, query=word, mode=mode),
        "resource": lambda id, of: lambda agent: _read(agent, document_uri(of, id)),
        "resources": lambda _, __: lambda agent: json.dumps(agent.resources()),
        "projects": lambda _, __: lambda agent: agent.read(PROJECTS),
    }


BY_ID = {"get_document": "file", "forget": "memory", "resource": "file"}
"""The ways that take an id, and of what."""


def _dumped(result: Any) -> str:
    return result.model_dump_json()


def _read(agent: Agent, uri: str) -> str:
    try:
        return agent.read(uri)
    except MCPError as error:
        return str(error)


def foreign(kb: Knowlex, places: list[Place], questions: int, seed: int) -> tuple[int, list[str]]:
    """Ask so often, on every path in turn, as callers of one project or two; return how often, and what leaked."""
    chosen = random.Random(seed)
    seen, leaks = 0, []
    ways = itertools.cycle(itertools.product(paths(chosen), ("own", "foreign")))
    while seen < questions:
        own = chosen.sample(places, chosen.choice([1, 2]))
        others = [place for place in places if place not in own]
        access = Access(frozenset(place.id for place in own), write=True, caller="t")
        with connected(create(Door(kb, access=access)), chosen.choice(["auto", "legacy"])) as agent:
            for name, where in itertools.islice(ways, min(28, questions - seen)):
                seen += 1
                leaks += leaked(agent, chosen.choice(own), chosen.choice(others), name, where, chosen)
    return seen, leaks


def leaked(agent: Agent, own: Place, other: Place, name: str, where: str, chosen: random.Random) -> list[str]:
    """Ask for what is out of scope: it must show nothing of it, and answer as for what does not exist.

    where: in the caller's own project, or in that of the other.
    """
    call = paths(chosen)[name]
    project = chosen.choice([own.id, own.name] if where == "own" else [other.id, other.name])
    key = getattr(other, BY_ID[name]) if name in BY_ID else chosen.choice([other.canary, *other.ids])
    answer = call(key, project)(agent)
    shown = without(answer, key, project)
    found = [f"{name}: {word}" for word in (other.canary, *other.ids) if word in shown]
    # Another word finds other passages of the caller's own project: only what is asked by an id is the same there.
    if where == "own" and name not in BY_ID:
        return found
    missing = "nowherecanary" if key == other.canary else NOWHERE
    nothing = {other.id: NOWHERE, other.name: "project nowhere"}.get(project, project)
    if timeless(answer, key, project) != timeless(call(missing, nothing)(agent), missing, nothing):
        found.append(f"{name}: answers otherwise than for what does not exist")
    return found


def without(answer: str, *given: str) -> str:
    """Return an answer without what the caller gave himself."""
    for text in sorted(given, key=len, reverse=True):
        answer = answer.replace(text, "")
    return answer


def timeless(answer: str, *given: str) -> str:
    """Return an answer without what was given, and what no two answers share: times, marks and scores."""
    answer = without(answer, *given)
    answer = re.sub(r"[0-9a-f]{32}", "", answer)
    return re.sub(r'"(took_ms|score)":[^,}]*', "", answer)


@pytest.mark.row(25)
def test_nothing_of_another_project_is_shown(world: tuple[Knowlex, list[Place]]) -> None:
    kb, places = world
    seen, leaks = foreign(kb, places, 84, seed=1)
    assert (seen, leaks) == (84, [])
    assert all(kb.memories.get(place.memory) for place in places)


@pytest.mark.soak
@pytest.mark.row(25)
def test_a_thousand_questions_over_twenty_projects(tmp_path: Path, figure: Any) -> None:
    with _world(tmp_path, 20) as (kb, places):
        seen, leaks = foreign(kb, places, 1000, seed=2)
        kept = all(kb.memories.get(place.memory) for place in places)
    figure(
        25, f"MCP: {seen} questions of callers of 20 projects: {len(leaks)} saw what is not theirs", kept and not leaks
    )


# --- what others wrote -------------------------------------------------------------------------------

CORPUS = Path(__file__).parents[1] / "data" / "untrusted.jsonl"
PAYLOADS = [
    f"{json.loads(line)['text']} lighthouse{number}"
    for number, line in enumerate(CORPUS.read_text("utf8").splitlines())
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Fifty payloads, each in the text, heading and name of a file, and some in memories and messages."""
    folder = tmp_path_factory.mktemp("hostile")
    assert len(PAYLOADS) >= 50
    for number, payload in enumerate(PAYLOADS):
        payload = payload.encode("utf8", "replace").decode("utf8")
        line = payload.replace("\n", " ").replace("/", "∕").replace("\0", "")
        name = f"{number:02} {line}".encode()[:200].decode("utf8", "ignore")
        (folder / f"{name}.md").write_text(f"# {line}\n\n{payload}\n", "utf8")
    with Knowlex(folder / "knowlex.db", workers=1) as kb:
        report = kb.ingest("hostile", folder, include=["*.md"], progress=False)
        assert (report.ingested, report.failed) == (len(PAYLOADS), 0)
        talk = kb.conversations.create(PAYLOADS[0], project="hostile").id
        for payload in PAYLOADS[::5]:
            payload = payload.encode("utf8", "replace").decode("utf8").replace("\0", "")
            kb.memories.add("hostile", payload[:80], payload, tags=["lighthouse"])
            kb.conversations.add(talk, "tool", payload)
        with connected(create(Door(kb, project="hostile", access=_everything()))) as agent:
            yield agent


def _everything() -> Access:
    return Access(None, write=True, caller="t")


def answers(agent: Agent) -> Iterator[tuple[str, Any]]:
    """Yield the text and the typed value of everything that shows what others wrote."""
    rows = agent.typed("list_files")["files"]
    calls: list[tuple[str, dict[str, Any]]] = [
        ("list_files", {}),
        ("recall", {"k": 50}),
        ("recall", {"query": "instructions"}),
        ("search_conversations", {"query": "instructions", "k": 50}),
        (
            "search",
            {"query": "instructions", "k": 50, "sources": ["files", "memories", "messages"], "max_tokens": 50_000},
        ),
        *(("get_document", {"document": row["file_id"]}) for row in rows),
    ]
    for tool, arguments in calls:
        result = agent.ask(tool, **arguments)
        assert not result.is_error
        yield text_of(result), result.structured_content
    for uri in agent.resources()[1:]:
        yield agent.read(uri), {"untrusted": True}


def outside(text: str) -> str:
    """Return an answer without what stands in its fences."""
    return re.sub(rf'<{FENCE} id="([0-9a-f]{{32}})" .*?\n</{FENCE} id="\1">', "", text, flags=re.DOTALL)


def steers(text: str) -> bool:
    return neutral(text) != text


@pytest.mark.row(26)
def test_what_others_wrote_stays_data(hostile: Agent) -> None:
    seen: set[str] = set()
    for text, typed in answers(hostile):
        assert typed["untrusted"] is True
        assert "lighthouse" not in outside(text)
        assert FENCE not in outside(text).replace(NOTICE, "")
        told = [text, *strings(typed)]
        assert not [part for part in told if steers(part)]
        seen.update(re.findall(r"lighthouse\d+", text))
    assert len(seen) == len(PAYLOADS)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(inner)


@pytest.mark.row(26)
def test_each_answer_has_marks_of_its_own(hostile: Agent) -> None:
    marks = {re.findall(r'id="([0-9a-f]{32})"', text_of(hostile.ask("list_files")))[0] for _ in range(5)}
    assert len(marks) == 5


@pytest.mark.row(26)
def test_every_hit_says_where_it_comes_from(hostile: Agent) -> None:
    found = hostile.typed("search", query="lighthouse7 instructions", k=50)
    assert all(hit["file"] and hit["file_id"] and hit["link"] and hit["uri"] for hit in found["hits"])


@pytest.mark.row(26)
def test_errors_and_descriptions_hold_no_text_of_documents(hostile: Agent) -> None:
    tools = hostile.run(hostile.client.list_tools()).tools
    templates = hostile.run(hostile.client.list_resource_templates()).resource_templates
    told = [tool.model_dump_json() for tool in tools] + [template.model_dump_json() for template in templates]
    told += [
        hostile.error("search", query="x", filters="lighthous = 1 and"),
        hostile.error("get_document", document="lighthou"),
        hostile.error("list_files", after="lighthou"),
        hostile.error("search", query="x", project="a\x1b[2Jb\u202ec"),
    ]
    assert not [text for text in told if "lighthouse" in text or steers(text)]


def test_every_text_of_an_answer_is_made_harmless() -> None:
    """A field that is plain text could hold anything; ids, times and cursors are our own."""
    ours = {"id", "file_id", "conversation_id", "uri", "duplicate_of", "next", "created_at", "updated_at"}
    ours |= {"started_at", "ended_at"}
    models = [*_below(Answer), ProjectRow]
    plain = {
        f"{model.__name__}.{name}"
        for model in models
        for name, annotation in model.__annotations__.items()
        if re.search(r"\bstr\b", str(annotation))
        and name not in ours
        and annotation != "dict[str, int]"
        and "Line" not in str(annotation)
    }
    assert plain == set()
    assert Line != Text


def _below(model: type[Any]) -> list[type[Any]]:
    from knowlex.mcp_server import answers as module

    return [one for one in vars(module).values() if isinstance(one, type) and hasattr(one, "model_fields")]
