"""The table that `make soak` ends with: what was measured of each row of docs/reliability.md, and its bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

ROWS = {
    1: ("killed at any moment", "1,000 kills: 0 lost, 0 doubled, 0 orphaned, counts exact"),
    2: ("owner dies", "taken back within 2 leases, 20/20; never two commits"),
    3: ("stopped past its lease", "late commit refused 100/100"),
    4: ("poison files", "failed with reason after exactly 3; the others ready"),
    5: ("SIGTERM", "exit within 10 s, 0 left in hand"),
    6: ("power loss", "2,000 images: 0 corrupt, 0 acknowledged lost"),
    7: ("disk full, I/O errors", "500 points: one clear error, sound, resumes"),
    8: ("busy storm", "4 writers + 4 readers: 0 lock errors, p99 wait < 1 s"),
    9: ("slow reader", "log ≤ 64 MB; < 4 MB 5 s after"),
    10: ("every connection", "guarded, 100 %"),
    11: ("one engine alone", "0 other opens of the database's files"),
    12: ("any sequence of changes", "20,000 × 30 steps: full text sound after each"),
    13: ("unsound vectors, churn", "refused 100 %; file ≤ 1.5 × ideal"),
    14: ("any query", "10,000: 0 exceptions, p99 < 100 ms; short CJK = LIKE"),
    15: ("backup during ingestion", "50/50 restore sound, 0600"),
    16: ("erase", "0 bytes left in database, log and copies"),
}
"""Number of each row: what happens, and the bar."""

Figure = Callable[[int, str, bool], None]
KEY = "figure"


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement: of which row, what came out, and whether it holds the bar."""

    row: int
    text: str
    held: bool


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Record what a test measured for a row of the table, and fail where the bar is not held."""

    def record(row: int, text: str, held: bool) -> None:
        assert row in ROWS
        request.node.user_properties.append((KEY, (row, text, bool(held))))
        assert held, f"row {row}: {text}; the bar is: {ROWS[row][1]}"

    return record


def lines(reports: Iterator[Any]) -> list[Line]:
    """Return what the tests of a run recorded, in the order of the rows."""
    found = (value for report in reports for name, value in getattr(report, "user_properties", ()) if name == KEY)
    return sorted((Line(*value) for value in found), key=lambda line: line.row)


def formatted(found: list[Line]) -> list[str]:
    """Return the table; a row without a figure says so."""
    texts = [f"{'row':>3}  {'fault':<24} {'figure':<76} verdict", ""]
    for number, (fault, bar) in ROWS.items():
        own = [line for line in found if line.row == number]
        texts += [_line(number, fault, line.text, "held" if line.held else f"MISSED: {bar}") for line in own]
        if not own:
            texts.append(_line(number, fault, "", f"NOT SHOWN: {bar}"))
    return texts


def _line(number: int, fault: str, text: str, verdict: str) -> str:
    return f"{number:>3}  {fault:<24} {text:<76} {verdict}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table at the end of a run of the long forms."""
    if "proof" not in (config.option.markexpr or "") or config.option.collectonly:
        return
    reports = (r for name in ("passed", "failed") for r in terminalreporter.getreports(name) if r.when == "call")
    terminalreporter.section("reliability")
    for text in formatted(lines(reports)):
        terminalreporter.write_line(text)
