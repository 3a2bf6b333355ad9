"""The child process that parses files for a worker: `python -m workers.parser_child FD ALIVE_FD`.

It answers each request (path, name, deadline, settings) with one JSON message and holds no database. The answer is
JSON, not pickle: a file that takes over the parser must not reach the parent through it. It dies with
its parent (pipeline.lifeline).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.chunk import ChunkSettings
from pipeline.lifeline import die_with_parent
from pipeline.model_files import ModelFiles
from pipeline.model_files import tokenizer as load_tokenizer
from pipeline.parse import ParseSettings, parse
from storage.errors import ExtractError, KnowlexError, TransientError

GROWTH_BYTES = 32 * 2**20
"""Beyond this a child asks to be replaced: what one large file took is seldom given back, and small ones take half."""


def main(arguments: list[str]) -> None:
    """Serve requests until the parent closes the connection."""
    descriptor, alive = int(arguments[0]), int(arguments[1])
    die_with_parent(alive)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable(logging.CRITICAL)  # parsers warn about every odd file
    connection = Connection(descriptor)
    start: dict[str, Any] = json.loads(connection.recv_bytes())
    _limit_memory(start["memory_bytes"])
    try:
        tokenizer = load_tokenizer(ModelFiles(Path(start["model_folder"]), start["model_hash"]))
    except (KnowlexError, MemoryError) as error:
        connection.send_bytes(json.dumps({"refused": str(error)}).encode("ascii"))
        return
    connection.send_bytes(json.dumps({"ready": True}).encode("ascii"))
    lean = _resident()
    with contextlib.suppress(EOFError):
        while True:
            request: dict[str, Any] = json.loads(connection.recv_bytes())
            # A hang ends here even when nobody is left to end it.
            signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
            answer = _answer(bytes.fromhex(request["path"]), request["name"], tokenizer, _settings(request["settings"]))
            connection.send_bytes(_message(answer, lean))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(path: bytes, name: str, tokenizer: Any, settings: ParseSettings) -> dict[str, Any]:
    try:
        return {"parsed": dataclasses.asdict(parse(path, name, tokenizer, settings))}
    except ExtractError as error:
        return {"extract_error": error.message, "code": error.code}
    except (TransientError, KnowlexError) as error:
        return {"transient_error": error.message, "code": error.code}
    except OSError as error:
        return {"os_error": error.errno, "text": error.strerror}
    except MemoryError:
        return {"memory_error": True}
    except RecursionError:
        return {"extract_error": "corrupt: nested too deeply to be read; re-export it", "code": "corrupt"}
    except Exception as error:  # whatever a parser throws is a fault of this file alone
        return {"parser_error": f"{type(error).__name__}"}


def _message(answer: dict[str, Any], lean: int) -> bytes:
    """Return an answer as it is sent, with whether this process has grown; one too large for its memory says that."""
    try:
        return json.dumps(answer | {"grown": _resident() - lean > GROWTH_BYTES}).encode("ascii")
    except MemoryError:
        return json.dumps({"memory_error": True}).encode("ascii")


def _settings(values: dict[str, Any]) -> ParseSettings:
    restored: dict[str, Any] = {
        "chunks": ChunkSettings(**values["chunks"]),
        "passwords": tuple(values["passwords"]),
    }
    return ParseSettings(**(values | restored))


def _resident() -> int:
    """Return the bytes that are resident in this process; where the system does not tell, the most that ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # macOS. On Linux the most that ever were would count the parent's, before exec
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _limit_memory(limit_bytes: int) -> None:
    if sys.platform == "linux":  # macOS knows RLIMIT_AS but does not enforce it
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(sys.argv[1:])
