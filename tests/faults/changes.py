"""A writer that changes files all the time, and knows every content that any of them ever had."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import threading
import time
from pathlib import Path

PAUSES_S = (0, 0.005, 0.1)
"""Between two changes: some come at once, and most files stay for long enough to be read."""


class Writer:
    """Appends to, cuts, overwrites, replaces, deletes and renames files, and puts other things in their places.

    contents: every content that was on the disk, by its SHA-256 in hex; each is noted before it is there. secret: what
    links are made to.
    """

    def __init__(self, folder: Path, secret: Path, rng: random.Random, *, files: int = 12) -> None:
        self.contents: dict[str, str] = {}
        self.changes = 0
        self._folder, self._secret, self._rng = folder, secret, rng
        self._aside = folder.with_name("aside")
        self._aside.mkdir()
        self._names = [f"log-{number}.md" for number in range(files)]
        self._version = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True)
        for name in self._names:
            self._replace(folder / name)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, with a plain file under every name."""
        self._stop.set()
        self._thread.join()
        for name in self._names:
            self._replace(self._folder / name)

    def _write_on(self) -> None:
        acts = (self._append, self._append, self._cut, self._overwrite, self._replace, self._delete, self._rename)
        others = (self._put_fifo, self._put_link, self._put_folder)
        while not self._stop.is_set():
            path = self._folder / self._rng.choice(self._names)
            act = self._rng.choice(others if self._rng.random() < 0.1 else acts)
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                act(path)
                self.changes += 1
            time.sleep(self._rng.choice(PAUSES_S))

    def _text(self) -> str:
        self._version += 1
        lines = self._rng.choice((1, 20, 200))
        return f"# Log {self._version}\n\n" + "".join(self._line(part) for part in range(lines))

    def _line(self, part: int) -> str:
        return f"Entry {part} of log {self._version}: ship{self._rng.getrandbits(40)} has left the harbour.\n\n"

    def _note(self, text: str) -> bytes:
        data = text.encode("ascii")
        self.contents[hashlib.sha256(data).hexdigest()] = text
        return data

    def _plain(self, path: Path) -> str:
        """What is in a file; FileNotFoundError where there is no plain one."""
        if path.is_symlink() or not path.is_file():
            raise FileNotFoundError
        return path.read_text("ascii")

    def _append(self, path: Path) -> None:
        more = self._line(0)
        self._note(self._plain(path) + more)
        with path.open("a", encoding="ascii") as file:
            file.write(more)

    def _cut(self, path: Path) -> None:
        text = self._plain(path)
        kept = self._note(text[: self._rng.randrange(len(text) + 1)])
        os.truncate(path, len(kept))

    def _overwrite(self, path: Path) -> None:
        """Change letters in place: neither length nor file become another."""
        text = self._plain(path)
        changed = self._note(text.replace("harbour", self._rng.choice(("harvest", "hangars", "harbour"))))
        with path.open("r+b", buffering=0) as file:
            file.write(changed)

    def _replace(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        new = self._aside / path.name
        new.write_bytes(self._note(self._text()))
        os.replace(new, path)

    def _delete(self, path: Path) -> None:
        self._plain(path)
        path.unlink()

    def _rename(self, path: Path) -> None:
        self._plain(path)
        other = self._folder / self._rng.choice(self._names)
        if not other.is_dir() or other.is_symlink():
            os.replace(path, other)

    def _put(self, path: Path) -> Path:
        """Clear the place of a file that will be something else."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        return path

    def _put_fifo(self, path: Path) -> None:
        os.mkfifo(self._put(path))

    def _put_link(self, path: Path) -> None:
        self._put(path).symlink_to(self._rng.choice((self._secret, Path("/dev/zero"), path)))

    def _put_folder(self, path: Path) -> None:
        self._put(path).mkdir()
