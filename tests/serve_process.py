"""`knowlex serve` in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import child

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Running:
    """A server that answers requests."""

    process: subprocess.Popen[bytes]
    said: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.said["url"])

    def end(self, number: int = signal.SIGTERM) -> tuple[int, bytes, bytes]:
        """Tell it to end, and return its exit code and what else it had said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


@contextmanager
def running(database: Path, *options: str) -> Iterator[Running]:
    """Run a server beside the block."""
    arguments = ["serve", "--json", "--port", "0", "--db", str(database), *options]
    process = child.start("--lease", "60", arguments=arguments)
    assert process.stdout is not None
    yield Running(process, json.loads(process.stdout.readline()))
