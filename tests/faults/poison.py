"""The parser child with a stub in it, which does what the first line of a file says: `python -m faults.poison FD FD`.

A file says `poison: segfault` or the like; one that says nothing of the kind is parsed as ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.model_files import ModelFiles
from pipeline.parse import Parsed, ParseSettings
from storage.errors import ExtractError
from storage.queue import Claim
from workers import parser, parser_child

if TYPE_CHECKING:
    import pytest  # children start sooner without it

MARK = "poison: "
SOON_S = 0.4


def plant(monkeypatch: pytest.MonkeyPatch, hanging: Sequence[str] = ()) -> None:
    """Have every parser of this process start the child with the stub; hanging: see `hurry`."""
    hurry(monkeypatch, [f"{act}.md" for act in hanging])
    substitute(monkeypatch, "faults.poison")


def hurry(monkeypatch: pytest.MonkeyPatch, hanging: Sequence[str]) -> None:
    """Give what never ends less time than the limits say: a busy machine must not end the others.

    hanging: what the names of such files end with.
    """
    whole = parser.Parser.parse

    def parse(self: parser.Parser, claim: Claim, settings: ParseSettings, model: ModelFiles) -> Parsed:
        usual = self._limits
        if claim.filename.endswith(tuple(hanging)):
            self._limits = replace(usual, timeout_s=SOON_S)
        try:
            return whole(self, claim, settings, model)
        finally:
            self._limits = usual

    monkeypatch.setattr(parser.Parser, "parse", parse)


def substitute(
    monkeypatch: pytest.MonkeyPatch, module: str, meet: Callable[[subprocess.Popen[bytes]], None] = lambda process: None
) -> None:
    """Have every parser of this process start another module as its child; meet: is shown each child."""

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        command = [part.replace("workers.parser_child", module) for part in command]
        process = subprocess.Popen(command, **options)
        meet(process)
        return process

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parents[2]))))
    monkeypatch.setattr("workers.parser.subprocess", SimpleNamespace(**(vars(subprocess) | {"Popen": start})))


def main() -> None:
    """Serve as the parser child does."""
    real: Callable[..., Parsed] = parser_child.parse

    def parse(path: bytes, *more: Any) -> Parsed:
        first = Path(os.fsdecode(path)).read_text("utf8", "replace").partition("\n")[0]
        if first.startswith(MARK):
            ACTS[first.removeprefix(MARK).split()[0]]()
        return real(path, *more)

    parser_child.parse = parse
    parser_child.main(sys.argv[1:])


def _segfault() -> None:
    ctypes.string_at(0)


def _out_of_memory() -> NoReturn:
    raise MemoryError


def _hoard() -> None:
    """Take memory until the limit of the address space says no."""
    held: list[bytearray] = []
    while True:
        held.append(bytearray(2**24))


def _abort() -> None:
    os.abort()


def _killed() -> None:
    """Die as of the system's own shortage of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    while True:
        pass


def _deaf() -> None:
    """Hang, and not even the child's own timer ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    while True:
        time.sleep(1)


def _exit() -> None:
    os._exit(0)


def _flood() -> None:
    while True:
        os.write(1, bytes(2**16))
        os.write(2, bytes(2**16))


def _babble() -> None:
    """Answer something that is no answer."""
    Connection(os.dup(int(sys.argv[1]))).send_bytes(b"\xffno answer")
    os._exit(0)


def _misanswer() -> None:
    """Answer JSON of the wrong shape."""
    Connection(os.dup(int(sys.argv[1]))).send_bytes(b'{"parsed": {"chunks": 7}}')
    os._exit(0)


def _raise() -> NoReturn:
    raise ValueError("odd")


def _corrupt() -> NoReturn:
    raise ExtractError("corrupt: planted; re-export it", code="corrupt")


def _nest() -> None:
    _nest()


def _chatter() -> None:
    """Say a lot, as libraries do, and go on."""
    for _ in range(100):
        os.write(1, bytes(2**16))
        os.write(2, bytes(2**16))


ACTS: dict[str, Callable[[], None]] = {
    "segfault": _segfault,
    "memory-error": _out_of_memory,
    "hoard": _hoard,
    "abort": _abort,
    "killed": _killed,
    "hang": _hang,
    "deaf": _deaf,
    "exit": _exit,
    "flood": _flood,
    "babble": _babble,
    "misanswer": _misanswer,
    "raise": _raise,
    "corrupt": _corrupt,
    "nest": _nest,
    "chatter": _chatter,
}

if __name__ == "__main__":
    main()
