"""The log says what happens by ids, codes and numbers; nothing that anybody wrote gets into it."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults import poison
from faults.table import Figure
from pypdf import PdfWriter

from knowlex import Knowlex
from knowlex.cli import main
from knowlex.log_output import REMEDIES, to_stderr
from pipeline import ingest
from storage import queue
from storage.errors import LockedError
from storage.event_log import Event, EventLog, code_of
from storage.ids import now_ms
from workers.runner import RunnerSettings

ROOT = Path(__file__).parents[2]
PACKAGES = ("knowlex", "workers", "pipeline", "storage")

KINDS = {"text": 60, "name": 40, "query": 40, "memory": 20, "said": 20, "secret": 19, "home": 1}
"""How many canaries there are of each kind: 200."""
IN_ERRORS = ("text", "query", "memory", "said", "secret", "home")
"""Those that may not be in the error of a file either, which may name a file within it."""


def canary(kind: str, number: int = 0) -> str:
    """Return a word that stands nowhere else."""
    assert number < KINDS[kind]
    return f"{kind}canary{number:03}zq"


CANARIES = [canary(kind, number) for kind, count in KINDS.items() for number in range(count)]


@dataclass
class Log:
    """What commands wrote to standard error: the log's lines, apart from those for people."""

    read: Callable[[], str]
    lines: list[str] = field(default_factory=list)

    def run(self, *arguments: object) -> int:
        """Run a command with all of its log, as JSON, and keep that."""
        self.read()
        code = main([str(argument) for argument in (*arguments, "--log-format", "json", "-vv")])
        for line in self.read().splitlines():
            # The one line that a failed command ends with names what the person has to look at.
            if not line.startswith("knowlex: "):
                self.lines.append(line)
        return code

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


@pytest.fixture
def log(capfd: pytest.CaptureFixture[str]) -> Log:
    return Log(lambda: capfd.readouterr().err)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of somebody, whose name is a canary; the database lies in it."""
    home = tmp_path / canary("home")
    home.mkdir()
    cache = Path.home() / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))  # the compiled model is where it is
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KNOWLEX_DB", str(home / "k.db"))
    return home


def shelve(home: Path) -> Path:
    """Fill a folder with files that are read, and with files that fail in every way, and return it."""
    folder = home / canary("name", 0)
    for number in range(30):
        sub = folder / canary("name", 1 + number % 5)
        sub.mkdir(parents=True, exist_ok=True)
        text = f"# {canary('text', number)}\n\nIt says {canary('text', 30 + number)}.\n"
        (sub / f"{canary('name', 6 + number)}.md").write_text(text)
    (folder / f"{canary('name', 36)}.pdf").write_bytes(b"%PDF-1.7\n" + canary("text", 0).encode() * 50)
    (folder / f"{canary('name', 37)}.docx").write_bytes(b"PK\x03\x04" + canary("text", 1).encode() * 50)
    locked = PdfWriter()
    locked.add_blank_page(100, 100)
    locked.encrypt(canary("secret", 0))
    locked.write(folder / f"{canary('name', 38)}.pdf")
    for act in ("segfault", "hang", "raise"):
        (folder / f"{canary('name', 39)}-{act}.md").write_text(f"{poison.MARK}{act}\n\n{canary('text', 2)}")
    (folder / f"{canary('name', 35)}.eml").write_bytes(mail())
    return folder


def mail() -> bytes:
    message = EmailMessage()
    message["Subject"] = canary("said", 0)
    message["From"] = f"{canary('said', 1)}@example.org"
    message.set_content(canary("text", 3))
    message.add_attachment(b"%PDF-1.7\n", maintype="application", subtype="pdf", filename=f"{canary('name', 34)}.pdf")
    return message.as_bytes()


def troubled(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let everything happen to a run that is told of in the log: and libraries that quote what they read."""
    poison.plant(monkeypatch, hanging=["hang"])
    monkeypatch.setattr("pipeline.ingest.RETRY_FIRST_MS", 20)
    monkeypatch.setattr("knowlex.ingestion.RunnerSettings", partial(RunnerSettings, heartbeat_s=0.05))
    commit, extend = ingest.commit, queue.extend
    taken, missed = [1], [1]

    def commit_late(database: Any, claim: Any, *more: Any, **options: Any) -> Any:
        logging.getLogger("alibrary").warning("odd: %s", canary("text", 4))
        logging.getLogger("knowlex").error(canary("text", 5))
        if taken:
            taken.pop()
            with database.write() as db:
                queue.end_leases(db)
        return commit(database, claim, *more, **options)

    def extend_late(*values: Any, **options: Any) -> int:
        if missed:
            missed.pop()
            raise LockedError(f"{home}: another process holds the write lock")
        return extend(*values, **options)

    monkeypatch.setattr(ingest, "commit", commit_late)
    monkeypatch.setattr(queue, "extend", extend_late)


def lose_files(home: Path) -> None:
    """Put the failed files into the hands of a worker that is gone."""
    gone = subprocess.check_output([sys.executable, "-c", "from workers import owner; print(owner.name())"], text=True)
    with Knowlex(home / "k.db") as kb:
        kb.requeue_failed("p")
        with kb.database.write() as db:
            assert queue.claim(db, gone.strip(), limit=9, now_ms=now_ms())


EXPECTED = {
    "run started",
    "run ended",
    "file processed",
    "lease lost",
    "heartbeat missed",
    "files of a lost worker taken back",
    "parser died",
    "a library warns",
}


@pytest.mark.proof
@pytest.mark.row(28)
def test_nothing_that_anybody_wrote_is_in_the_log(
    log: Log, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, figure: Figure
) -> None:
    folder = shelve(home)
    passwords = home / "passwords"
    passwords.write_text("\n".join(canary("secret", number) for number in range(1, 19)))
    with monkeypatch.context() as patches:
        troubled(patches, home)
        assert log.run("ingest", "p", folder, "--pdf-password-file", passwords) == 1
    kept = kept_of(home)
    lose_files(home)
    log.run("work", "--once")
    log.run("ingest", "p", folder, "--prune", "--force")
    for number in range(0, 20, 2):
        log.run("memory", "add", "p", canary("memory", number), canary("memory", number + 1))
    log.run("conversation", "create", canary("said", 2), "--project", "p")
    for number in range(3):
        log.run("search", "p", canary("query", number), "--source", "files,memories", "--explain")
    for number in range(3, 38):
        log.run("search", "p", canary("query", number), "--mode", "text")
    log.run("search", "p", f'"{canary("query", 38)}', "--mode", "text", "--syntax", "fts5")
    log.run("memory", "search", "p", canary("query", 39), "--mode", "text")
    for number in range(3, 20):
        log.run("project", "show", canary("said", number))
    log.run("ingest", "p", home / "missing")
    for command in ("stats", "health", "verify", "maintain"):
        log.run(command)

    assert {event["event"] for event in log.events} >= EXPECTED
    assert {event["status"] for event in log.of("file processed")} == {"ready", "failed", "later", "changed"}
    assert {event["error_code"] for event in log.of("parser died")} == {"crashed", "timeout"}
    assert {event["library"] for event in log.of("a library warns")} == {"alibrary", "knowlex"}
    ours = "\n".join(str(record.msg) for record in caplog.records if isinstance(record.msg, Event))
    found = [word for word in CANARIES if word in "\n".join(log.lines).lower() or word in ours.lower()]
    kept += kept_of(home)
    found += [word for word in CANARIES if word.startswith(IN_ERRORS) and word in kept]
    assert found == []
    figure(28, f"{len(CANARIES)} canaries, {len(log.lines)} lines of log: {len(found)} found", not found)


def kept_of(home: Path) -> str:
    """Return the errors of files and all rows of runs."""
    with Knowlex(home / "k.db") as kb, kb.database.read() as db:
        errors = db.all("SELECT error_code, error_message FROM project_files WHERE error_message IS NOT NULL")
        runs = db.all("SELECT * FROM ingestion_runs")
    assert (len(errors), len(runs)) > (3, 0)
    return repr((errors, runs)).lower()


def test_all_events_of_the_code_are_constants_and_documented() -> None:
    """An event that is put together from values could hold anything."""
    events, fields = documented()
    told: set[str] = set()
    for call, source in calls():
        name, *more = call.args
        assert isinstance(name, ast.Constant), source
        assert isinstance(name.value, str), source
        assert more == [], source
        told.add(name.value)
        given = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        assert given <= fields, f"{source}: a field is new: say in docs/logs.md what it holds"
    assert told == events


def calls() -> Iterator[tuple[ast.Call, str]]:
    """Yield every call that writes to the log, and where it stands."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf8"))):
                match node:
                    case ast.Call(func=ast.Attribute(value=target, attr="debug" | "info" | "warning" | "error")):
                        if ast.unparse(target).lower().endswith("log"):
                            yield node, f"{path.name}:{node.lineno}"


def documented() -> tuple[set[str], set[str]]:
    page = (ROOT / "docs" / "logs.md").read_text("utf8")
    _, events, fields = re.split(r"^## (?:Events|Fields)$", page, flags=re.MULTILINE)
    rows = re.compile(r"^\| `([^`|]+)` \|", re.MULTILINE)
    # What a library says is told by the handler itself.
    return set(rows.findall(events)) - {"a library warns"}, set(rows.findall(fields))


def test_nothing_is_logged_past_the_event_log() -> None:
    """Python's own loggers take any text; libraries' are only silenced, by name."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text("utf8")
            assert not re.search(r"logging\.(debug|info|warning|error|exception|basicConfig)\(", text) or path.name in (
                "demo.py",
            ), path


# --- how it is written


def written(capsys: pytest.CaptureFixture[str], format: str, level: str, **more: bool) -> list[str]:
    """Return the lines that one event of each level, and one of a library, become."""
    log = EventLog("knowlex.test", run="r1")
    with to_stderr(format, level, **more):
        log.debug("a", n=1)
        log.info("b", n=None)
        log.warning("c", n=2.5)
        EventLog("knowlex.embed").info("compiling")
        logging.getLogger("alibrary").info("secret")
        logging.getLogger("alibrary.reader").warning("secret %s", "words")
    log.warning("outside of the block")
    return capsys.readouterr().err.splitlines()


def test_text_says_the_name_and_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert written(capsys, "text", "auto") == ["c run=r1 n=2.5", "a library warns library=alibrary"]
    assert written(capsys, "text", "auto", announce=True)[1] == "compiling"
    assert [re.sub(r"^[\d-]+ [\d:,]+ ", "", line) for line in written(capsys, "text", "debug")] == [
        "DEBUG knowlex.test: a run=r1 n=1",
        "INFO knowlex.test: b run=r1",
        "WARNING knowlex.test: c run=r1 n=2.5",
        "INFO knowlex.embed: compiling",
        "WARNING knowlex: a library warns library=alibrary",
    ]


def test_json_is_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    first, *_, last = map(json.loads, written(capsys, "json", "auto"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", first.pop("timestamp"))
    assert first == {"event": "b", "level": "info", "logger": "knowlex.test", "run": "r1", "n": None}
    assert (last["event"], last["level"], last["library"]) == ("a library warns", "warning", "alibrary")
    assert len(written(capsys, "json", "error")) == 0


@pytest.mark.parametrize("event", REMEDIES)
def test_what_to_do_is_told_to_people_behind_the_event(event: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"| `{event}` |" in (ROOT / "docs" / "logs.md").read_text("utf8")
    with to_stderr("text", "auto"):
        EventLog("knowlex").warning(event, model="0a1b2c3d")
    assert capsys.readouterr().err == f"{event} model=0a1b2c3d: {REMEDIES[event]}\n"
    with to_stderr("json", "auto"):
        EventLog("knowlex").warning(event, model="0a1b2c3d")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["model"], REMEDIES[event] in str(line)) == (event, "0a1b2c3d", False)


def test_an_error_is_told_by_its_code_or_its_class() -> None:
    assert code_of(LockedError("/home/somebody/k.db: another process holds the write lock")) == "locked"
    assert code_of(OSError(2, "No such file", "/home/somebody")) == "FileNotFoundError"


def test_the_settings_choose_form_and_level(knowlex: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.md").write_text("Refunds are paid within 30 days.")
    assert knowlex("ingest", "p", tmp_path / "a.md").err == f"new database: {tmp_path}/knowlex.db\n"
    monkeypatch.setenv("KNOWLEX_LOG_FORMAT", "json")
    lines = [json.loads(line) for line in knowlex("ingest", "p", tmp_path / "a.md").err.splitlines()]
    assert [line["event"] for line in lines] == ["run started", "run ended"]
    assert lines[0]["project"] == lines[1]["project"] == knowlex("project", "show", "p", "--json").json["id"]
    monkeypatch.setenv("KNOWLEX_LOG_LEVEL", "error")
    assert knowlex("ingest", "p", tmp_path / "a.md").err == ""
    assert "run ended" in knowlex("ingest", "p", tmp_path / "a.md", "--log-format", "text", "-v").err
    monkeypatch.setenv("KNOWLEX_LOG_LEVEL", "loud")
    refused = knowlex("ingest", "p", tmp_path / "a.md")
    assert (
        refused.code,
        "KNOWLEX_LOG_LEVEL: log_level = 'loud' is unknown; give one of auto, debug" in refused.err,
    ) == (4, True)


def test_a_log_for_machines_is_told_no_names(knowlex: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"no PDF at all")
    answer = knowlex("ingest", "p", tmp_path / "bad.pdf", "--log-format", "json")
    assert answer.code == 1
    told = [json.loads(line) for line in answer.err.splitlines()]
    [file] = knowlex("files", "p", "--json").json
    [processed] = [line for line in told if line["event"] == "file processed"]
    assert processed | {"timestamp": "", "run": "", "project": "", "parse_ms": 0, "write_ms": 0} == {
        "event": "file processed",
        "timestamp": "",
        "level": "info",
        "logger": "knowlex.run",
        "run": "",
        "project": "",
        "file": file["id"],
        "status": "failed",
        "error_code": "corrupt",
        "attempt": 1,
        "chunks": 0,
        "parse_ms": 0,
        "write_ms": 0,
    }


WARNER = """
import sys, warnings
from knowlex.cli import main, cli
import click
@click.command()
@click.pass_obj
def warn(door):
    with door.open() as kb:
        warnings.warn("secret")
cli.add_command(warn)
sys.exit(main(["--db", sys.argv[1], "--log-format", "json", "warn"]))
"""


def test_a_warning_of_python_is_told_without_its_text(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WARNER, str(tmp_path / "a.db")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stderr
    assert [json.loads(line)["library"] for line in done.stderr.splitlines()] == ["py"]


def test_structlog_is_loaded_for_json_alone(tmp_path: Path) -> None:
    """Its import takes longer than the whole of a command that only reads."""
    command = (
        "import sys; from knowlex.cli import main; code = main(['--db', sys.argv[1], *sys.argv[2:]]);"
        " print('structlog' in sys.modules); sys.exit(code)"
    )
    for arguments in (["project", "create", "p"], ["files", "p", "--log-format", "json"], ["project", "list", "-v"]):
        done = subprocess.run(
            [sys.executable, "-c", command, str(tmp_path / "a.db"), *arguments], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False"), done.stderr
