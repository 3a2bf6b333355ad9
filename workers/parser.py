"""A parser in a process of its own: a file that hangs, crashes or eats memory fails alone.

The child is a fresh interpreter, not a fork: nothing of the worker (connections, model, threads) is
in it, and a script that calls Knowlex needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import UnionType
from typing import Any, TypeVar, get_origin, get_type_hints

from pipeline.attachments import Part
from pipeline.document import Chunk
from pipeline.lifeline import new_lifeline
from pipeline.model_files import ModelFiles
from pipeline.parse import Parsed, ParseSettings
from storage.errors import ConfigurationError, ExtractError, TransientError
from storage.event_log import EventLog, code_of
from storage.fingerprint import Fingerprint
from storage.passage_tokens import Tokens
from storage.queue import Claim

LOG = EventLog("knowlex.run")

START_TIMEOUT_S = 60.0

START_AGAIN_S = (0.25, 0.5, 1.0, 2.0)
"""How long to wait before each further try to start a child, where the machine lacks something at the moment."""

SCARCE = {
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or set workers lower",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or set workers lower",
    errno.ENFILE: "close programs that hold many files open, or raise the system's limit on open files",
    errno.ENOMEM: "free memory, or set workers lower",
}
"""What a machine may lack at one moment and have at the next, and what to do where it does not."""

DIED = ("crashed", "timeout", "memory", "parser_error")
"""Why an attempt failed that the parser did not get through: a grammar, which is compiled code, may be to blame."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """What one file may cost: wall time, address space, and how many files one child serves."""

    timeout_s: float = 30.0
    memory_bytes: int = 2**30
    max_files: int = 500


class ParserStoppedError(Exception):
    """The worker is stopping; the file in hand was not at fault."""


class Parser:
    """One child process and the conversation with it. One file at a time; started when first needed."""

    def __init__(self, limits: ParserLimits, *, log: EventLog = LOG) -> None:
        self._model: ModelFiles | None = None  # the child's
        self._limits = limits
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._alive: int | None = None
        self._served = 0
        self._stopped = threading.Event()
        # Guards the process against `stop`, which another thread calls.
        self._lock = threading.Lock()

    def parse(self, claim: Claim, settings: ParseSettings, model: ModelFiles) -> Parsed:
        """Parse a claimed file in the child, without a grammar where the last attempt died, and cut it for a model.

        Raises ExtractError where the file is at fault for good, TransientError (code crashed, timeout,
        memory or parser_error) where an attempt failed, OSError where the file, and nothing else, cannot be opened,
        ConfigurationError where no child can be started, ParserStoppedError after `stop`.
        """
        connection = self._ready_connection(model)
        late = threading.Event()
        try:
            with self._deadline(late):
                connection.send_bytes(json.dumps(self._request(claim, settings)).encode("ascii"))
                # A child holds its answer as a whole: what is longer than its memory is none.
                message = connection.recv_bytes(self._limits.memory_bytes)
            answer: dict[str, Any] = json.loads(message)
        except (EOFError, OSError, ValueError, RecursionError) as error:
            raise self._ended(claim, late=late.is_set()) from error
        self._served += 1
        try:
            is_spent = late.is_set() or self._served >= self._limits.max_files
            if is_spent or "memory_error" in answer or answer["grown"]:
                self._end()
            return _parsed(answer)
        except (LookupError, TypeError, ValueError) as error:  # no answer of ours: the child is not to be trusted
            raise self._ended(claim) from error

    def stop(self) -> None:
        """End the child at once, from any thread; a running `parse` raises ParserStoppedError."""
        self._kill(self._stopped)

    def close(self) -> None:
        """End the child and wait for it."""
        self._end()

    def _kill(self, why: threading.Event) -> None:
        with self._lock:
            why.set()
            if self._process is not None:
                self._process.kill()

    @contextmanager
    def _deadline(self, late: threading.Event) -> Generator[None]:
        """Kill the child, and set `late`, once the block has taken longer than a file may.

        The child's own timer ends a hang first; this is for one that blocked the timer, or was stopped. Only its death
        ends the wait for the rest of an answer that has begun. Raises ConfigurationError where no thread is left.
        """
        timer = threading.Timer(self._limits.timeout_s + 1, self._kill, (late,))
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError as error:
            raise ConfigurationError(f"the parser cannot be watched ({error}): {SCARCE[errno.EAGAIN]}") from error
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # or it could still kill the child over the next file

    def _request(self, claim: Claim, settings: ParseSettings) -> dict[str, Any]:
        settings = dataclasses.replace(settings, grammars=claim.error_code not in DIED)
        return {
            "path": claim.path.hex(),
            "name": claim.filename,
            "timeout_s": self._limits.timeout_s,
            "settings": dataclasses.asdict(settings),
        }

    def _ready_connection(self, model: ModelFiles) -> Connection:
        if self._connection is not None and model != self._model:
            self._log.info("parser started anew for another model", model=model.hash[:8])
            self._end()
        if self._process is not None and self._process.poll() is not None:
            # It ended between two files, as when the system was short of memory: the next one is not at fault.
            self._log.info("parser started anew", exit_status=self._end())
        if self._connection is None:
            self._start(model)
        if self._connection is None or self._stopped.is_set():
            raise ParserStoppedError
        return self._connection

    def _start(self, model: ModelFiles) -> None:
        connection = self._spawned()
        self._served, self._model = 0, model
        self._greet(connection, model)

    def _spawned(self) -> Connection:
        """Start a process; what the machine lacks for it at the moment is waited for a little.

        Raises ConfigurationError where it does not start: an OSError of `parse` is one of the file.
        """
        waits_s = iter(START_AGAIN_S)
        while True:
            try:
                return self._spawn()
            except OSError as error:
                wait_s = next(waits_s, None)
                if error.errno not in SCARCE or wait_s is None:
                    raise _not_started(error) from error
                self._log.info("parser not started yet", error_code=code_of(error))
            self._stopped.wait(wait_s)

    def _spawn(self) -> Connection:
        """Start a process and return the connection to it. Raises OSError, and leaves nothing open then."""
        with ExitStack() as ours, ExitStack() as theirs:
            connection, their_connection = Pipe()
            ours.enter_context(connection)
            theirs.enter_context(their_connection)
            alive_read, alive_write = new_lifeline()
            ours.callback(os.close, alive_write)
            theirs.callback(os.close, alive_read)
            with self._lock:
                if self._stopped.is_set():
                    raise ParserStoppedError
                self._process = _child(their_connection.fileno(), alive_read)
            ours.pop_all()
        self._connection, self._alive = connection, alive_write
        return connection

    def _greet(self, connection: Connection, model: ModelFiles) -> None:
        start = {
            "memory_bytes": self._limits.memory_bytes,
            "model_folder": os.fspath(model.folder),
            "model_hash": model.hash,
        }
        answer: dict[str, Any] = {}
        try:
            connection.send_bytes(json.dumps(start).encode("ascii"))
            if connection.poll(START_TIMEOUT_S):
                answer = dict(json.loads(connection.recv_bytes()))
        except (EOFError, OSError, ValueError, TypeError, RecursionError):
            pass  # the exit status tells why
        if "ready" in answer:
            return
        status = self._end()
        if self._stopped.is_set():
            raise ParserStoppedError
        cause = answer.get("refused") or _ending(status)
        raise ConfigurationError(f"the parser process does not start ({cause}): raise parse_memory_mb, or install anew")

    def _ended(self, claim: Claim, *, late: bool = False) -> Exception:
        """Clear a dead or hanging child away and return the error that says how it ended."""
        status = self._end()
        if self._stopped.is_set():
            return ParserStoppedError()
        timed_out = late or status == -_SIGALRM
        error_code = "timeout" if timed_out else "crashed"
        self._log.info("parser died", file=claim.id, error_code=error_code, exit_status=status)
        if timed_out:
            limit = self._limits.timeout_s
            return TransientError(
                f"parsing took over {limit:g} s: simplify or split the file, or raise parse_timeout_s", code=error_code
            )
        return TransientError(
            f"the parser crashed on it ({_ending(status)}): re-export the file, or leave it out", code=error_code
        )

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()
        if self._alive is not None:
            os.close(self._alive)
        self._connection = self._alive = None
        if process is None:
            return None
        try:
            # A crashed child is already ending: its own status tells more than our kill would.
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _child(connection: int, alive: int) -> subprocess.Popen[bytes]:
    """Start the process with its ends of the connection and the lifeline. Raises OSError."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "workers.parser_child", str(connection), str(alive)],
        pass_fds=(connection, alive),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "2"},
        start_new_session=True,
    )


def _not_started(error: OSError) -> ConfigurationError:
    """Say that no process can be started, and what to do; the files in hand go back to the queue with this."""
    cause = ": ".join(str(part) for part in (error.filename, error.strerror or type(error).__name__) if part)
    remedy = SCARCE.get(error.errno or 0, "install Knowlex anew")
    return ConfigurationError(f"the parser process cannot be started ({cause}): {remedy}")


_SIGALRM = 14


def _ending(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit {status}"


def _parsed(answer: dict[str, Any]) -> Parsed:
    """Return what the child parsed, or raise what it met; for no answer of ours, what `_from_json` raises."""
    match answer:
        case {"parsed": values}:
            return _from_json(values)
        case {"extract_error": str(message), "code": str(code)}:
            raise ExtractError(_text(message), code=_text(code))
        case {"transient_error": str(message), "code": str(code)}:
            raise TransientError(_text(message), code=_text(code))
        case {"os_error": int() | None as number, "text": str() | None as text}:
            raise OSError(number, _text(text or ""))
        case {"memory_error": True}:
            raise TransientError(
                "parsing needs too much memory: split the file, or raise parse_memory_mb", code="memory"
            )
        case {"parser_error": str(name)}:
            raise TransientError(f"the parser failed on it ({_text(name)}): re-export the file", code="parser_error")
        case _:
            raise TypeError("no answer of ours")


def _from_json(values: dict[str, Any]) -> Parsed:
    """Make what a child says it parsed. Raises LookupError, TypeError, ValueError where that cannot be stored."""
    restored: dict[str, Any] = {
        "fingerprint": _made(Fingerprint, values["fingerprint"]),
        "chunks": tuple(_made(Chunk, chunk) for chunk in values["chunks"]),
        "tokens": tuple(_made(Tokens, tokens) for tokens in values["tokens"]),
        "parts": tuple(_made(Part, part) for part in values["parts"]),
    }
    parsed = _made(Parsed, values | restored)
    if len(parsed.chunks) != len(parsed.tokens):
        raise ValueError(f"{len(parsed.chunks)} chunks with the tokens of {len(parsed.tokens)}")
    return parsed


def _made(kind: type[Made], values: dict[str, Any]) -> Made:
    for name, allowed in _types(kind).items():
        _require_storable(values[name], allowed)
    return kind(**values)


@cache
def _types(kind: type) -> dict[str, Any]:
    """Return the type of each field of a class; of one like dict[str, Any], dict alone."""
    hints = get_type_hints(kind)
    outer = {name: get_origin(hint) for name, hint in hints.items()}
    return {name: hint if outer[name] in (None, UnionType) else outer[name] for name, hint in hints.items()}


def _require_storable(value: Any, allowed: Any) -> None:
    """Raise TypeError for a value of another type, ValueError for one that no table takes."""
    if not isinstance(value, allowed):
        raise TypeError(f"{type(value).__name__} is no {allowed}")
    if isinstance(value, str):
        _text(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} has more than 64 bits")


def _text(value: str) -> str:
    """Return a text as it is. Raises ValueError for half a character."""
    value.encode()
    return value
