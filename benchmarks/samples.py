"""Take some files of a folder, the same ones at every run."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from pypdf import PdfReader

TEXT = (".htm", ".html", ".md", ".rst", ".txt")
PDF = (".pdf",)

# What it says of broken files is not asked for.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def found(folder: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the files below a folder in a fixed random order; no suffixes means every file.

    Raises SystemExit where there is none.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    files = [path for path in files if not suffixes or path.suffix.lower() in suffixes]
    if not files:
        raise SystemExit(f"{folder}: has no files of {', '.join(suffixes) or 'any kind'}; name another folder")
    random.Random(0).shuffle(files)
    return files


def up_to(size: int, files: Iterable[Path]) -> list[Path]:
    """Return the first files of which everybody can read the text, `size` bytes in all or little less.

    One that is a quarter of it or more is left out, lest it be most of the sample.
    """
    taken: list[Path] = []
    left = size
    for path in files:
        bytes_of = path.stat().st_size
        if bytes_of <= min(left, size // 4) and has_text(path):
            taken.append(path)
            left -= bytes_of
    return taken


def has_text(path: Path) -> bool:
    """Whether a file is UTF-8, or a PDF all of whose pages pypdf reads, and not blank."""
    try:
        if path.suffix.lower() in PDF:
            return bool("".join(page.extract_text() for page in PdfReader(path).pages).strip())
        return bool(path.read_text("utf-8").strip())
    except Exception:  # pypdf raises whatever it met
        return False


def lay(files: Iterable[Path], folder: Path, place: Path) -> Path:
    """Copy files of `folder` to `place` with their relative paths; return `place`."""
    for path in files:
        copy = place / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return place
