"""A parser child bears what files do to it, and never outlives its worker."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from second_model import without_long_pieces

from pipeline import model_files
from pipeline.chunk import ChunkSettings
from pipeline.document import Chunk
from pipeline.model_files import ModelFiles
from pipeline.parse import ParseSettings
from storage.errors import ConfigurationError, ExtractError, TransientError
from storage.queue import Claim
from workers import parser as parser_module
from workers.parser import SCARCE, START_AGAIN_S, Parser, ParserLimits, ParserStoppedError, _parsed

MODEL = model_files.resolve("sentence-transformers/all-MiniLM-L6-v2")
SETTINGS = ParseSettings(ChunkSettings())


def claim(path: Path, error_code: str | None = None) -> Claim:
    return Claim(1, 1, os.fsencode(path), path.name, None, None, 0, "token", error_code)


def parser_with(limits: ParserLimits) -> Parser:
    return Parser(limits)


@pytest.fixture
def parser() -> Iterator[Parser]:
    with_limits = parser_with(ParserLimits(timeout_s=20))
    yield with_limits
    with_limits.close()


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.md"
    path.write_text("# Tides\n\nThe harbour opens at high water.", "utf8")
    return path


@pytest.fixture
def long_note(tmp_path: Path) -> Path:
    """Some passages."""
    path = tmp_path / "log.md"
    path.write_text("\n\n".join(f"At hour {n} the harbour master looked again." for n in range(60)), "utf8")
    return path


@pytest.fixture
def long_text(tmp_path: Path) -> Path:
    """Some seconds of parsing."""
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(f"Sentence {n} of a very long report." for n in range(300_000)), "utf8")
    return path


def test_a_file_comes_back_as_chunks(parser: Parser, note: Path) -> None:
    parsed = parser.parse(claim(note), SETTINGS, MODEL)
    assert [chunk.heading for chunk in parsed.chunks] == ["Tides"]
    assert "harbour" in parsed.chunks[0].text
    assert parsed.fingerprint.size == note.stat().st_size
    assert len(parsed.tokens) == 1


def test_another_model_has_a_child_of_its_own_that_cuts_for_it(parser: Parser, long_note: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(without_long_pieces(MODEL.folder / "tokenizer.json", 1)))
    other = ModelFiles(folder, "other")
    few = len(parser.parse(claim(long_note), SETTINGS, MODEL).chunks)
    first = _child_of(parser)
    assert len(parser.parse(claim(long_note), SETTINGS, MODEL).chunks) == few
    assert _child_of(parser) == first
    assert len(parser.parse(claim(long_note), SETTINGS, other).chunks) > few
    assert not psutil.pid_exists(first)


def test_what_lies_in_the_file_is_told_apart_from_what_lies_in_the_path(parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_bytes(b"")
    with pytest.raises(ExtractError, match="empty"):
        parser.parse(claim(tmp_path / "empty.md"), SETTINGS, MODEL)
    with pytest.raises(FileNotFoundError):
        parser.parse(claim(tmp_path / "missing.md"), SETTINGS, MODEL)


def test_a_crash_costs_one_attempt_and_the_next_file_is_parsed(parser: Parser, note: Path, long_text: Path) -> None:
    parser.parse(claim(note), SETTINGS, MODEL)
    killer = threading.Timer(0.3, os.kill, (_child_of(parser), signal.SIGSEGV))
    killer.start()
    with pytest.raises(TransientError, match="crashed") as caught:
        parser.parse(claim(long_text), SETTINGS, MODEL)
    assert caught.value.code == "crashed"
    assert parser.parse(claim(note), SETTINGS, MODEL).chunks


def test_a_child_that_ended_between_two_files_costs_no_attempt(parser: Parser, note: Path) -> None:
    parser.parse(claim(note), SETTINGS, MODEL)
    child = psutil.Process(_child_of(parser))
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert parser.parse(claim(note), SETTINGS, MODEL).chunks


def test_a_hang_ends_by_the_childs_own_timer(note: Path, long_text: Path) -> None:
    parser = parser_with(ParserLimits(timeout_s=0.4))
    with pytest.raises(TransientError, match="over 0.4 s") as caught:
        parser.parse(claim(long_text), SETTINGS, MODEL)
    assert caught.value.code == "timeout"
    assert parser.parse(claim(note), SETTINGS, MODEL).chunks
    parser.close()


def test_a_child_that_cannot_even_time_out_is_killed(note: Path) -> None:
    parser = parser_with(ParserLimits(timeout_s=0.4))
    parser.parse(claim(note), SETTINGS, MODEL)
    child = _child_of(parser)
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(TransientError, match="over 0.4 s"):
        parser.parse(claim(note), SETTINGS, MODEL)
    assert not psutil.pid_exists(child)
    parser.close()


def test_memory_is_bounded(note: Path, tmp_path: Path) -> None:
    parser = parser_with(ParserLimits(timeout_s=20, memory_bytes=400 * 2**20))
    (tmp_path / "huge.txt").write_bytes(b"word " * (36 * 2**20))
    with pytest.raises(TransientError) as caught:
        parser.parse(claim(tmp_path / "huge.txt"), SETTINGS, MODEL)
    assert caught.value.code in ("memory", "crashed")
    assert parser.parse(claim(note), SETTINGS, MODEL).chunks
    parser.close()


def test_a_child_that_a_large_file_made_grow_is_replaced(parser: Parser, note: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.txt"
    large.write_text("\n\n".join(f"Sentence {n} of a long report." for n in range(100_000)), "utf8")
    parser.parse(claim(note), SETTINGS, MODEL)
    first = parser._process.pid
    parser.parse(claim(note), SETTINGS, MODEL)
    assert parser._process.pid == first
    assert len(parser.parse(claim(large), SETTINGS, MODEL).chunks) > 1000
    parser.parse(claim(note), SETTINGS, MODEL)
    assert parser._process.pid != first
    assert not psutil.pid_exists(first)


@pytest.mark.parametrize(
    ("error_code", "cut"),
    [(None, True), ("changing", True), *((code, False) for code in ("crashed", "timeout", "memory", "parser_error"))],
)
def test_code_is_cut_without_its_grammar_where_the_last_attempt_died(
    parser: Parser, tmp_path: Path, error_code: str | None, cut: bool
) -> None:
    (tmp_path / "a.go").write_text("package tides\n\nfunc High() int {\n\treturn 12\n}\n", "utf8")
    parsed = parser.parse(claim(tmp_path / "a.go", error_code), SETTINGS, MODEL)
    assert [chunk.heading for chunk in parsed.chunks if chunk.heading] == (["func High"] if cut else [])
    assert ("grammar" in parsed.metadata) == (not cut)
    assert parsed.metadata["language"] == "go"


def test_too_little_memory_to_start_is_one_clear_error(note: Path) -> None:
    parser = parser_with(ParserLimits(memory_bytes=64 * 2**20))
    with pytest.raises(ConfigurationError, match="parse_memory_mb"):
        parser.parse(claim(note), SETTINGS, MODEL)


# --- a child that the machine does not let start


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a child that does not start be tried again at once."""
    monkeypatch.setattr(parser_module, "START_AGAIN_S", [0.0 for _ in START_AGAIN_S])


def test_a_missing_interpreter_is_not_taken_for_a_missing_file(
    parser: Parser, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = psutil.Process().num_fds()
    with monkeypatch.context() as patches:
        patches.setattr(sys, "executable", str(note.parent / "python"))
        with pytest.raises(ConfigurationError, match=r"started \(.*python: No such file .*\): install Knowlex"):
            parser.parse(claim(note), SETTINGS, MODEL)
    assert psutil.Process().num_fds() == before
    assert parser.parse(claim(note), SETTINGS, MODEL).chunks


@contextmanager
def descriptors_left(count: int) -> Generator[None]:
    """Let this process open no more files than so many."""
    limits, taken = resource.getrlimit(resource.RLIMIT_NOFILE), list[int]()
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 10, limits[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("left", [0, 2, 4], ids=["connection", "lifeline", "process"])
def test_too_few_descriptors_for_a_child_are_told_and_none_is_kept(left: int, parser: Parser, note: Path) -> None:
    before = psutil.Process().num_fds()
    with descriptors_left(left), pytest.raises(ConfigurationError, match="Too many open files.*ulimit -n"):
        parser.parse(claim(note), SETTINGS, MODEL)
    assert psutil.Process().num_fds() == before
    assert parser.parse(claim(note), SETTINGS, MODEL).chunks


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Have the system refuse to start a process a few times; gives the refusals that are left."""
    popen = subprocess.Popen

    def refuse(number: int, times: int) -> list[int]:
        left = [number] * times

        def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
            if left:
                raise OSError(left.pop(), os.strerror(number))
            return popen(*arguments, **options)

        monkeypatch.setattr(subprocess, "Popen", start)
        return left

    return refuse


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("number", SCARCE, ids=errno.errorcode.get)
def test_what_the_machine_lacks_for_a_moment_is_waited_for(
    number: int, parser: Parser, note: Path, refusing: Callable[..., list[int]]
) -> None:
    left = refusing(number, len(START_AGAIN_S))
    assert parser.parse(claim(note), SETTINGS, MODEL).chunks
    assert left == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("number", SCARCE, ids=errno.errorcode.get)
def test_what_the_machine_goes_on_lacking_is_told_with_its_remedy(
    number: int, parser: Parser, note: Path, refusing: Callable[..., list[int]]
) -> None:
    left = refusing(number, len(START_AGAIN_S) + 2)
    with pytest.raises(ConfigurationError) as caught:
        parser.parse(claim(note), SETTINGS, MODEL)
    assert caught.value.message == f"the parser process cannot be started ({os.strerror(number)}): {SCARCE[number]}"
    assert len(left) == 1


def test_a_stop_does_not_wait_for_what_the_machine_lacks(
    parser: Parser, note: Path, refusing: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser_module, "START_AGAIN_S", [3600.0])
    refusing(errno.EAGAIN, 1)
    threading.Timer(0.3, parser.stop).start()
    with pytest.raises(ParserStoppedError):
        parser.parse(claim(note), SETTINGS, MODEL)


# --- a child that says what it should not


GARBLED = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
for answer in sys.argv[3:]:
    connection.recv_bytes()
    connection.send_bytes(answer.encode())
connection.poll(None)
"""


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[subprocess.Popen[bytes]]]:
    """Have every child of the test say what it is told to, or run a script; gives the children that were started."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def say(*answers: str, script: str = GARBLED) -> list[subprocess.Popen[bytes]]:
        def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            started.append(popen([sys.executable, "-c", script, *command[-2:], *answers], **options))
            return started[-1]

        monkeypatch.setattr(subprocess, "Popen", start)
        return started

    return say


DEEP = "[" * 100_000


@pytest.mark.parametrize("greeting", ["no JSON", "7", "[1]", DEEP], ids=["text", "number", "list", "deep"])
def test_a_child_that_greets_in_nonsense_is_ended(greeting: str, note: Path, answering) -> None:
    started = answering(greeting)
    with pytest.raises(ConfigurationError, match="does not start"):
        parser_with(ParserLimits()).parse(claim(note), SETTINGS, MODEL)
    assert started[0].returncode is not None


CHUNK = dataclasses.asdict(Chunk(0, "text", 0, 4, 1, 1, "", 1))
TOKENS = {"heading": "", "body": "text", "repeats": ""}
PARSED: dict[str, Any] = {
    "content_hash": "0" * 64,
    "fingerprint": {"size": 4, "mtime_ns": 1, "ctime_ns": 1, "inode": 1},
    "mime_type": "text/plain",
    "parser": "text 1",
    "page_count": None,
    "metadata": {},
    "chunks": [CHUNK],
    "tokens": [TOKENS],
    "parts": [],
}
HALF = "half a character: \ud83d"
WRONG: list[dict[str, Any]] = [
    {"parsed": 7},
    *({"parsed": {k: v for k, v in PARSED.items() if k != name}} for name in PARSED),
    *({"parsed": PARSED | {name: 1.5}} for name in PARSED),
    *({"parsed": PARSED | {"chunks": [CHUNK | {name: [7]}]}} for name in CHUNK),
    *({"parsed": PARSED | {"tokens": [TOKENS | {name: 7}]}} for name in TOKENS),
    {"parsed": PARSED | {"chunks": [CHUNK | {"text": HALF}]}},
    {"parsed": PARSED | {"chunks": [CHUNK | {"page_end": 2**63}]}},
    {"parsed": PARSED | {"chunks": [CHUNK, CHUNK]}},
    {"parsed": PARSED | {"parts": [{"name": 7, "size": 1, "content_hash": "0", "mime_type": "text/plain"}]}},
    {"parsed": PARSED | {"unknown": 7}},
    {"extract_error": 7, "code": "corrupt"},
    {"extract_error": "no text in it", "code": 7},
    {"extract_error": HALF, "code": "corrupt"},
    {"os_error": "2", "text": "no such file"},
    {"parser_error": ["ValueError"]},
]


@pytest.mark.parametrize("answer", WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_stored_is_no_answer(answer: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        _parsed(json.loads(json.dumps(answer)))


def test_the_answer_that_the_wrong_ones_were_made_of_is_right() -> None:
    assert [chunk.text for chunk in _parsed({"parsed": PARSED}).chunks] == ["text"]


@pytest.mark.parametrize("answer", [json.dumps(WRONG[-6]), json.dumps(WRONG[-3]), DEEP], ids=["type", "half", "deep"])
def test_a_child_that_answers_in_nonsense_costs_its_file_an_attempt(answer: str, note: Path, answering) -> None:
    started = answering('{"ready": true}', answer)
    with pytest.raises(TransientError, match="crashed") as caught:
        parser_with(ParserLimits()).parse(claim(note), SETTINGS, MODEL)
    assert caught.value.code == "crashed"
    assert started[0].returncode is not None


BEGIN = """
import os, struct, sys, time
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
connection.recv_bytes()
connection.send_bytes(b'{"ready": true}')
connection.recv_bytes()
os.write(connection.fileno(), struct.pack("!i", 1000) + b'{"parsed"')
"""
HALT = "time.sleep(20)"
DRIP = """
for _ in range(400):
    time.sleep(0.05)
    os.write(connection.fileno(), b" ")
"""


@pytest.mark.parametrize("go_on", [HALT, DRIP], ids=["halts", "drips"])
def test_the_time_out_holds_also_for_an_answer_that_has_begun(go_on: str, note: Path, answering) -> None:
    started = answering(script=BEGIN + go_on)
    with pytest.raises(TransientError, match="over 0.4 s") as caught:
        parser_with(ParserLimits(timeout_s=0.4)).parse(claim(note), SETTINGS, MODEL)
    assert caught.value.code == "timeout"
    assert started[0].returncode == -signal.SIGKILL


def test_an_answer_that_nobody_takes_ends_by_the_childs_own_timer(note: Path, tmp_path: Path) -> None:
    parser = parser_with(ParserLimits(timeout_s=3))
    parser.parse(claim(note), SETTINGS, MODEL)
    path = tmp_path / "some.txt"  # its answer is larger than what a socket holds
    path.write_text("\n\n".join(f"Sentence {n} of a report." for n in range(20_000)), "utf8")
    assert parser._connection is not None
    assert parser._process is not None
    parser._connection.send_bytes(json.dumps(parser._request(claim(path), SETTINGS)).encode())
    assert parser._process.wait(timeout=60) == -signal.SIGALRM
    parser.close()


def test_an_answer_longer_than_the_memory_of_a_child_is_not_taken(note: Path, answering) -> None:
    answer = {"extract_error": "corrupt" * 200, "code": "corrupt", "grown": False}
    started = answering('{"ready": true}', json.dumps(answer))
    with pytest.raises(TransientError, match="crashed"):
        parser_with(ParserLimits(memory_bytes=1000)).parse(claim(note), SETTINGS, MODEL)
    assert started[0].returncode is not None


LARGE = """
import dataclasses, sys
from workers import parser_child
parse = parser_child.parse
parser_child.parse = lambda *file: dataclasses.replace(parse(*file), metadata={"text": "\u00e9" * 100_000_000})
parser_child.main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS bounds no memory")
def test_an_answer_too_large_for_the_memory_is_told_as_that(note: Path, answering) -> None:
    started = answering(script=LARGE)
    with pytest.raises(TransientError, match="parse_memory_mb") as caught:
        parser_with(ParserLimits(memory_bytes=500 * 2**20)).parse(claim(note), SETTINGS, MODEL)
    assert caught.value.code == "memory"
    assert started[0].returncode is not None


def test_a_parser_that_no_thread_can_watch_is_no_fault_of_the_file(
    parser: Parser, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patches:
        patches.setattr(threading.Timer, "start", start)
        with pytest.raises(ConfigurationError, match="start new thread.*ulimit -u"):
            parser.parse(claim(note), SETTINGS, MODEL)
    assert parser.parse(claim(note), SETTINGS, MODEL).chunks


# --- how a child ends


def test_stop_ends_a_running_parse_at_once(long_text: Path, parser: Parser) -> None:
    threading.Timer(0.5, parser.stop).start()
    with pytest.raises(ParserStoppedError):
        parser.parse(claim(long_text), SETTINGS, MODEL)


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {folders!r}
import test_parser
parser = test_parser.parser_with(test_parser.ParserLimits(timeout_s=300))
parser.parse(test_parser.claim(Path({note!r})), test_parser.SETTINGS, test_parser.MODEL)
print(test_parser._child_of(parser), flush=True)
parser.parse(test_parser.claim(Path({long_text!r})), test_parser.SETTINGS, test_parser.MODEL)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_worker_in_the_middle_of_a_file(how: int, note: Path, long_text: Path) -> None:
    folders = [str(folder) for folder in Path(__file__).parents[:2]]
    script = SCRIPT.format(folders=folders, note=str(note), long_text=str(long_text))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child = psutil.Process(int(worker.stdout.readline()))
        time.sleep(0.3)
        worker.send_signal(how)
    assert child.pid not in {p.pid for p in psutil.wait_procs([child], timeout=5)[1]}


def _child_of(parser: Parser) -> int:
    process = parser._process
    assert process is not None
    return process.pid
