"""An export of a damaged database gives all that can be read, names the rest, and can be imported."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from knowlex import Knowlex
from knowlex.salvaging import Lost
from storage import remains
from storage.errors import CorruptDatabaseError, NotADatabaseError, NotFoundError

TALKS, TURNS = 40, 15
PAGE = 4096
INDEXES = ("sqlite_autoindex_messages_1", "idx_messages_conversation", "idx_messages_created")


@dataclass(frozen=True)
class Kept:
    """A sound database, its export, and the ids of what is in it."""

    path: Path
    lines: list[str]

    @property
    def messages(self) -> set[str]:
        return ids(self.lines, "message")


def ids(lines: list[str], type: str) -> set[str]:
    return {item["id"] for item in map(json.loads, lines) if item["type"] == type}


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Conversations of two projects and of none, long enough for several pages of each tree."""
    path = tmp_path_factory.mktemp("sound") / "sound.db"
    with Knowlex(path) as kb:
        for name in ("a", "b"):
            kb.projects.create(name)
        with kb.transaction():
            for number in range(TALKS):
                project = ("a", "b", None)[number % 3]
                talk = kb.conversations.create(f"Talk {number} ☕", project=project, settings={"n": number})
                parent = None
                for turn in range(TURNS):
                    text = f"turn {turn} " + "words that fill a page " * (400 if turn == 7 else 5)
                    parent = kb.conversations.add(talk.id, "user", text, parent=parent).id
        lines = list(kb.conversations.export())
    return Kept(path, lines)


@pytest.fixture
def damaged(sound: Kept, database: Path) -> Path:
    """A copy of it, still whole."""
    return Path(shutil.copy(sound.path, database))


def overwrite(path: Path, pages: list[int], byte: bytes = b"\xff") -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(byte * PAGE)


def roots(path: Path, *names: str) -> list[int]:
    raw = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = dict(raw.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))
    raw.close()
    return [found[name] for name in names]


def imported(lines: list[str], folder: Path) -> None:
    """Take the lines into a new database, and find them there."""
    with Knowlex(folder / "new.db") as kb:
        kb.conversations.load(lines)
        assert ids(list(kb.conversations.export()), "message") == ids(lines, "message")
        assert kb.verify() == []


def require_all_told(sound: Kept, lines: list[str], lost: list[Lost]) -> None:
    """Every message is in the lines, or is named as lost, or is among those that nothing names."""
    missing = sound.messages - ids(lines, "message")
    named = {each.id for each in lost if each.type == "message"}
    unknown = sum(each.count for each in lost if each.type == "message" and each.id is None)
    assert len(missing - named) <= unknown
    assert not named & ids(lines, "message")
    gone = ids(sound.lines, "conversation") - ids(lines, "conversation")
    of_talks = [each for each in lost if each.type == "conversation"]
    assert len(gone - {each.id for each in of_talks}) <= sum(each.count for each in of_talks if each.id is None)


def exported(path: Path) -> tuple[list[str], list[Lost]]:
    lost: list[Lost] = []
    with Knowlex(path) as kb:
        return list(kb.conversations.export(lost=lost)), lost


def test_of_a_sound_database_it_is_the_export(sound: Kept) -> None:
    assert exported(sound.path) == (sound.lines, [])


@pytest.mark.parametrize("part", range(6))
def test_whatever_page_is_damaged_nothing_is_left_out_in_silence(sound: Kept, tmp_path: Path, part: int) -> None:
    """Three pages at once, all over the file, also those without which the database cannot be opened."""
    pages = sound.path.stat().st_size // PAGE
    for number in range(5):
        first = 2 + (part * 5 + number) * 9
        path, folder = Path(shutil.copy(sound.path, tmp_path / "k.db")), tmp_path / str(number)
        folder.mkdir()
        overwrite(path, [first + step * 3 % (pages - 2) for step in range(3)])
        if has_schema(path):
            lines, lost = exported(path)
            require_all_told(sound, lines, lost)
            imported(lines, folder)
        else:
            with pytest.raises(CorruptDatabaseError):
                exported(path)


def has_schema(path: Path) -> bool:
    """Tell whether SQLite knows any more which tables there are."""
    raw = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return bool(list(raw.execute("SELECT name FROM sqlite_schema")))
    except apsw.CorruptError:
        return False
    finally:
        raw.close()


@pytest.mark.parametrize(
    "name",
    ["sqlite_autoindex_messages_1", "idx_messages_conversation", "idx_conversations_updated", "text_versions",
     "incarnation", "app_settings"],
)  # fmt: skip
def test_where_no_row_is_hit_nothing_is_lost(sound: Kept, damaged: Path, name: str) -> None:
    overwrite(damaged, roots(damaged, name))
    assert exported(damaged) == (sound.lines, [])


def test_messages_whose_table_is_lost_are_named_by_the_indexes(sound: Kept, damaged: Path) -> None:
    overwrite(damaged, roots(damaged, "messages"))
    lines, lost = exported(damaged)
    assert [json.loads(line)["messages"] for line in lines] == [0] * TALKS
    assert {each.id for each in lost} == sound.messages
    talks = ids(sound.lines, "conversation")
    assert {each.detail for each in lost} == {f"of conversation {id}" for id in talks}


def test_a_page_of_rows_that_is_older_than_the_indexes_drops_none_in_silence(sound: Kept, damaged: Path) -> None:
    last = take_rows_off(damaged, leaf_of_messages(damaged))
    overwrite(damaged, roots(damaged, "idx_messages_created"))
    lines, lost = exported(damaged)
    assert len(lost) == last
    require_all_told(sound, lines, lost)


def take_rows_off(path: Path, page: int) -> int:
    """Lower the count of rows of a page, which stays valid, and return by how many."""
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE + 3)
        count = int.from_bytes(file.read(2), "big")
        file.seek((page - 1) * PAGE + 3)
        file.write((count // 2).to_bytes(2, "big"))
    return count - count // 2


def test_a_conversation_that_is_no_key_is_lost_and_nothing_else(sound: Kept, damaged: Path) -> None:
    raw = apsw.Connection(str(damaged))
    raw.execute("UPDATE messages SET conversation_id = CAST(x'ff' AS TEXT) WHERE pk = 3")
    raw.close()
    overwrite(damaged, roots(damaged, "idx_messages_created"))
    lines, lost = exported(damaged)
    assert [(each.type, each.detail) for each in lost] == [("message", "of no known one")]
    require_all_told(sound, lines, lost)


def test_keys_that_were_not_looked_at_are_counted(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains, "MOST_UNNAMED", 100)
    raw = apsw.Connection(str(damaged))
    raw.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'messages'", (2**40,))
    raw.close()
    overwrite(damaged, roots(damaged, "messages", *INDEXES))
    assert exported(damaged)[1] == [
        Lost("message", None, "at most: no index tells how many there were", 100),
        Lost("message", None, "at most: keys beyond 100 were not looked at", 2**40 - 100),
    ]


def test_what_no_page_names_is_counted(sound: Kept, damaged: Path) -> None:
    overwrite(damaged, roots(damaged, "messages", *INDEXES))
    lines, lost = exported(damaged)
    assert len(lines) == TALKS
    assert lost == [Lost("message", None, "at most: no index tells how many there were", TALKS * TURNS)]


def test_messages_whose_conversations_are_lost_are_recovered(sound: Kept, damaged: Path, tmp_path: Path) -> None:
    overwrite(damaged, roots(damaged, "conversations"))
    lines, lost = exported(damaged)
    heads = [item for item in map(json.loads, lines) if item["type"] == "conversation"]
    assert [head["title"] for head in heads] == [f"recovered {n + 1}" for n in range(TALKS)]
    assert [head["project"] for head in heads] == [("a", "b", None)[n % 3] for n in range(TALKS)]
    assert {each.detail for each in lost} == {
        f"15 messages of it are in the conversation recovered {n + 1}" for n in range(TALKS)
    }
    assert {head["id"] for head in heads} == ids(sound.lines, "conversation") == {each.id for each in lost}
    assert ids(lines, "message") == sound.messages
    imported(lines, tmp_path)


def test_a_project_whose_name_is_lost_is_named(sound: Kept, damaged: Path) -> None:
    overwrite(damaged, roots(damaged, "projects"))
    lines, lost = exported(damaged)
    assert ids(lines, "message") == sound.messages
    assert {json.loads(line).get("project") for line in lines} == {None}
    assert {each.type for each in lost} == {"project"}
    assert len(lost) == len([line for line in sound.lines if '"project":"' in line])


def test_answers_to_what_is_lost_answer_nothing(sound: Kept, damaged: Path) -> None:
    overwrite(damaged, [leaf_of_messages(damaged)])
    lines, lost = exported(damaged)
    before, after = (
        {item["id"]: item.get("parent_id") for item in map(json.loads, each)} for each in (sound.lines, lines)
    )
    gone = {each.id for each in lost}
    changed = {id for id in after if after[id] != before[id]}
    assert changed == {id for id in after if before[id] in gone}
    assert len(changed) > 0
    assert {after[id] for id in changed} == {None}


@pytest.fixture
def said_since(damaged: Path) -> set[str]:
    """Ids of what is said after the backup, in conversations of before and a new one."""
    with Knowlex(damaged) as kb:
        talks = [talk.id for talk in kb.conversations.list(limit=10).items]
        talks.append(kb.conversations.create("New").id)
        last = {id: [*kb.conversations.messages(id, limit=100).items] for id in talks}
        return {
            kb.conversations.add(id, "user", "said since", parent=last[id][-1].id if last[id] else None).id
            for id in talks
        }


@pytest.mark.parametrize(
    "names",
    [(), ("conversations",), ("conversations", "sqlite_autoindex_conversations_1"), ("projects",)],
)  # fmt: skip
def test_what_was_said_since_the_backup_comes_into_it(
    sound: Kept, damaged: Path, said_since: set[str], tmp_path: Path, knowlex, names: tuple[str, ...]
) -> None:
    """What an export of a damaged database wrote is taken in by a backup, in which nothing is changed."""
    overwrite(damaged, [leaf_of_messages(damaged), *roots(damaged, *names)])
    file = tmp_path / "talks.jsonl"
    assert knowlex("conversation", "export", "--output", file).code == 4
    assert '"salvaged":true' in file.read_text("utf8")
    restored = Path(shutil.copy(sound.path, tmp_path / "restored.db"))
    for _ in range(2):
        answer = knowlex("--db", restored, "conversation", "import", file)
        assert (answer.code, answer.err) == (0, "")
    with Knowlex(restored) as kb:
        lines = list(kb.conversations.export())
        assert kb.verify() == []
    assert ids(lines, "message") == sound.messages | said_since
    assert messages_of(sound.lines).items() <= messages_of(lines).items()
    assert len(ids(lines, "conversation")) == TALKS + 1


def messages_of(lines: list[str]) -> dict[str, str]:
    """Return the lines of messages, and the conversation of each, by their ids."""
    found, talk = {}, ""
    for line in lines:
        item = json.loads(line)
        if item["type"] == "conversation":
            talk = f"{item['id']} {item['title']} {item['project']} {item['settings']}"
        else:
            found[item["id"]] = talk + line
    return found


def leaf_of_messages(path: Path) -> int:
    """Return a page of the table of messages that is not its root."""
    raw = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    [[root]] = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'")
    raw.close()
    page = path.read_bytes()[(root - 1) * PAGE : root * PAGE]
    assert page[0] == 5, "the root of a table of several pages"
    cell = int.from_bytes(page[12:14], "big")  # where the first cell lies: it begins with the page below
    return int.from_bytes(page[cell : cell + 4], "big")


def test_a_conversation_or_a_project_can_be_chosen(sound: Kept, damaged: Path) -> None:
    overwrite(damaged, roots(damaged, "messages"))
    first, *_ = [json.loads(line)["id"] for line in sound.lines]
    lost: list[Lost] = []
    with Knowlex(damaged) as kb:
        [line] = kb.conversations.export(first, lost=lost)
        assert (json.loads(line)["id"], len(lost)) == (first, TURNS)
        lost.clear()
        assert len(list(kb.conversations.export(project="b", lost=lost))) * TURNS == len(lost) == 13 * TURNS
        lost.clear()
        assert len(list(kb.conversations.export(no_project=True, lost=lost))) == 13
        with pytest.raises(NotFoundError, match="conversation X: is not among what can be read"):
            list(kb.conversations.export("X", lost=[]))


def test_a_project_can_be_chosen_where_conversations_are_lost(sound: Kept, damaged: Path) -> None:
    overwrite(damaged, roots(damaged, "conversations"))
    lost: list[Lost] = []
    with Knowlex(damaged) as kb:
        assert len(ids(list(kb.conversations.export(project="b", lost=lost)), "message")) == 13 * TURNS
        assert len(lost) == 13
        lost.clear()
        assert len(ids(list(kb.conversations.export(no_project=True, lost=lost)), "message")) == 13 * TURNS


def test_where_nothing_tells_projects_it_says_to_export_all(sound: Kept, damaged: Path, knowlex, tmp_path) -> None:
    overwrite(damaged, roots(damaged, "conversations", "idx_conversations_project"))
    lost: list[Lost] = []
    with Knowlex(damaged) as kb:
        assert list(kb.conversations.export(project="b", lost=lost)) == []
    assert len(lost) == TALKS
    chosen = json.loads(sound.lines[0])["id"]
    with Knowlex(damaged) as kb:
        assert len(list(kb.conversations.export(chosen, lost=(of_one := [])))) == 1 + TURNS
    assert [each.id for each in of_one] == [chosen]
    assert {each.detail for each in lost} == {
        "nothing tells its project, so that 15 messages of it are not written; export all, not by project"
    }
    overwrite(damaged, roots(damaged, "projects"))
    answer = knowlex("conversation", "export", "--project", "b", "--output", tmp_path / "talks.jsonl")
    assert (answer.code, "export without --project" in answer.err) == (4, True)


def test_circles_are_opened_and_wrong_values_kept(damaged: Path, tmp_path: Path) -> None:
    raw = apsw.Connection(str(damaged))
    raw.execute("UPDATE messages SET parent_id = pk + 1 WHERE pk = 1; UPDATE messages SET parent_id = 20 WHERE pk = 20")
    raw.execute("UPDATE messages SET content = CAST(x'ff5b' AS TEXT) WHERE pk = 3")
    raw.execute("UPDATE messages SET created_at = 'then' WHERE pk = 4")
    raw.execute("UPDATE conversations SET settings = '[' WHERE pk = 1")
    raw.close()
    overwrite(damaged, roots(damaged, "project_memories"))
    lines, lost = exported(damaged)
    assert [(each.type, each.count) for each in lost] == [("message", 1)]
    head, first, second, third, *_ = map(json.loads, lines)
    assert [each.get("salvaged") for each in (head, first, second, third)] == [True, True, None, True]
    assert (head["settings"], third["content"][0]["text"]) == ({"unreadable": "["}, "\\xff[")
    imported(lines, tmp_path)


def test_another_program_s_database_is_none(database: Path) -> None:
    raw = apsw.Connection(str(database))
    raw.execute("CREATE TABLE other (x)")
    raw.close()
    with pytest.raises(NotADatabaseError):
        exported(database)


# --- the command


def test_the_command_writes_what_is_left_and_names_the_rest(sound: Kept, damaged: Path, knowlex, tmp_path) -> None:
    file = tmp_path / "talks.jsonl"
    overwrite(damaged, [leaf_of_messages(damaged)])
    answer = knowlex("conversation", "export", "--output", file, "--json")
    assert (answer.code, set(json.loads(answer.out))) == (4, {"file", "conversations", "messages", "lost"})
    lost = [Lost(**each) for each in json.loads(answer.out)["lost"]]
    lines = file.read_text("utf8").splitlines()
    require_all_told(sound, lines, lost)
    assert answer.err.startswith(f"the database is damaged; not to be read: {len(lost)} message")
    assert answer.err.splitlines()[1:] == [f"lost message {each.id}: {each.detail} (1)" for each in lost]
    assert knowlex("--db", tmp_path / "new.db", "conversation", "import", file).code == 0
    listed = knowlex("conversation", "export", "--json")
    assert (listed.code, len(json.loads(listed.out))) == (4, len(lines))
    logged = knowlex("--log-format", "json", "conversation", "export", "--output", file)
    assert json.loads(logged.err)["messages"] == len(lost)


def test_the_first_losses_are_shown_and_the_others_pointed_to(damaged: Path, knowlex, tmp_path: Path) -> None:
    overwrite(damaged, roots(damaged, "messages"))
    export = ("conversation", "export", "--output", tmp_path / "talks.jsonl")
    _head, *shown, rest = knowlex(*export).err.splitlines()
    assert (len(shown), {line.split()[0] for line in shown}) == (20, {"lost"})
    assert rest.startswith(f"{TALKS * TURNS - 20} more; ")
    assert "knowlex conversation export --output FILE --json" in rest
    logged = json.loads(knowlex("--log-format", "json", *export).err)
    assert (logged["messages"], len(logged["ids"].split())) == (TALKS * TURNS, 20)
    assert [line.split()[2].rstrip(":") for line in shown] == logged["ids"].split()


def test_where_all_can_be_read_it_says_so(sound: Kept, damaged: Path, knowlex, tmp_path: Path) -> None:
    overwrite(damaged, roots(damaged, "idx_messages_conversation"))
    answer = knowlex("conversation", "export", "--output", tmp_path / "talks.jsonl")
    assert (answer.code, "all of these conversations could be read" in answer.err) == (0, True)
    assert (tmp_path / "talks.jsonl").read_text("utf8").splitlines() == sound.lines
    assert knowlex("repair").code == 0
    assert knowlex("verify", "--deep").code == 0


def test_standard_output_cannot_be_begun_anew(damaged: Path, knowlex) -> None:
    overwrite(damaged, [leaf_of_messages(damaged)])
    answer = knowlex("conversation", "export")
    assert (answer.code, "knowlex conversation export --output FILE" in answer.err) == (4, True)


def test_repair_and_export_lead_somewhere(damaged: Path, knowlex, tmp_path: Path) -> None:
    """What repair leaves names the export, which ends with what it has; wrong values alone are for repair."""
    overwrite(damaged, roots(damaged, "messages"))
    repaired = knowlex("repair")
    assert (repaired.code, "conversation export --output FILE" in repaired.out) == (4, True)
    answer = knowlex("conversation", "export", "--output", tmp_path / "talks.jsonl")
    assert (answer.code, "knowlex repair" in answer.err) == (4, False)


def test_repair_does_not_forget_what_only_indexes_tell(sound: Kept, damaged: Path, knowlex, tmp_path: Path) -> None:
    """It names the rows of a page that is sound but older, writes nothing, and points to the export."""
    last = take_rows_off(damaged, leaf_of_messages(damaged))
    answer = knowlex("repair", "--json")
    repaired = json.loads(answer.out)
    assert (answer.code, repaired["mended"], repaired["copy"]) == (4, [], None)
    [left] = [left for left in repaired["left"] if left["detail"].startswith("table messages: rows are lost")]
    assert (left["kind"], left["count"]) == ("damaged", last)
    assert "knowlex conversation export --output FILE" in left["remedy"]
    answer = knowlex("conversation", "export", "--output", tmp_path / "talks.jsonl", "--json")
    lost = {each["id"] for each in json.loads(answer.out)["lost"]}
    assert (answer.code, len(lost)) == (4, last)
    assert lost == sound.messages - ids((tmp_path / "talks.jsonl").read_text("utf8").splitlines(), "message")
    assert all(id in left["detail"] for id in sorted(lost)[:20])


@pytest.mark.parametrize("value", ["x'ff'", "x'5b'"])
def test_wrong_values_in_sound_pages_are_for_repair(damaged: Path, knowlex, tmp_path: Path, value: str) -> None:
    raw = apsw.Connection(str(damaged))
    raw.execute(f"UPDATE messages SET content = CAST({value} AS TEXT) WHERE pk = 3")
    raw.close()
    export = ("conversation", "export", "--output", tmp_path / "talks.jsonl")
    answer = knowlex(*export)
    assert (answer.code, answer.err.endswith("run knowlex repair\n")) == (4, True)
    assert not (tmp_path / "talks.jsonl").exists()
    assert knowlex("repair").code == 0
    assert knowlex(*export).code == 0
