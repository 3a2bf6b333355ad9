"""The table that `make soak` ends with: what was measured of each row of docs/reliability.md, and its bar.

A test says by the marker `row` which row it belongs to, so that one that ends before its figure is in the table too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import pytest

ROWS = {
    1: ("killed at any moment", "1,000 kills, a third with files in hand: 0 lost, 0 doubled, 0 orphaned, counts exact"),
    2: ("owner dies", "taken back within 2 leases, 20/20; never two commits"),
    3: ("stopped past its lease", "late commit refused 100/100"),
    4: ("poison files", "failed with reason after exactly 3; the others ready"),
    5: ("SIGTERM", "exit within 10 s, 0 left in hand; a quarter at work"),
    6: ("power loss", "2,000 images: 0 corrupt, 0 acknowledged lost"),
    7: ("disk full, I/O errors", "500 points of writing: one clear error, sound, resumes"),
    8: ("busy storm", "4 writers + 4 readers: 0 lock errors, p99 wait < 1 s"),
    9: ("slow reader", "log ≤ 64 MB; < 4 MB 5 s after"),
    10: ("every connection", "guarded, 100 %; waits ≥ 5 s, but where it may be brief"),
    11: ("one engine alone", "0 other opens of the database's files"),
    12: ("any sequence of changes", "20,000 × 30 steps: full text sound after each"),
    13: ("unsound vectors, churn", "refused 100 %; file ≤ 1.5 × ideal"),
    14: ("any query", "10,000: 0 exceptions, p99 of each search < 100 ms; short CJK = LIKE"),
    15: ("backup during ingestion", "50/50 restore sound, 0600"),
    16: ("erase", "0 bytes left in database, log and copies"),
    17: ("hostile files", "each ends within 30 s and 1 GiB, with reason; 100,000 mutations; the worker survives"),
    18: ("archive bombs", "100 % refused, 0 bytes written"),
    19: ("XML bombs, XXE, DTD", "refused or inert within 1 s of processor; 0 sockets, 0 other files"),
    20: ("odd and changing files", "0 hangs; stored hash = bytes parsed, over 10,000 changes"),
    21: ("paths of callers", "500 payloads, 10,000 swaps of a link: 0 reads outside the roots; 1 h of swaps"),
    22: ("who is served", "every operation: no token 401, bad Host 421, bad Origin 403; nothing of other projects"),
    23: ("bodies", "too large: 413, memory +< 32 MB; slow ones and many parts: stall of the server < 250 ms"),
    24: ("the API as declared", "schemathesis, 1,000 cases: 0 5xx, 0 answers that the schema does not have"),
    25: ("twenty projects", "1,000 questions over every path, of a token bound to two: 0 foreign rows"),
    26: ("hostile text", "50 payloads: nothing steers or hides, and none ends the fence around it"),
    27: ("models and code", "nothing is run that was read: no pickle, no trust_remote_code, no model of a caller's"),
    28: ("logs", "200 canaries (text, names, questions, passwords, home): 0 in logs, errors of files, rows of runs"),
    29: ("long life", "memory < 1 MB a 1,000 operations, descriptors flat, 0 unhandled"),
    30: ("many workers", "8 work, 8 search, one kills, 10 min: 0 errors, nothing twice, no project starves"),
}
"""Number of each row: what happens, and the bar."""

Figure = Callable[[int, str, bool], None]
KEY, ROW = "figure", "row"

HELD, MISSED, NOT_SHOWN = "held", "MISSED", "NOT SHOWN"
ENDINGS = {"failed": MISSED, "error": MISSED, "skipped": NOT_SHOWN}
"""How a test may end that did not pass, and what that says of its row."""


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement, or a test that did not pass: of which row, what came out, and what that says of the bar."""

    row: int
    text: str
    verdict: str


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Record what a test measured for a row of the table, and fail where the bar is not held."""

    def record(row: int, text: str, held: bool) -> None:
        assert row in _rows(request.node), f"{request.node.name} bears no marker of row {row}"
        request.node.user_properties.append((KEY, (row, text, HELD if held else MISSED)))
        assert held, f"row {row}: {text}; the bar is: {ROWS[row][1]}"

    return record


def _rows(item: pytest.Item) -> list[int]:
    return [marker.args[0] for marker in item.iter_markers(ROW)]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run take some rows alone."""
    parser.addoption("--rows", type=_numbers, default=set(ROWS), help="rows of the table to show, such as 1-16 or 8,12")


def _numbers(text: str) -> set[int]:
    """Return the rows that a text such as `1-4,8` names."""
    ends = [part.partition("-") for part in text.split(",")]
    wanted = {row for first, _, last in ends for row in range(int(first), int(last or first) + 1)} & set(ROWS)
    if not wanted:
        raise argparse.ArgumentTypeError(f"{text}: no row of {min(ROWS)}-{max(ROWS)}; give some, such as 1-16 or 8,12")
    return wanted


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have every report of a test tell its rows, however the test ends; leave out what is of no row that is asked for.

    What is of no row at all is left out only where some rows are asked for.
    """
    for item in items:
        item.user_properties += [(ROW, row) for row in _rows(item)]
    rows: set[int] = config.option.rows
    if rows != set(ROWS):
        others = [item for item in items if not rows & set(_rows(item))]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if rows & set(_rows(item))]


def lines(ended: dict[str, list[Any]]) -> list[Line]:
    """Return what the tests of a run recorded, and those that did not pass; ended: reports by how the tests ended."""
    figures = [Line(*value) for report in ended.get("passed", []) for value in _told(report, KEY)]
    return figures + [
        line for ending in ENDINGS for report in ended.get(ending, []) for line in _not_passed(report, ending)
    ]


def _told(report: Any, name: str) -> list[Any]:
    return [value for key, value in getattr(report, "user_properties", ()) if key == name]


def _not_passed(report: Any, ending: str) -> list[Line]:
    """Return the figures of a test that did not pass, and besides, unless one of them says so, that it did not.

    Row 0: of no row, such as a file that cannot be read, or a process that ended under its test.
    """
    figures = [Line(*value) for value in _told(report, KEY)]
    if any(line.verdict == MISSED for line in figures):
        return figures
    name = report.nodeid.rpartition("/")[2]
    return figures + [Line(row, f"{ending}: {name}", ENDINGS[ending]) for row in _told(report, ROW) or [0]]


def formatted(found: list[Line], rows: Collection[int] = ROWS) -> list[str]:
    """Return the table of some rows; one without a figure says so."""
    texts = [f"{'row':>3}  {'fault':<24} {'figure':<76} verdict", ""]
    wanted = {row: ROWS[row] for row in ROWS if row in rows}
    for number, (fault, bar) in {**wanted, 0: ("no row", "every test passes")}.items():
        own = [line for line in found if line.row == number]
        if number and not any(line.verdict in (HELD, MISSED) for line in own):
            own.append(Line(number, "", NOT_SHOWN))
        texts += [_line(line, fault, bar) for line in own]
    return texts


def _line(line: Line, fault: str, bar: str) -> str:
    verdict = line.verdict if line.verdict == HELD else f"{line.verdict}: {bar}"
    return f"{line.row:>3}  {fault:<24} {line.text:<76} {verdict}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table at the end of a run of the long forms."""
    if "proof" not in (config.option.markexpr or "") or config.option.collectonly:
        return
    terminalreporter.section("reliability")
    for text in formatted(lines(terminalreporter.stats), config.option.rows):
        terminalreporter.write_line(text)
