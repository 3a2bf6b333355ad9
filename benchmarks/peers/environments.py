"""An environment of its own for each toolkit that Knowlex is compared with, made once and kept."""

from __future__ import annotations

import hashlib
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).parent
CAPS = (HERE.parent.parent / "configs" / "constraints.txt", HERE / "constraints.txt")


def python_of(toolkit: str, cache: Path) -> Path:
    """Return the interpreter of a toolkit's environment below `cache`, which is made if it is missing or of other pins.

    Takes minutes and up to 1.7 GB the first time. Raises SystemExit where pip fails.
    """
    place, pins = cache / toolkit, HERE / f"{toolkit}.txt"
    python, stamp = place / "bin" / "python", place / "installed"
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in (pins, *CAPS))).hexdigest()
    if not (stamp.is_file() and stamp.read_text() == wanted):
        print(f"{toolkit}: making its environment", flush=True)
        venv.create(place, clear=True, with_pip=True)
        _install(python, pins)
        stamp.write_text(wanted)
    return python


def _install(python: Path, pins: Path) -> None:
    caps = [argument for file in CAPS for argument in ("-c", str(file))]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *caps, "-r", str(pins)]
    if done := subprocess.run(command).returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done}; see above")
