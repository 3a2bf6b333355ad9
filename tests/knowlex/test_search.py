"""Search over the sample documents: what the command line prints and what Python gets."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from knowlex import Hit, Hits, Knowlex, facade
from knowlex.terminal import one_line
from pipeline.answer import Answer, Leg
from storage import changes, projects, slow_queries
from storage.errors import ConfigurationError, NotFoundError, UsageError
from storage.sources import Source

Call = Callable[..., Any]

HIT = [
    "rank",
    "score",
    "source",
    "id",
    "file_id",
    "file",
    "path",
    "page_start",
    "page_end",
    "heading",
    "char_start",
    "char_end",
    "text",
    "snippet",
    "text_rank",
    "text_score",
    "vector_rank",
    "vector_score",
    "repeated",
    "link",
]
LEAVE = "How many days of paid leave do I get?"


def test_a_question_in_a_script_that_the_model_cannot_read_is_answered_by_words(tmp_path: Path) -> None:
    (tmp_path / "tulips.txt").write_text("鬱金香は春に咲く。")
    (tmp_path / "others.txt").write_text("薔薇は夏に咲く。")
    with Knowlex(tmp_path / "k.db") as kb:
        kb.ingest("flowers", tmp_path, include=["*.txt"])
        first, second = kb.search("flowers", "鬱金香", explain=True)
        assert (first.file, second.file) == ("tulips.txt", "others.txt")
        assert first.why["text_weight"] == 1.0 == second.why["text_weight"]
        assert all(hit.why["text_weight"] < 1 for hit in kb.search("flowers", "flowers in spring", explain=True))


@pytest.mark.parametrize("mode", ["hybrid", "text", "vector"])
def test_the_answer_in_json_is_as_the_contract_says(knowlex: Call, demo: Knowlex, mode: str) -> None:
    found = knowlex("search", "demo", LEAVE, "-k", 4, "--mode", mode, "--json", "--db", demo.path).json
    assert list(found) == ["query", "mode", "project", "took_ms", "legs", "hits"]
    assert (found["query"], found["mode"], found["project"]) == (LEAVE, mode, "demo")
    assert {name: list(leg) for name, leg in found["legs"].items()} == {
        name: ["returned", "ms", "degraded"] for name in ("text", "vector")
    }
    assert not any(leg["degraded"] for leg in found["legs"].values())
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4]
    best = found["hits"][0]
    assert list(best) == HIT
    assert (best["source"], best["file"], best["page_start"]) == ("file", "employee-handbook.pdf", 1)
    assert "28 days" in best["text"]
    assert "<mark>" in best["snippet"]
    assert (best["text_rank"] is None) == (mode == "vector")
    assert (best["vector_rank"] is None) == (mode == "text")


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_a_question_longer_than_the_model_takes_says_so_each_time(knowlex: Call, demo: Knowlex, mode: str) -> None:
    told = "only the first 256 tokens of the question were embedded"
    question = "how much paid leave is there " * 50
    for _ in range(2):
        assert demo.search("demo", question, mode=mode).legs["vector"].degraded == told
    assert demo.search("demo", question[:1000], mode=mode).legs["vector"].degraded is None
    assert f"vector leg: {told}" in knowlex("search", "demo", question, "--mode", mode, "--db", demo.path).err


def test_json_too_says_what_was_left_out_where_nothing_was_found(knowlex: Call, demo: Knowlex) -> None:
    found = knowlex("search", "demo", LEAVE, "--max-tokens", 1, "--json", "--db", demo.path).json
    assert found["hits"] == []
    assert [note.endswith("more than the 1 asked for") for note in found["notes"]] == [True]


def test_the_answer_for_people_names_file_page_score_and_heading(knowlex: Call, demo: Knowlex) -> None:
    found = knowlex("search", "demo", LEAVE, "-k", "2", "--explain", "--db", demo.path)
    assert found.code == 0
    assert re.fullmatch(r" 1  0\.[3-9]\d\d  employee-handbook\.pdf:1", found.out.splitlines()[0])
    assert "onboarding-faq.md  Onboarding: questions new colleagues ask > When am I paid?" in found.out
    assert "by words 1 (" in found.out
    assert "mark>" not in found.out
    assert "\x1b" not in found.out  # not a terminal
    assert knowlex("search", "demo", "zzzz", "--mode", "text", "--db", demo.path).out == "nothing found\n"


def test_files_of_one_name_are_told_apart_and_attachments_have_their_mail(
    knowlex: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = EmailMessage()
    mail["Subject"] = "The boat"
    mail.set_content("See the list.")
    mail.add_attachment("The quartet list of zebras.", filename="list.txt")
    papers = {"a/notes.md": b"The first quartet.", "b/notes.md": b"The second quartet.", "boat.eml": mail.as_bytes()}
    for name, content in papers.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    assert knowlex("ingest", "p", tmp_path / "in").code == 0

    def places(query: str) -> set[str]:
        found = knowlex("search", "p", query, "--mode", "text").out
        return {line.split("  ")[2] for line in found.splitlines() if line[:2].strip()}

    whole = {f"{tmp_path}/in/a/notes.md", f"{tmp_path}/in/b/notes.md", "boat.eml/list.txt"}
    assert places("quartet") == whole
    assert places("first") == {"notes.md"}
    monkeypatch.chdir(tmp_path / "in")
    assert places("quartet") == {"a/notes.md", "b/notes.md", "boat.eml/list.txt"}
    with Knowlex() as kb:
        hits = kb.search("p", "quartet", mode="text")
        assert "a/notes.md" in repr(hits)
        assert ">b/notes.md<" in hits._repr_html_()
        assert {hit["file"] for hit in hits.as_dict()["hits"]} == {"notes.md", "list.txt"}
    (tmp_path / "left").mkdir()
    monkeypatch.chdir(tmp_path / "left")
    (tmp_path / "left").rmdir()
    assert places("quartet") == whole


def test_windows_and_explanations_come_when_asked_for(demo: Knowlex) -> None:
    [hit] = demo.search("demo", LEAVE, 1, window=1, explain=True).as_dict()["hits"]
    assert list(hit) == [*HIT, "before", "after", "also", "why"]
    assert "Working time" in hit["before"] + hit["after"] or hit["after"]
    assert hit["why"]["fused"] == hit["score"]


def test_a_paragraph_of_several_files_is_one_hit_that_names_them(knowlex: Call, tmp_path: Path) -> None:
    shared = "The quartet plays on Friday. " + "Nobody may take photographs in the hall. " * 20
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        own = f"Of {name} there is nothing else to be said. " * 20
        (tmp_path / "in" / f"{name}.md").write_text(f"# Music\n\n{shared}\n\n# Other\n\n{own}\n")
    assert knowlex("ingest", "p", tmp_path / "in").code == 0
    assert len(knowlex("search", "p", "quartet", "--mode", "text", "--json").json["hits"]) == 2
    asked = ("search", "p", "quartet", "--mode", "text", "--collapse")
    [hit] = knowlex(*asked, "--json").json["hits"]
    assert list(hit) == [*HIT, "also"]
    assert [hit["path"], *hit["also"]] == [f"{tmp_path}/in/a.md", f"{tmp_path}/in/b.md"]
    assert f"(also in {tmp_path}/in/b.md)" in " ".join(knowlex(*asked).out.split())


def test_hits_are_varied_when_asked_for(knowlex: Call, demo: Knowlex) -> None:
    plain = demo.search("demo", LEAVE, 8)
    varied = demo.search("demo", LEAVE, 8, mmr=0.3, explain=True)
    assert [hit.id for hit in varied] != [hit.id for hit in plain]
    assert all("mmr_penalty" in hit.why for hit in varied)
    asked = ("search", "demo", LEAVE, "-k", 8, "--mmr", "--json", "--db", demo.path)
    assert [hit["id"] for hit in knowlex(*asked).json["hits"]] == [
        hit.id for hit in demo.search("demo", LEAVE, 8, mmr=True)
    ]


def test_hits_link_to_their_files_and_pages(demo: Knowlex) -> None:
    links = {hit["file"]: hit["link"] for hit in demo.search("demo", LEAVE, 20).as_dict()["hits"]}
    assert links["employee-handbook.pdf"].startswith("file:///")
    assert "/employee-handbook.pdf#page=" in links["employee-handbook.pdf"]
    assert links["onboarding-faq.md"].endswith("/onboarding-faq.md")


def test_sections_and_merged_hits_come_when_asked_for(knowlex: Call, demo: Knowlex) -> None:
    command = ("search", "demo", LEAVE, "-k", 6, "--json", "--db", demo.path)
    plain = knowlex(*command).json["hits"]
    found = knowlex(*command, "--merge", "--section", "--max-tokens", 3000).json["hits"]
    assert list(found[0]) == [*HIT, "before", "after", "merged"]
    assert {id for hit in found for id in (hit["id"], *hit["merged"])} == {hit["id"] for hit in plain}
    assert any(hit["before"] or hit["after"] for hit in found)
    assert len(found) < len(plain)


@pytest.mark.parametrize("options", [("--merge",), ("--section",), ("--window", 1)])
def test_what_is_merged_or_has_neighbours_is_printed_to_its_end(
    knowlex: Call, demo: Knowlex, options: tuple[object, ...]
) -> None:
    command = ("search", "demo", LEAVE, "-k", 6, *options, "--db", demo.path)
    hits = knowlex(*command, "--json").json["hits"]
    long = [hit for hit in hits if "…" in hit["snippet"] and (hit.get("merged") or "before" in hit)]
    assert long
    printed = " ".join(knowlex(*command).out.split())
    for hit in long:
        assert one_line(" ".join([hit.get("before", ""), hit["text"], hit.get("after", "")])) in printed


def test_hits_can_be_bounded_by_score_and_length(demo: Knowlex) -> None:
    scores = [hit.score for hit in demo.search("demo", LEAVE, 5)]
    bounded = demo.search("demo", LEAVE, 5, min_score=scores[2])
    assert [hit.score for hit in bounded] == [score for score in scores if score >= scores[2]]
    short = demo.search("demo", LEAVE, 5, max_tokens=200)
    assert sum(hit.tokens for hit in short) <= 200


def test_what_a_bound_left_out_is_told_where_nothing_is_found(knowlex: Call, demo: Knowlex) -> None:
    def told(*arguments: object) -> str:
        answer = knowlex("search", "demo", LEAVE, *arguments, "--db", demo.path)
        assert (answer.code, answer.out) == (0, "nothing found\n")
        return answer.err

    [best] = demo.search("demo", LEAVE, 1)
    assert told("--min-score", 0.99) == f"the best score is {best.score:.3f}, below the 0.99 asked for\n"
    assert (
        told("-k", 1, "--max-tokens", 5) == f"1 hit left out: it has {best.tokens} tokens, more than the 5 asked for\n"
    )
    tokens = min(hit.tokens for hit in demo.search("demo", LEAVE, 10))
    many = f"10 hits left out: the shortest has {tokens} tokens, more than the 5 asked for\n"
    assert told("--max-tokens", 5) == many
    assert told("--filter", "knd = 'pdf'") == "no file here has the metadata 'knd'; did you mean kind?\n"
    assert told("--filter", "metadata.autor = 'Ada'") == "no file here has the metadata 'autor'; did you mean author?\n"
    assert told("--filter", "zzzzz = 'pdf'").endswith("; knowlex file show ID shows what a file has\n")
    assert told("--filter", "KIND = 'pdf'") == "no file here has the metadata 'KIND'; did you mean kind?\n"
    assert told("--filter", "author = 'nobody'") == ""


@pytest.mark.parametrize("options", [{}, {"window": 1}, {"merge": True, "window": 1}])
def test_what_has_no_room_is_told_beside_the_hits(demo: Knowlex, options: dict[str, Any]) -> None:
    all_hits = demo.search("demo", LEAVE, 10)
    wide = max(all_hits, key=lambda hit: hit.tokens).tokens
    hits = demo.search("demo", LEAVE, 10, max_tokens=2 * wide, **options)
    shown = {id for hit in hits for id in (hit.id, *hit.merged)}
    places = [place for place, hit in enumerate(all_hits) if hit.id in shown]
    assert 0 < len(places) < 10
    better = f", {places[0]} of them better than all that are shown" if places[0] else ""
    told = f"{10 - len(places)} hits left out for want of room in the {2 * wide} tokens asked for{better}"
    assert hits.notes == (told,)
    assert demo.search("demo", LEAVE, 10, max_tokens=100 * wide, **options).notes == ()


def test_a_better_hit_that_has_no_room_is_told(knowlex: Call, demo: Knowlex) -> None:
    best, *others = demo.search("demo", LEAVE, 10, window=1)
    least = min(hit.tokens for hit in others)
    assert least < best.tokens
    command = ("search", "demo", LEAVE, "--window", 1, "--max-tokens", least, "--db", demo.path)
    assert knowlex(*command).err.startswith(f"9 hits left out for want of room in the {least} tokens asked for, ")
    assert knowlex(*command).err.endswith(" of them better than all that are shown\n")


@pytest.mark.parametrize(
    ("sources", "filters", "notes"),
    [
        ("memories", "tag = 'people'", ["no memory has the key 'tag'; did you mean tags?"]),
        ("messages", "Rol = 'user'", ["no message has the key 'Rol'; did you mean role?"]),
        ("messages", "zzzzz = 1", ["known are title, role, conversation, created_at, updated_at"]),
        ("files", "type = 'note' or importance >= 5", ["'importance', which is one of memories", "'type', which is"]),
        ("memories", "kind = 'pdf'", ["no memory has the key 'kind' or 'mime_type', which is one of files; search"]),
        ("messages,memories", "page = 1", ["no message or memory has the key 'page', which is one of files; search"]),
        ("memories", "author = 'Ada'", ["no memory has the key 'author', which is one of files; search these, too"]),
        ("memories", "metadata.zzzzz = 1", ["no memory has the key 'zzzzz'; known are title, type, tags, importance"]),
        ("files,memories", "type = 'insight'", []),
        ("memories", "title = 'none'", []),
        ("messages", "role = 'tool'", []),
    ],
)
def test_a_key_that_nothing_searched_has_is_told_where_nothing_is_found(
    knowlex: Call, demo: Knowlex, sources: str, filters: str, notes: list[str]
) -> None:
    command = ("search", "demo", LEAVE, "--source", sources, "--filter", filters, "--json", "--db", demo.path)
    found = knowlex(*command).json
    assert found["hits"] == []
    told = found.get("notes", [])
    assert len(told) == len(notes)
    assert all(part in note for part, note in zip(notes, told, strict=True))


def test_searches_say_the_same_with_and_without_vectors_in_memory(demo: Knowlex) -> None:
    with Knowlex(demo.path) as kb:
        first, second, third = (kb.search("demo", LEAVE, 8) for _ in range(3))
    assert [hit.id for hit in first] == [hit.id for hit in second] == [hit.id for hit in third]


@pytest.mark.parametrize(
    "bad",
    [
        {"k": 0},
        {"mode": "magic"},
        {"sources": ()},
        {"sources": ("dreams",)},
        {"syntax": "sql"},
        {"window": -1},
        {"max_tokens": 0},
        {"query": "  "},
        {"query": "a AND", "syntax": "fts5"},
    ],
)
def test_a_bad_question_is_refused(demo: Knowlex, bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        demo.search(**({"project": "demo", "query": "leave"} | bad))


@pytest.mark.parametrize(
    ("filters", "files"),
    [
        ("kind = 'pdf' and page >= 2", {"employee-handbook.pdf", "observatory-report.pdf", "tern-40-manual.pdf"}),
        ("folder = 'demo' and extension in ('csv', 'docx')", {"instrument-stock.csv", "supply-agreement.docx"}),
        ({"type": "eq", "key": "file", "value": "onboarding-faq.md"}, {"onboarding-faq.md"}),
        ("kind = 'html' or size < 1", {"varnholm-guide.html"}),
        ("author = 'nobody'", set()),
        ("folder = 'elsewhere'", set()),
    ],
)
def test_only_passages_that_pass_the_filter_are_found(
    knowlex: Call, demo: Knowlex, filters: str | dict[str, Any], files: set[str]
) -> None:
    for mode in ("hybrid", "text", "vector"):
        hits = demo.search("demo", "the of a is", 500, mode=mode, filters=filters)
        assert {hit.file for hit in hits} == files
        if "page" in filters:
            assert min(hit.page_end or 0 for hit in hits) >= 2
    written = filters if isinstance(filters, str) else json.dumps(filters)
    arguments = ("search", "demo", "the of a is", "-k", 500, "--filter", written, "--json", "--db", demo.path)
    assert {hit["file"] for hit in knowlex(*arguments).json["hits"]} == files


def test_a_filter_that_cannot_be_read_is_a_usage_error_before_anything_is_searched(
    knowlex: Call, demo: Knowlex
) -> None:
    for filters in ("kind = pdf", '{"type": "eq"}', "kind = 'word'"):
        answer = knowlex("search", "demo", LEAVE, "--filter", filters, "--db", demo.path)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert "filter" in answer.err
    for value in ("", {}, [], 5):
        with pytest.raises(UsageError, match="filter"):
            demo.search("demo", LEAVE, filters=value)  # type: ignore[arg-type]


def test_filters_know_what_memories_and_messages_have(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        kb.memories.add("p", "Contact", "Ask Mira about leave", type="note", importance=8, tags=["people"])
        kb.memories.add("p", "Refunds", "Mira pays within 30 days", importance=2)
        talk = kb.conversations.create("Leave", project="p")
        kb.conversations.add(talk.id, "user", "Mira, may I leave?")
        kb.conversations.add(talk.id, "assistant", "Mira says yes")

        def found(filters: str) -> list[str]:
            hits = kb.search("p", "Mira", mode="text", sources=("files", "memories", "messages"), filters=filters)
            return sorted(hit.text.split()[-1] for hit in hits)

        assert found("importance >= 8") == found("tags = 'people'") == found("type = 'note'") == ["leave"]
        assert found("role = 'assistant'") == ["yes"]
        assert found("title = 'Leave'") == found(f"conversation = '{talk.id}'") == ["leave?", "yes"]
        assert found("page > 0") == found("file = 'x'") == found("author = 'x'") == []
        assert found("author != 'x'") == found("created_at > '2000-01-01'") == ["days", "leave", "leave?", "yes"]
        assert found("created_at < '2000-01-01'") == []


def test_an_unknown_project_is_not_found(demo: Knowlex) -> None:
    for mode in ("hybrid", "text"):
        with pytest.raises(NotFoundError):
            demo.search("other", LEAVE, mode=mode)


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_without_vectors_the_text_leg_answers_alone_and_says_so(tmp_path: Path, mode: str) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        hits = kb.search("p", "anything", mode=mode)
        assert list(hits) == []
        assert "no vectors" in str(hits.legs["vector"].degraded)


def test_memories_and_messages_are_found_by_meaning_right_after_they_were_added(tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        memory = kb.memories.add("p", "Refunds", "Customers get their money back within 30 days.")
        conversation = kb.conversations.create("Lunch", project="p")
        message = kb.conversations.add(conversation.id, "user", "Shall we eat pizza at noon?")
        kb.conversations.add(conversation.id, "assistant", [{"type": "text", "text": "Gladly."}], parent=message.id)
        found = kb.search("p", "reimbursement", 1, mode="vector", sources=("memories", "messages"))
        assert [(hit.source, hit.id) for hit in found] == [(Source.MEMORY, memory.id)]
        assert [hit.id for hit in kb.memories.search("p", "reimbursement", 1)] == [memory.id]
        assert [hit.id for hit in kb.conversations.search("p", "italian food", 1, mode="vector")] == [message.id]
        assert kb.stats().pending_vectors == 0
        kb.memories.update(memory.id, content="The office plants are watered on Mondays.")
        assert kb.stats().pending_vectors == 1
        assert "plants" in kb.search("p", "gardening", 1, mode="vector", sources=("memories",))[0].text


def test_a_list_of_sources_may_have_spaces_and_a_window_has_an_end(demo: Knowlex, knowlex: Call) -> None:
    asked = ("search", "demo", LEAVE, "--mode", "text", "--db", demo.path)
    assert knowlex(*asked, "--source", "files, memories").code == 0
    assert len(demo.search("demo", LEAVE, sources="files, memories")) == 10
    answer = knowlex(*asked, "--window", 10**22)
    assert (answer.code, answer.out) == (2, "")
    assert f"window {10**22}: give 0 to" in answer.err
    with pytest.raises(UsageError, match="k 1.5: is no whole number"):
        demo.search("demo", LEAVE, 1.5, mode="text")  # pyright: ignore[reportArgumentType]


def test_what_has_no_vector_yet_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facade, "DRAINED_BEFORE_SEARCH", 2)
    asked: dict[str, Any] = {"mode": "vector", "sources": ("memories",)}
    with Knowlex(tmp_path / "a.db") as kb:
        kb.projects.create("p")
        for text in ("note", "another note", "A boat departed early"):
            kb.memories.add("p", "t", text)
        found = kb.search("p", "vessel sails", **asked)
        assert len(found) == 2
        assert str(found.legs["vector"].degraded).endswith("find: 1")
        found = kb.search("p", "vessel sails", **asked)
        assert "boat" in found[0].text
        assert found.legs["vector"].degraded is None
        kb.memories.add("p", "t", "A ship")
        with Knowlex(kb.path) as other, other.transaction():
            other.projects.create("q")  # holds the lock, so that no vector can be kept
            assert str(kb.search("p", "vessel sails", **asked).legs["vector"].degraded).endswith("find: 1")


def test_a_slow_search_is_counted_without_its_words(sample_data: Path, tmp_path: Path) -> None:
    with Knowlex(tmp_path / "a.db", slow_query_ms=0) as kb:
        kb.projects.create("p")
        kb.search("p", "secret", mode="text")
        with kb.database.read() as db:
            [slow] = slow_queries.recent(db)
        assert (slow.kind, slow.project_pk) == ("text", kb.project("p").pk)
        assert kb.stats().slow_queries == 1


def test_vectors_of_another_model_are_not_compared(
    knowlex: Call, demo: Knowlex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with demo.database.write() as db:
        kept = db.value("SELECT hash FROM embedding_models")
        db.run("UPDATE embedding_models SET hash = 'another'")
    try:
        answer = knowlex("search", "demo", LEAVE, "--mode", "vector", "--db", demo.path)
        assert (answer.code, answer.out) == (4, "")
        assert "its vectors come from" in answer.err
        words = knowlex("search", "demo", LEAVE, "--mode", "text", "--db", demo.path)
        both = knowlex("search", "demo", LEAVE, "--db", demo.path)
        assert (words.code, words.err) == (both.code, "") == (0, "")
        assert "vector leg: the question could not be embedded" in both.err
        assert "its vectors come from" in both.err
        hits = demo.search("demo", LEAVE)
        assert [hit.id for hit in hits] == [hit.id for hit in demo.search("demo", LEAVE, mode="text")]
        assert [hit.vector_score for hit in hits] == [None] * len(hits)
    finally:
        with demo.database.write() as db:
            db.run("UPDATE embedding_models SET hash = :hash", hash=kept)


# --- hits in a notebook


class Tags(HTMLParser):
    """The tags and the text of some HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


HOSTILE = '<script>alert("x")</script><img src=x onerror=y>\x1b[2J\u202e &amp;'


def hostile_hits() -> Hits:
    """Hits of a document, a name and a question that try to be markup."""
    hit = Hit(
        rank=1,
        score=0.5,
        source=Source.FILE,
        id="i",
        file_id="f",
        file=HOSTILE,
        path='/a/"b' + HOSTILE,
        page_start=2,
        page_end=3,
        heading=HOSTILE,
        char_start=0,
        char_end=9,
        text=HOSTILE,
        highlight=lambda text: f"<mark>good</mark> {text}",
        text_rank=1,
        text_score=2.5,
        vector_rank=None,
        vector_score=None,
    )
    legs = {"text": Leg(1, 0.5), "vector": Leg(0, 0.0, HOSTILE)}
    return Hits(Answer(HOSTILE, "hybrid", legs, [hit], 3.2), "p")


def test_nothing_of_a_document_becomes_markup() -> None:
    shown = hostile_hits()._repr_html_()
    found = Tags(shown)
    assert found.tags == {"p", "b", "table", "thead", "tbody", "tr", "th", "td", "br", "span", "mark"}
    assert "<mark>good</mark>" in shown
    assert '<script>alert("x")</script>' in found.text
    assert not set(shown) & {"\x1b", "\u202e"}
    assert 'title="/a/&quot;b' in shown


def test_hits_show_themselves_in_jupyter_and_elsewhere() -> None:
    hits = hostile_hits()
    assert set(hits._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert ":2-3" in repr(hits)
    assert "1 (2.50)" in hits._repr_html_()
    assert f"vector leg: {one_line(HOSTILE)}" in repr(hits).splitlines(), "what was lacking is told at a prompt, too"


def test_hits_are_a_sequence_and_a_table(demo: Knowlex) -> None:
    hits = demo.search("demo", LEAVE, 3)
    assert (len(hits), hits[-1].rank, [hit.rank for hit in hits[:2]]) == (3, 3, [1, 2])
    frame = hits.to_pandas()
    assert list(frame.columns) == HIT
    assert list(frame["rank"]) == [1, 2, 3]
    assert list(demo.search("demo", "zzzz", mode="text").to_pandas().columns) == HIT


def test_a_hit_says_how_much_of_its_text_repeats_the_head_of_its_table(knowlex: Call, demo: Knowlex) -> None:
    found = knowlex("search", "demo", "LK-420", "-k", 1, "--mode", "text", "--json", "--db", demo.path).json
    [hit] = found["hits"]
    assert hit["text"][: hit["repeated"]].startswith("| article | name |")
    assert hit["text"][hit["repeated"] :].startswith("| LK-420 |")
    assert hit["char_end"] - hit["char_start"] == len(hit["text"]) - hit["repeated"]


def test_a_table_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match="pip install pandas"):
        hostile_hits().to_pandas()


def test_whatever_changes_what_is_found_is_seen_to_have_changed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The okapi eats leaves.")
    with Knowlex(tmp_path / "k.db") as kb:
        seen: list[tuple[int, int]] = []

        def changed(*_: object) -> None:
            with kb.database.read() as db:
                as_of = changes.as_of(db, projects.find(db, "p").pk)
            assert as_of not in seen
            seen.append(as_of)

        changed(kb.ingest("p", tmp_path / "a.txt"))
        memory = kb.memories.add("p", "t", "The okapi is shy.")
        changed(memory)
        changed(kb.memories.update(memory.id, importance=9))
        changed(kb.memories.update(memory.id, tags=["animals"]))
        talk = kb.conversations.create("t", project="p")
        said = kb.conversations.add(talk.id, "user", "Where do okapis live?")
        changed(said)
        changed(kb.conversations.add(talk.id, "assistant", "In the Congo."))
        changed(kb.conversations.edit(said.id, "Where does the okapi live?"))
        changed(kb.conversations.delete_message(said.id))
        changed(kb.conversations.move(talk.id, None))
        changed(kb.conversations.move(talk.id, "p"))
        changed(kb.conversations.delete(talk.id))
        changed(kb.memories.delete(memory.id))
        (tmp_path / "a.txt").write_text("The okapi eats leaves and twigs.")
        changed(kb.ingest("p", tmp_path / "a.txt"))
        [file] = kb.files("p")
        changed(kb.delete_file(file.id))
