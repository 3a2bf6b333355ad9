"""What a remote caller may have taken in: files below the roots, told alike whether anything is outside or not."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from faults import guard
from faults.table import Figure

from knowlex import ConfigurationError, ForbiddenError, Knowlex, KnowlexError, NotFoundError, UsageError, roots
from pipeline import discover, regular_file
from pipeline.regular_file import Found, read_file
from storage.errors import TransientError

pytestmark = pytest.mark.row(21)

SECRET = "cormorant-4431"
SAFE = "heron-2087"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A root with a folder and a file, and a file outside of it; the root's name is the beginning of another's."""
    for name, text in (("root/in/a.md", SAFE), ("out/a.md", SECRET), ("root2/a.md", SECRET), ("home/in/a.md", SECRET)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {text}\n", "utf8")
    root = tmp_path / "root"
    (root / "link.md").symlink_to(tmp_path / "out/a.md")
    (root / "link").symlink_to(tmp_path / "out")
    (root / "link-up").symlink_to("..")
    (root / "link-in").symlink_to("in")
    (root / "link-nothing").symlink_to(tmp_path / "nothing")
    (root / "link-proc").symlink_to("/proc/self/root")
    (root / "link-cwd").symlink_to("/proc/self/cwd")
    (root / "link-loop").symlink_to("link-loop")
    os.mkfifo(root / "in/pipe")
    return tmp_path


UP = (
    "..",
    "%2e%2e",
    "%2E.",
    "..%2f",
    "..%252f",
    "..\\",
    "．．",
    "‥",
    "..\u200b",
    "․․",
    "..;",
    "....//",
    "..\x00",
    "~",
    "$HOME",
)
"""What climbs, or looks as if: plain, encoded, doubled, in other characters, cut short."""
TARGETS = ("out/a.md", "out", "out/", "home/in/a.md", "root2/a.md", "nothing", "etc/passwd")
OUTRIGHT = (
    "/etc/passwd", "//etc/passwd", "/etc/passwd/", "/etc/./passwd", "/etc", "/", "//", "/.", "", " ", ".", "..",
    "~", "~root", "~/.ssh/id_rsa", "$HOME", "\x00", "/etc/passwd\x00", "/proc/self/environ", "/proc/self/cwd",
    "/proc/self/root/etc/passwd", "/proc/self/fd/0", "/proc/1/environ", "/dev/stdin", "/dev/zero", "/dev/fd/0",
    "/sys/kernel", "\\\\server\\share\\a.md", "//server/share/a.md", "//?/C:/a.md", "\\\\?\\C:\\a.md",
    "C:\\Windows\\win.ini", "C:/Windows/win.ini", "c:a.md", "file:///etc/passwd", "FILE:/etc/passwd",
    "http://127.0.0.1/", "／etc／passwd", "∕etc∕passwd", "⁄etc", "\ud800", "/\udcff", "root", "in/a.md", "./in/a.md",
    "a" * 5000, "/" + "a/" * 3000, "-", "--help", "*", "?", "%", "\n", "/etc/passwd\n", "\r\n/etc",
)  # fmt: skip


def payloads(place: Path) -> Iterator[str]:
    """Yield what a caller may try: nothing of it may be read."""
    root = place / "root"
    yield from OUTRIGHT
    for up, depth, target in itertools.product(UP, (1, 2, 3, 5), TARGETS):
        yield f"{root}/{'/'.join([up] * depth)}/{target}"
    for target in TARGETS:
        yield from (f"{place}/{target}", f"//{place}/{target}", f"{place}/./{target}", f"{root}/in/../../{target}")
        yield from (f"{root}{up}{target}" for up in ("", "\\", "%2f", "\u2215", "\x00", "\n", ";"))
    for link in (
        "link.md",
        "link",
        "link/a.md",
        "link/",
        "link-up/out/a.md",
        "link-in/a.md",
        "link-in",
        "link-in/../../out/a.md",
    ):
        yield from (f"{root}/{link}", f"{root}/./{link}", f"{root}//{link}", f"{root}/{link}/.")
    for link in (
        "link-nothing",
        "link-nothing/a.md",
        "link-proc/etc/passwd",
        "link-cwd",
        "link-loop",
        "link-loop/a.md",
    ):
        yield f"{root}/{link}"
    for name in (
        "in/a.md/x",
        "in/a.md/..",
        "in/pipe/x",
        "IN/a.md",
        "in/A.MD ",
        "in/a.md.",
        "in/a.md::$DATA",
        "in\\a.md",
        "İn/a.md",
    ):
        yield f"{root}/{name}"


def test_500_payloads_read_nothing_outside_the_roots(place: Path, figure: Figure) -> None:
    tried = list(dict.fromkeys(payloads(place)))
    read: list[str] = []
    with guard.watching_file(place / "out/a.md") as first, guard.watching_file(place / "home/in/a.md") as second:
        for payload in tried:
            try:
                path = roots.permitted(payload, [str(place / "root")])
            except (ForbiddenError, NotFoundError):
                continue
            except KnowlexError as error:
                pytest.fail(f"{payload!r}: {error.message}")
            read += [payload for found in discover.discover([path]) if isinstance(found, Found)]
        opened = first() + second()
    figure(
        21,
        f"{len(tried)} payloads: {len(read)} read{read[:3] or ''}, {opened} files outside opened",
        not read + [1] * opened,
    )
    assert len(tried) >= 500


def test_what_lies_in_a_root_is_taken(place: Path) -> None:
    root = place / "root"
    (place / "alias").symlink_to("root")
    for given in (root, root / "in", root / "in/a.md"):
        assert roots.permitted(str(given), [str(root)]) == given
        assert roots.permitted(f"{given}/", ["/nowhere", str(root)]) == given
        assert roots.permitted(f"{given}", [str(place / "alias")]) == given
    assert roots.permitted(f"{place}/alias/in", [str(place / "alias")]) == root / "in"
    assert roots.permitted(f"{root}/./in//a.md", [f"{root}/"]) == root / "in/a.md"


def refusal(path: str, chosen: list[str]) -> str:
    """Return the class and the text of the error, but for the path."""
    with pytest.raises(KnowlexError) as caught:
        roots.permitted(path, chosen)
    return f"{type(caught.value).__name__}: {caught.value.message.replace(path, 'PATH')}"


def test_an_answer_tells_nothing_of_what_is_outside(place: Path) -> None:
    root = [str(place / "root")]
    outside = {
        refusal(f"{place}/{name}", root) for name in ("out/a.md", "nothing", "out/a.md/x", "root2/a.md", "root/../out")
    }
    [told] = outside
    assert told == (
        "ForbiddenError: path 'PATH': not in a folder that this server may take files from; give the full path of a"
        " file or folder in one, without '..', or ask the server's owner"
    )
    by_link = {
        refusal(f"{root[0]}/{name}", root)
        for name in ("link", "link.md", "link/a.md", "link-nothing", "link/nothing", "no")
    }
    assert by_link == {"NotFoundError: PATH: no such file or folder, or only by way of a link; check the path"}
    [closed] = {refusal(path, []) for path in ("/etc/passwd", "/nothing", root[0])}
    assert closed.startswith("ForbiddenError: path 'PATH': this server takes no files from its own disk; send them")


def test_what_cannot_be_used_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="path: is a number; give a text"):
        roots.permitted(3, [str(place)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="ingest_roots: 'relative' is no full path"):
        roots.permitted("/a", ["relative"])
    monkeypatch.setattr(roots, "REFUSES_LINKS", False)
    with pytest.raises(ConfigurationError, match="cannot be kept safe on this system"):
        roots.permitted(str(place / "root/in"), [str(place / "root")])


def test_a_run_takes_in_what_is_permitted_and_nothing_else(place: Path) -> None:
    with Knowlex(place / "kb.db", ingest_roots=[str(place / "root")], workers=1) as kb:
        run, paths = roots.confined(kb, "p", [str(place / "root")])
        with run:
            report = run.run(*paths)
        assert [file.path for file in kb.files("p")] == [str(place / "root/in/a.md")]
        assert report.ingested == 1
        assert not kb.search("p", SECRET, mode="text")
        for path in (place / "out", place / "root/link"):
            with kb.batch("p", within=(place / "root",)) as run, pytest.raises((ForbiddenError, NotFoundError)):
                run.run(path)
        with pytest.raises(ForbiddenError):
            roots.confined(kb, "p", [str(place / "root/in"), str(place / "out")])


# --- a link is put in a folder's place, between any two looks -------------------------------------------------------


def _swap(folder: Path, out: Path, swaps: int, ended: float) -> None:
    """Put a link in the place of a folder, and the folder back, so often, or until a moment of the clock."""
    aside, link = folder.with_name("aside"), folder.with_name("to-out")
    while swaps > 0 and time.monotonic() < ended:
        os.symlink(out, link)
        os.rename(folder, aside)
        os.rename(link, folder)
        os.unlink(folder)
        os.rename(aside, folder)
        swaps -= 1
    os._exit(0 if swaps == 0 else 3)


@contextmanager
def swapping(folder: Path, out: Path, swaps: int, most_s: float) -> Generator[BaseProcess]:
    """Have another process do so meanwhile."""
    ended = time.monotonic() + most_s
    process = get_context("fork").Process(target=_swap, args=(folder, out, swaps, ended), daemon=True)
    process.start()
    yield process
    process.join()


def race(place: Path, swaps: int, most_s: float) -> tuple[int, list[str]]:
    """Take a file in again and again by all that opens one, until all swaps are made or something is wrong.

    Return how often it was read, and what was wrong.
    """
    root = place / "root"
    within, path = (os.fsencode(root),), root / "in/a.md"
    reads, wrong = 0, list[str]()
    with swapping(root / "in", place / "out", swaps, most_s) as process:
        while process.is_alive() and not wrong:
            for given in (root, root / "in", path):
                with suppress(KnowlexError):
                    permitted = roots.permitted(str(given), [str(root)])
                    found = [each for each in discover.discover([permitted], within=within) if isinstance(each, Found)]
                    reads += sum(_read(each, wrong) for each in found)
            reads += _read(None, wrong, os.fsencode(path))
        if wrong:
            process.kill()
    assert wrong or process.exitcode == 0, "the swaps did not come to their end"
    return reads, wrong


def _read(found: Found | None, wrong: list[str], path: bytes = b"") -> int:
    """Read a file as a scan does, or, without `found`, as a parser does; note what it must not say."""
    try:
        data = read_file(found.path if found else path, 10**6, expect=found).data
    except (KnowlexError, OSError):
        return 0
    if SAFE.encode() not in data:
        wrong.append(f"{found}: {data!r}")
    return 1


@pytest.mark.timeout(120)
def test_a_link_that_comes_and_goes_never_leads_out(place: Path) -> None:
    reads, wrong = race(place, 2_000, 100)
    assert wrong == []
    assert reads > 0


def test_following_links_is_caught(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race sees it where only the last part of a path is looked at."""
    monkeypatch.setattr(regular_file, "_OPENED", None)
    monkeypatch.setattr(regular_file, "_NO_LINK_AT_ALL", 0)
    _, wrong = race(place, 100_000, 60)
    assert wrong


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600)
def test_an_hour_of_links_that_come_and_go(place: Path, figure: Figure) -> None:
    swaps, reads, wrong, ended = 0, 0, list[str](), time.monotonic() + 3600
    while time.monotonic() < ended and not wrong:
        more, wrong = race(place, 10_000, 600)
        swaps, reads = swaps + 10_000, reads + more
    figure(21, f"{swaps:,} swaps in an hour: {reads:,} reads, {len(wrong)} escapes{wrong[:1] or ''}", not wrong)


def test_a_walk_ends_when_it_is_told_to_and_keeps_what_it_met(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(50):
        (root / f"{number:02}.txt").write_text(f"number {number}")
        (root / f"{number:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with Knowlex(tmp_path / "k.db", ingest_roots=[str(root)]) as kb:
        project, asked = kb.projects.create("p"), list[bool]()

        def stopped() -> bool:
            asked.append(True)
            return len(asked) > 10

        with pytest.raises(TransientError, match="the server ends"):
            roots.queue(kb, project, [str(root)], stopped=stopped)
        assert 1 <= len(kb.files("p")) <= 10
