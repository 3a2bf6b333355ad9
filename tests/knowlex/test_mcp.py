"""What agents get: tools and resources, asked by the official client in memory."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
from mcp import MCPError
from mcp_client import Agent, connected, text_of

from knowlex import Knowlex
from knowlex.access import EVERYTHING, Access
from knowlex.engine import Engine
from knowlex.mcp_server import reference, scope, searches
from knowlex.mcp_server.door import Door
from knowlex.mcp_server.server import create
from knowlex.untrusted import neutral
from storage import pending
from storage.errors import NotFoundError
from storage.event_log import Event

TOOLS = [
    "search",
    "get_document",
    "list_files",
    "ingest_status",
    "remember",
    "recall",
    "forget",
    "search_conversations",
]
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory, sample_data: Path) -> Iterator[Knowlex]:
    """Two projects: "office" with some of the sample documents, one of them broken, and "garden" with a memory."""
    folder = tmp_path_factory.mktemp("mcp")
    with Knowlex(folder / "knowlex.db", workers=1) as kb:
        demo = sample_data / "demo"
        chosen = [demo / name for name in ("employee-handbook.pdf", "onboarding-faq.md", "bean-catalogue.txt")]
        report = kb.ingest("office", *chosen, sample_data / "bad" / "truncated.pdf", progress=False)
        assert (report.ingested, report.failed) == (3, 1)
        talk = kb.conversations.create("Ferries", project="office").id
        kb.conversations.add(talk, "user", "When does the ferry to Varnholm leave?")
        kb.conversations.add(talk, "assistant", "The first one leaves at nine.")
        kb.projects.create("garden")
        kb.memories.add("garden", "Beans", "Sow the beans in the middle of May.", tags=["sowing"])
        kb.search("office", "ferry", sources=["messages", "memories"])
        yield kb


def served(kb: Knowlex, access: Access = EVERYTHING, project: str | None = None) -> Any:
    return create(Door(kb, access=access, project=project))


@pytest.fixture(scope="module")
def agent(kb: Knowlex) -> Iterator[Agent]:
    with connected(served(kb)) as agent:
        yield agent


@pytest.fixture(scope="module")
def files(agent: Agent) -> dict[str, dict[str, Any]]:
    """The files of "office" by name."""
    return {row["file"]: row for row in agent.typed("list_files", project="office")["files"]}


# --- what is offered ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
def test_both_versions_of_the_protocol_are_answered_alike(kb: Knowlex, mode: str, version: str) -> None:
    with connected(served(kb), mode) as agent:
        assert agent.client.protocol_version == version
        assert [tool.name for tool in agent.run(agent.client.list_tools()).tools] == TOOLS
        [hit, *_] = agent.typed("search", project="office", query="how many days of leave?", k=3)["hits"]
        assert hit["file"] == "employee-handbook.pdf"
        assert "leave" in agent.read(hit["uri"])


def test_what_changes_something_says_so(agent: Agent) -> None:
    tools = agent.run(agent.client.list_tools()).tools
    hints = {tool.name: tool.annotations for tool in tools if tool.annotations is not None}
    assert list(hints) == TOOLS
    assert {name for name, hint in hints.items() if not hint.read_only_hint} == {"remember", "forget"}
    assert {name for name, hint in hints.items() if hint.destructive_hint} == {"forget"}


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "mcp.md").read_text("utf8") == reference.reference()


def test_every_argument_is_explained_and_every_answer_has_a_schema(agent: Agent) -> None:
    for tool in agent.run(agent.client.list_tools()).tools:
        assert tool.description
        assert tool.output_schema is not None
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema["properties"]["untrusted"]["const"] is True


# --- answers -----------------------------------------------------------------------------------------


def test_a_hit_says_where_it_stands(agent: Agent, files: dict[str, dict[str, Any]]) -> None:
    found = agent.typed("search", project="office", query="how many days of leave?", k=1)
    [hit] = found["hits"]
    row = files["employee-handbook.pdf"]
    assert found["untrusted"] is True
    assert (found["project"], found["mode"], found["degraded"]) == ("office", "hybrid", {})
    assert (hit["source"], hit["file"], hit["file_id"], hit["uri"]) == (
        "file",
        "employee-handbook.pdf",
        row["file_id"],
        row["uri"],
    )
    assert hit["page_start"] in (1, 2, 3)
    assert hit["link"].startswith("file:///")
    assert hit["link"].endswith(f"/employee-handbook.pdf#page={hit['page_start']}")


def test_filters_and_sources_reach_the_search(agent: Agent) -> None:
    only = agent.typed("search", project="office", query="leave", filters="kind = 'markdown'")
    assert {hit["file"] for hit in only["hits"]} == {"onboarding-faq.md"}
    said = agent.typed("search", project="office", query="ferry", sources=["messages"])
    assert {hit["source"] for hit in said["hits"]} == {"message"}


def test_nothing_found_is_no_error_and_says_why(agent: Agent) -> None:
    found = agent.typed("search", project="office", query="leave", filters="autor = 'nobody'")
    assert found["hits"] == []
    assert any("autor" in note for note in found["notes"])
    assert "nothing found" in text_of(agent.ask("search", project="garden", query="zebra", mode="text"))


def test_no_answer_has_more_text_than_was_asked_for(agent: Agent) -> None:
    whole = agent.typed("search", project="office", query="leave and beans", k=10)
    part = agent.typed("search", project="office", query="leave and beans", k=10, max_tokens=200)
    assert sum(len(hit["text"].encode()) for hit in part["hits"]) <= 200 * 4
    assert len(part["hits"]) + part["left_out"] == len(whole["hits"]) > len(part["hits"])
    assert all(hit["cut"] is False for hit in part["hits"][:-1])


@pytest.mark.parametrize("tool", ["search", "search_conversations", "recall"])
def test_what_each_leg_found_and_how_long_it_took_is_told(agent: Agent, tool: str) -> None:
    project = "garden" if tool == "recall" else "office"
    legs = agent.typed(tool, project=project, query="ferry leave beans")["legs"]
    assert set(legs) == {"text", "vector"}
    for leg in legs.values():
        assert (leg["returned"] > 0, leg["ms"] > 0, leg["degraded"]) == (True, True, None)


def test_what_a_passage_repeats_of_its_table_is_told(tmp_path: Path) -> None:
    rows = "".join(f"bean {number},in bed {number},sown on day {number}\n" for number in range(200))
    (tmp_path / "beans.csv").write_text(f"bean\u200b,bed,so\u00adwn\n{rows}", "utf8")
    with Knowlex(tmp_path / "a.db", workers=1) as kb:
        kb.ingest("p", tmp_path / "beans.csv", progress=False)
        [hit] = kb.search("p", "bed 150", 1, mode="text")
        with connected(served(kb)) as agent:
            [shown] = agent.typed("search", project="p", query="bed 150", k=1, mode="text")["hits"]
            first = agent.typed("get_document", project="p", document=hit.file_id, max_tokens=200)
            further = agent.typed("get_document", project="p", document=hit.file_id, after=first["next"])["passages"]
    assert hit.repeated
    assert shown["text"][: shown["repeated"]] == neutral(hit.text[: hit.repeated]) != hit.text[: hit.repeated]
    assert shown["text"][shown["repeated"] :] == neutral(hit.text[hit.repeated :])
    assert (shown["char_start"], shown["char_end"]) == (hit.char_start, hit.char_end)
    for passage in further:
        assert len(passage["text"]) - passage["repeated"] == passage["char_end"] - passage["char_start"]
    assert further[0]["repeated"] == shown["repeated"]
    assert {passage["repeated"] for passage in further[1:]} == {0}


def test_a_document_is_read_part_by_part(agent: Agent, kb: Knowlex, files: dict[str, dict[str, Any]]) -> None:
    row = files["onboarding-faq.md"]
    read, after, parts = "", None, 0
    while parts == 0 or after is not None:
        part = agent.typed("get_document", project="office", document=row["file_id"], after=after, max_tokens=200)
        assert (
            sum(len(passage["text"].encode()) for passage in part["passages"]) <= 200 * 4 or len(part["passages"]) == 1
        )
        read += "".join(passage["text"] for passage in part["passages"])
        after, parts = part["next"], parts + 1
    assert parts > 1
    assert "".join(read.split()) == "".join(Path(row["path"]).read_text("utf8").split())


def test_a_page_of_a_document_is_read_alone(agent: Agent, files: dict[str, dict[str, Any]]) -> None:
    page = agent.typed("get_document", project="office", document=files["employee-handbook.pdf"]["uri"], page=2)
    assert page["page_count"] == 3
    assert page["passages"]
    assert all(passage["page_start"] <= 2 <= passage["page_end"] for passage in page["passages"])


def test_a_page_that_is_not_there_is_told(agent: Agent, files: dict[str, dict[str, Any]]) -> None:
    """Nothing found would be taken for a page without text."""
    pdf, text = files["employee-handbook.pdf"]["file_id"], files["onboarding-faq.md"]["file_id"]
    said = agent.error("get_document", project="office", document=pdf, page=4)
    assert said == "page 4: this document has 3; give 1 to 3, or leave page out"
    said = agent.error("get_document", project="office", document=text, page=1)
    assert said == "page 1: this document has no pages; leave page out"
    failed = agent.typed("get_document", project="office", document=files["truncated.pdf"]["file_id"], page=1)
    assert (failed["status"], failed["passages"]) == ("failed", [])


def test_a_file_that_could_not_be_read_says_why(agent: Agent, files: dict[str, dict[str, Any]]) -> None:
    row = files["truncated.pdf"]
    assert row["status"] == "failed"
    document = agent.ask("get_document", project="office", document=row["file_id"])
    assert document.structured_content is not None
    assert (document.structured_content["status"], document.structured_content["passages"]) == ("failed", [])
    assert document.structured_content["error"] == row["error"]
    assert row["error"] in text_of(document)
    assert [one["file"] for one in agent.typed("list_files", project="office", status="failed")["files"]] == [
        row["file"]
    ]


def test_files_are_listed_page_by_page(agent: Agent, files: dict[str, dict[str, Any]]) -> None:
    first = agent.typed("list_files", project="office", limit=3)
    rest = agent.typed("list_files", project="office", limit=3, after=first["next"])
    assert [row["file"] for row in first["files"] + rest["files"]] == list(files)
    assert rest["next"] is None
    assert "cursor" in agent.error("list_files", project="office", after="xyz")


def test_the_status_of_ingestion_is_that_of_the_project_alone(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """And counts no texts that wait for a vector, which may be many and are not told."""
    for counted in ("count", "count_refused"):
        monkeypatch.delattr(pending, counted)
    status = agent.typed("ingest_status", project="office")
    assert (status["files"]["ready"], status["files"]["failed"], status["waiting"]) == (3, 1, 0)
    assert (status["messages"], status["meaning"]) == (2, "ready")
    assert (status["last_run"]["outcome"], status["last_run"]["failed"]) == ("done", 1)
    garden = agent.typed("ingest_status", project="garden")
    assert (garden["passages"], garden["memories"], garden["last_run"]) == (0, 1, None)


def test_what_is_remembered_is_recalled_and_forgotten(agent: Agent) -> None:
    kept = agent.typed(
        "remember",
        project="garden",
        title="Frost",
        content="No frost after the ice saints.",
        tags=["frost"],
        importance=8,
    )
    [latest, *_] = agent.typed("recall", project="garden")["memories"]
    assert (latest["id"], latest["content"], latest["importance"], latest["score"]) == (
        kept["id"],
        "No frost after the ice saints.",
        8,
        None,
    )
    [best] = agent.typed("recall", project="garden", query="when is it no longer cold?", tag="frost")["memories"]
    assert (best["id"], best["score"] > 0) == (kept["id"], True)
    assert agent.typed("recall", project="garden", tag="snow")["memories"] == []
    assert agent.typed("forget", project="garden", memory_id=kept["id"])["id"] == kept["id"]
    assert kept["id"] in agent.error("forget", project="garden", memory_id=kept["id"])
    assert [one["title"] for one in agent.typed("recall", project="garden")["memories"]] == ["Beans"]


def test_what_was_said_is_found_with_who_said_it(agent: Agent) -> None:
    [said, *_] = agent.typed(
        "search_conversations", project="office", query="first ferry", filters="role = 'assistant'"
    )["messages"]
    assert (said["role"], said["conversation"], said["text"]) == (
        "assistant",
        "Ferries",
        "The first one leaves at nine.",
    )


def test_resources_are_the_documents_that_are_ready(
    agent: Agent, kb: Knowlex, files: dict[str, dict[str, Any]]
) -> None:
    ready = [row["uri"] for row in files.values() if row["status"] == "ready"]
    assert agent.resources() == [scope.PROJECTS, *ready]
    listed = json.loads(agent.read(scope.PROJECTS))
    assert [project["name"] for project in listed["projects"]] == ["office", "garden"]
    assert listed["untrusted"] is True


def test_a_document_is_read_by_whatever_name_its_project_has(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("The first boat leaves at nine.")
    with Knowlex(tmp_path / "a.db") as kb:
        kb.ingest("p", tmp_path / "a.md", progress=False)
        [file] = kb.files("p")
        with connected(served(kb)) as agent:
            for name in ("/srv", "C:", "..", "a/b", "ü %2F"):
                kb.projects.update(kb.projects.list()[0].project.id, name=name)
                assert "leaves at nine" in agent.read(f"knowlex://projects/{quote(name, safe='')}/documents/{file.id}")


def test_resources_are_listed_page_by_page_over_projects(
    kb: Knowlex, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = agent.resources()
    monkeypatch.setattr("knowlex.mcp_server.resources.PAGE", 1)
    assert agent.resources() == whole
    with pytest.raises(MCPError, match="cursor"):
        agent.run(agent.client.list_resources(cursor="WzFd"))


# --- errors ------------------------------------------------------------------------------------------


def test_without_a_project_nothing_is_searched(agent: Agent, kb: Knowlex) -> None:
    for tool, arguments in {
        "search": {"query": "x"},
        "get_document": {"document": "x"},
        "list_files": {},
        "ingest_status": {},
        "remember": {"title": "t", "content": "c"},
        "recall": {},
        "forget": {"memory_id": "x"},
        "search_conversations": {"query": "x"},
    }.items():
        assert agent.error(tool, **arguments) == "project: is not given; give one of: garden, office", tool
    assert kb.projects.summary("garden").memory_count == 1


def test_an_argument_that_is_mistyped_is_refused(agent: Agent) -> None:
    """The library drops what it does not know: a search with a mistyped filter would answer as without one."""
    told = agent.error("search", project="office", query="leave", filter="kind = 'pdf'")
    assert told == "search: filter: is unknown; did you mean filters?"
    told = agent.error("search", project="office", query="leave", zzzz=1)
    assert told.startswith("search: zzzz: is unknown; known are query, project, k, ")
    assert agent.error("search", project="office", query="leave", k=51) == "search: k 51: is above 50; give less"
    assert agent.error("search", project="office") == "search: query: is not given; give it"


def test_what_cannot_be_used_is_named_with_the_remedy(agent: Agent) -> None:
    assert "filter" in agent.error("search", project="office", query="leave", filters="kind ==== 'pdf'")
    assert agent.error("search", project="attic", query="x") == "project attic: not found; give one of: garden, office"
    assert "list_files" in agent.error("get_document", project="office", document="none")
    with pytest.raises(MCPError, match="not found"):
        agent.read(f"{scope.PROJECTS}/office/documents/none")


def test_the_word_null_is_a_word(agent: Agent, kb: Knowlex) -> None:
    """The library reads it as no value at all: a tag or a project of that name would be left out."""
    recalled = agent.typed("recall", project="garden", tag="null")
    assert (recalled["memories"], recalled["notes"]) == ([], ["no memory of this project has tag null"])
    assert "filter" in agent.error("search", project="office", query="leave", filters="null")
    assert agent.error("search", project="null", query="leave").startswith("project null: not found")
    assert agent.error("search", project="[1]", query="leave").startswith("project [1]: not found")
    with connected(served(kb, project="garden")) as bound:
        assert "not found" in bound.error("recall", project="null")


def test_lists_and_objects_may_come_as_text(agent: Agent) -> None:
    """Some programs send them so."""
    found = agent.typed(
        "search",
        project="office",
        query="leave",
        sources='["files"]',
        filters='{"type": "eq", "key": "kind", "value": "pdf"}',
        k=2,
    )
    assert {hit["file"] for hit in found["hits"]} == {"employee-handbook.pdf"}


def test_an_error_has_bounds(agent: Agent, kb: Knowlex) -> None:
    said = agent.error("recall", project="garden", **{f"x{number}": 1 for number in range(1000)})
    assert "and 995 more" in said
    project = kb.projects.create("N" * 900)
    try:
        assert f"{'N' * 80}…" in agent.error("recall")
    finally:
        kb.projects.delete(project.id)


def test_max_tokens_counts_what_is_shown(agent: Agent, kb: Knowlex) -> None:
    memory = kb.memories.add("garden", "codes", "\x01" * 800)
    try:
        [shown] = [one for one in agent.typed("recall", project="garden", max_tokens=200)["memories"] if one["cut"]]
        assert len(shown["content"]) <= 4 * 200
    finally:
        kb.memories.delete(memory.id)


def test_a_document_is_named_by_its_address_in_any_form(agent: Agent, files: dict[str, dict[str, Any]]) -> None:
    row = files["onboarding-faq.md"]
    for document in (row["file_id"], row["uri"], f"{scope.PROJECTS}/office/documents/{row['file_id']}"):
        assert agent.typed("get_document", project="office", document=document)["file_id"] == row["file_id"]
    assert "not found" in agent.error(
        "get_document", project="office", document=f"{scope.PROJECTS}/garden/documents/{row['file_id']}"
    )


def test_a_fault_is_told_by_an_id_that_the_log_has(
    agent: Agent, kb: Knowlex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("the secret canary")

    monkeypatch.setattr(searches, "_passage", fails)
    monkeypatch.setattr(kb, "files_page", fails)
    told = agent.error("search", project="office", query="leave")
    with pytest.raises(MCPError) as of_list:
        agent.run(agent.client.list_resources())
    for text in (told, str(of_list.value)):
        assert "canary" not in text
        [event] = [
            record.msg
            for record in caplog.records
            if isinstance(record.msg, Event) and record.msg.fields["request"] in text
        ]
        assert event.fields["error_code"] == "RuntimeError"
        assert event.fields["place"].startswith("knowlex.mcp_server.")


def test_making_a_server_sets_up_no_log(kb: Knowlex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would write to standard error what callers give."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    served(kb)
    assert (root.handlers, root.level) == ([], level)


# --- who may see what --------------------------------------------------------------------------------


def test_a_server_for_one_project_needs_no_name_and_knows_no_other(kb: Knowlex) -> None:
    with connected(served(kb, project="garden")) as agent:
        assert [one["title"] for one in agent.typed("recall")["memories"]] == ["Beans"]
        assert agent.typed("recall", project=kb.project("garden").id)["project"] == "garden"
        there, nowhere = agent.error("recall", project="office"), agent.error("recall", project="offixe")
        assert there.replace("office", "offixe") == nowhere
        assert agent.resources() == [scope.PROJECTS]
        assert [row["name"] for row in json.loads(agent.read(scope.PROJECTS))["projects"]] == ["garden"]


def test_a_server_for_a_project_that_is_not_there_says_how_to_make_it(kb: Knowlex) -> None:
    with connected(served(kb, project="attic")) as agent:
        assert "knowlex ingest attic" in agent.error("search", query="x")


def test_a_token_for_one_project_needs_no_name(kb: Knowlex) -> None:
    only = Access(frozenset({kb.project("garden").id}), write=False, caller="t1")
    with connected(served(kb, only)) as agent:
        assert agent.typed("recall")["project"] == "garden"
        there, nowhere = agent.error("recall", project="office"), agent.error("recall", project="offixe")
        assert there.replace("office", "offixe") == nowhere


def test_a_token_that_only_reads_changes_nothing(kb: Knowlex) -> None:
    only = Access(frozenset({kb.project("garden").id}), write=False, caller="t1")
    [memory] = kb.memories.list("garden")
    with connected(served(kb, only)) as agent:
        assert "--write" in agent.error("remember", title="t", content="c")
        assert "--write" in agent.error("forget", memory_id=memory.id)
    assert [one.id for one in kb.memories.list("garden")] == [memory.id]


def test_who_brings_no_access_is_not_let_in(kb: Knowlex) -> None:
    """A request that the guard does not stand before is a fault, not a caller who may see everything."""
    with connected(create(Door(kb))) as agent:
        assert "fault in Knowlex" in agent.error("list_files", project="office")


def test_without_a_database_the_way_to_make_one_is_told(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "none.db") as kb, connected(served(kb)) as agent:
        assert "knowlex" in agent.error("search", project="p", query="x")
        assert agent.resources() == [scope.PROJECTS]
        with pytest.raises(MCPError, match="knowlex"):
            agent.read(scope.PROJECTS)
        assert not kb.path.exists()


def test_a_project_that_is_deleted_during_a_list_ends_it_not(
    tmp_path: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Knowlex(tmp_path / "k.db", workers=1) as kb, connected(served(kb)) as agent:
        kb.ingest("a", sample_data / "demo" / "bean-catalogue.txt", progress=False)
        gone = kb.projects.create("b").id
        kb.ingest("c", sample_data / "demo" / "onboarding-faq.md", progress=False)
        everything, page = agent.resources(), kb.files_page

        def files_page(project: str, *given: Any, **more: Any) -> Any:
            if project == gone:
                raise NotFoundError("deleted meanwhile")
            return page(project, *given, **more)

        monkeypatch.setattr(kb, "files_page", files_page)
        assert agent.resources() == everything
        assert len(everything) == 3


def test_a_token_whose_projects_are_gone_says_so(kb: Knowlex) -> None:
    with connected(served(kb, Access(frozenset({"gone", "too"}), write=False, caller="t1"))) as agent:
        assert "those that the token is for are gone" in agent.error("recall")


# --- the model ---------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until this is set, a model is being loaded."""
    asked, load = threading.Event(), Engine._load

    def load_when_asked(engine: Engine, live: Any) -> Any:
        assert asked.wait(PATIENCE_S)
        return load(engine, live)

    monkeypatch.setattr(Engine, "_load", load_when_asked)
    return asked


def test_words_answer_while_the_model_is_loaded_and_meaning_waits_for_it(kb: Knowlex, asked: threading.Event) -> None:
    told: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)
        asked.set()

    with Knowlex(kb.path) as fresh, connected(served(fresh)) as agent:
        fresh.waits_for_model = False
        found = agent.typed("search", project="office", query="days of leave")
        assert found["hits"]
        assert "still being loaded" in found["degraded"]["vector"]
        assert "degraded, vector: " in text_of(agent.ask("search", project="office", query="days of leave"))
        assert agent.typed("ingest_status", project="office")["meaning"] == "loading"
        call = agent.client.call_tool(
            "search", {"project": "office", "query": "leave", "mode": "vector"}, progress_callback=on_progress
        )
        result = agent.run(call)
        assert not result.is_error
        assert set(told) == {"the embedding model is being loaded"}
        give_up_at = time.monotonic() + PATIENCE_S
        while agent.typed("search", project="office", query="leave")["degraded"] and time.monotonic() < give_up_at:
            time.sleep(0.01)
        assert agent.typed("ingest_status", project="office")["meaning"] == "ready"


def test_the_first_memory_is_found_by_words_while_the_model_is_loaded(tmp_path: Path, asked: threading.Event) -> None:
    with Knowlex(tmp_path / "new.db") as kb:
        kb.projects.create("p")
        kb.waits_for_model = False
        try:
            with connected(served(kb)) as agent:
                agent.typed("remember", project="p", title="Ferries", content="The first boat leaves at nine.")
                found = agent.typed("recall", project="p", query="boat")
                assert len(found["memories"]) == 1
                assert "still being loaded" in found["degraded"]["vector"]
        finally:
            asked.set()


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "new.db") as kb, connected(served(kb)) as agent:
        kb.projects.create("p")
        lost, _ = (kb.memories.add("p", name, f"The {name} leaves at nine.") for name in ("boat", "train"))
        talk = kb.conversations.create("Trips", project="p").id
        broken, _ = (kb.conversations.add(talk, "user", f"The {name} leaves at nine.") for name in ("boat", "train"))
        with kb.database.write() as db:
            db.run("UPDATE project_memories SET content = CAST(x'ff' AS TEXT) WHERE id = :id", id=lost.id)
            db.run("UPDATE messages SET content = '{broken' WHERE id = :id", id=broken.id)
        recalled = agent.typed("recall", project="p", query="leaves")
        assert [one["title"] for one in recalled["memories"]] == ["train"]
        said = agent.typed("search_conversations", project="p", query="leaves")
        assert [one["text"] for one in said["messages"]] == ["The train leaves at nine."]
        for found, id in (recalled, lost.id), (said, broken.id):
            assert found["notes"] == [f"1 passage left out that cannot be read ({id}); knowlex verify --deep says more"]


# --- shapes ------------------------------------------------------------------------------------------


def test_every_answer_fits_its_schema(agent: Agent, files: dict[str, dict[str, Any]]) -> None:
    schemas = {tool.name: tool.output_schema for tool in agent.run(agent.client.list_tools()).tools}
    asked = {
        "search": {"query": "leave", "sources": ["files", "memories", "messages"]},
        "get_document": {"document": files["bean-catalogue.txt"]["file_id"]},
        "list_files": {},
        "ingest_status": {},
        "recall": {"query": "beans"},
        "search_conversations": {"query": "ferry"},
    }
    for tool, arguments in asked.items():
        schema = schemas[tool]
        assert schema is not None
        jsonschema.validate(agent.typed(tool, project="office", **arguments), schema)
