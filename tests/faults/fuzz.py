"""Many damaged files through the real parser child, counted by how each ended.

They are not stored: `workers.parser.Parser` is what stands between a file and a worker.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.desk import MODEL, note

from pipeline.chunk import ChunkSettings
from pipeline.parse import ParseSettings
from storage.errors import ExtractError, TransientError
from storage.queue import Claim
from workers.parser import Parser, ParserLimits

SETTINGS = ParseSettings(ChunkSettings())

Case = tuple[str, str, bytes]
"""What to call it, its extension, its bytes."""

CONTAINED = ("timeout", "memory", "crashed", "parser_error")
"""How a file may end that the limits or the walls of the child ended."""

KEPT = 20
GOOD_EVERY = 500


@dataclass(slots=True)
class Tally:
    """How files ended: "ready", or the code of the error.

    contained: the first of those that had to be ended, with how. wrong: what must not be: a file without a reason, an
    answer of another kind, a sound file that is not read any more. slowest_s: seconds of the clock.
    """

    ended: Counter[str] = field(default_factory=Counter[str])
    contained: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])
    slowest_s: float = 0.0
    longest_text: int = 0

    @property
    def files(self) -> int:
        """How many came to an end."""
        return self.ended.total()

    def told(self) -> str:
        """The counts in words."""
        held = {code: count for code in CONTAINED if (count := self.ended[code])}
        refused = self.files - self.ended["ready"] - sum(held.values())
        ended = ", ".join(f"{count} {code}" for code, count in held.items()) or "none"
        return f"{self.ended['ready']:,} read, {refused:,} refused, had to be ended: {ended}"


class Fuzz:
    """A folder that each file is written into for as long as it is parsed, and what came of all."""

    def __init__(self, folder: Path, limits: ParserLimits, *, workers: int = 2) -> None:
        folder.mkdir()
        self.tally = Tally()
        self._folder, self._limits, self._workers = folder, limits, workers
        self._lock = threading.Lock()

    def run(self, cases: Iterator[Case]) -> Tally:
        """Parse every case, in as many children at once as there are workers."""
        threads = [threading.Thread(target=self._work, args=(number, cases)) for number in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.tally

    def _work(self, number: int, cases: Iterator[Case]) -> None:
        parser = Parser(self._limits)
        try:
            for count, (label, extension, data) in enumerate(iter(lambda: self._next(cases), None)):
                self._parse(parser, label, self._folder / f"{number}.{extension}", data)
                if count % GOOD_EVERY == 0:
                    self._parse_good(parser, self._folder / f"{number}-good.md")
        except Exception as error:
            self.tally.wrong.append(f"a worker ended: {type(error).__name__}: {error}")
        finally:
            parser.close()

    def _next(self, cases: Iterator[Case]) -> Case | None:
        with self._lock:
            return next(cases, None)

    def _parse(self, parser: Parser, label: str, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        started = time.monotonic()
        code, message, length = _outcome(parser, path)
        seconds = time.monotonic() - started
        path.unlink()
        with self._lock:
            tally = self.tally
            tally.ended[code] += 1
            tally.slowest_s = max(tally.slowest_s, seconds)
            tally.longest_text = max(tally.longest_text, length)
            if code in CONTAINED and len(tally.contained) < KEPT:
                tally.contained.append(f"{label}: {code}: {message}")
            if code != "ready" and not message:
                tally.wrong.append(f"{label}: {code} without a reason")

    def _parse_good(self, parser: Parser, path: Path) -> None:
        path.write_text(note(1), "utf8")
        if (ended := _outcome(parser, path))[0] != "ready":
            self.tally.wrong.append(f"a sound file after others: {ended}")


def _outcome(parser: Parser, path: Path) -> tuple[str, str, int]:
    """The code that a file ended with, why, and how many characters were read of it."""
    try:
        parsed = parser.parse(Claim(1, 1, os.fsencode(path), path.name, None, None, 0, "token"), SETTINGS, MODEL)
    except (ExtractError, TransientError) as error:
        return error.code, error.message, 0
    return "ready", "", sum(len(chunk.text) for chunk in parsed.chunks)
