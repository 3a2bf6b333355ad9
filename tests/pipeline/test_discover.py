from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import unicodedata
from hashlib import sha256
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.discover import Passed, Unreadable, discover
from pipeline.regular_file import Found, hash_file, open_regular, open_without_links, read_file
from storage.errors import ExtractError, NotFoundError, TransientError, UsageError

MB = 2**20

Form = Literal["NFC", "NFD"]


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def seen(*roots: Path, **options: object) -> dict[str, str]:
    """What discovery says of each file, by its path below the first root: "" for a file to take."""
    results = list(discover(roots, **options))  # pyright: ignore[reportArgumentType]
    base = os.path.realpath(os.fsencode(roots[0]))
    names = [os.fsdecode(os.path.relpath(result.path, base)) for result in results]
    assert len(set(names)) == len(names)
    return {name: said(result) for name, result in zip(names, results, strict=True)}


def said(result: Found | Passed | Unreadable) -> str:
    match result:
        case Found():
            return ""
        case Passed():
            return result.reason
        case Unreadable():
            return f"unreadable: {result.error}"


def taken(*roots: Path, **options: object) -> list[str]:
    return [name for name, reason in seen(*roots, **options).items() if not reason]


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    make(tmp_path, "b/2.txt", "b/10.txt", "a.txt", "c.txt", "B.txt", "b/deep/er/x.txt")
    assert taken(tmp_path) == ["B.txt", "a.txt", "b/10.txt", "b/2.txt", "b/deep/er/x.txt", "c.txt"]


def test_a_file_is_described_as_stat_does(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    (found,) = discover([tmp_path])
    status = (tmp_path / "a.txt").stat()
    assert found == Found(
        os.fsencode(os.path.realpath(tmp_path / "a.txt")),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
    )


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, ".hidden", ".git/config", "a.txt")
    assert seen(tmp_path) == {".hidden": "hidden", "a.txt": ""}
    assert taken(tmp_path, hidden=True) == [".git/config", ".hidden", "a.txt"]


def test_a_root_given_by_name_is_never_hidden(tmp_path: Path) -> None:
    make(tmp_path, ".notes/a.txt", ".single")
    assert taken(tmp_path / ".notes") == ["a.txt"]
    assert taken(tmp_path / ".single") == ["."]


def test_patterns_are_those_of_gitignore(tmp_path: Path) -> None:
    make(tmp_path, "a.md", "a.txt", "docs/b.md", "docs/old/c.md", "build/d.md", "keep.tmp", "x.tmp")
    assert seen(tmp_path, exclude=["build/", "*.tmp", "!keep.tmp", "/docs/old"]) == {
        "a.md": "",
        "a.txt": "",
        "docs/b.md": "",
        "keep.tmp": "",
        "x.tmp": "excluded by pattern",
    }
    assert taken(tmp_path, include=["*.md"], exclude=["build"]) == ["a.md", "docs/b.md", "docs/old/c.md"]
    assert seen(tmp_path, include=["docs/**"])["a.md"] == "not included by any pattern"


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
def test_patterns_match_accented_letters_however_they_are_written(tmp_path: Path, stored: Form, typed: Form) -> None:
    names = [unicodedata.normalize(stored, name) for name in ("Entwürfe/a.txt", "Übersicht.md", "a.md")]
    make(tmp_path, *names)
    kept = {os.fsdecode(name) for name in os.listdir(os.fsencode(tmp_path))}  # a file system may have its own form
    folder, overview = (unicodedata.normalize(typed, name) for name in ("Entwürfe/", "Ü*"))
    assert set(seen(tmp_path, exclude=[folder])) == {name for name in kept if name.endswith(".md")}
    assert taken(tmp_path, include=[overview]) == [name for name in kept if name[0] in "ÜU"]


def test_an_excluded_folder_is_not_entered(tmp_path: Path) -> None:
    make(tmp_path, "node_modules/a/b.txt", "a.txt")
    (tmp_path / "node_modules").chmod(0)
    try:
        assert seen(tmp_path, exclude=["node_modules/"]) == {"a.txt": ""}
    finally:
        (tmp_path / "node_modules").chmod(0o700)


def test_a_bad_pattern_is_an_error_of_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--exclude"):
        discover([tmp_path], exclude=["!"])


def test_a_missing_root_is_found_out_before_anything_is_walked(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file or folder"):
        discover([tmp_path, tmp_path / "missing"])


def test_overlapping_roots_give_each_file_once(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "in/b.txt", ".x/c.txt", ".d")
    assert taken(tmp_path, tmp_path / "in", tmp_path / "in" / "b.txt", tmp_path / ".x") == [
        "a.txt",
        "in/b.txt",
        ".x/c.txt",
    ]
    assert [type(result) for result in discover([tmp_path, tmp_path / ".d"])] == [Found, Found, Found]


def test_a_link_inside_the_root_adds_nothing_and_one_out_of_it_leads_nowhere(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "real/a.txt")
    make(tmp_path, "secret.txt", "outside/b.txt", "root2/c.txt")
    (root / "to-file").symlink_to(root / "real/a.txt")
    (root / "to-folder").symlink_to("real")
    (root / "loop").symlink_to(".")
    (root / "self").symlink_to("self")
    (root / "broken").symlink_to("nothing")
    (root / "out-file").symlink_to(tmp_path / "secret.txt")
    (root / "out-folder").symlink_to(tmp_path / "outside")
    (root / "prefix").symlink_to(tmp_path / "root2")
    inside = "symlink inside the root: its target counts under its own path"
    assert seen(root) == {
        "broken": "broken symlink",
        "loop": inside,
        "out-file": "symlink out of the root",
        "out-folder": "symlink out of the root",
        "prefix": "symlink out of the root",
        "real/a.txt": "",
        "self": "broken symlink",
        "to-file": inside,
        "to-folder": inside,
    }


def test_a_root_that_is_a_link_is_walked_where_it_leads(tmp_path: Path) -> None:
    make(tmp_path / "real", "a.txt")
    (tmp_path / "link").symlink_to("real")
    (found,) = discover([tmp_path / "link"])
    assert found.path == os.fsencode(os.path.realpath(tmp_path / "real/a.txt"))


def test_what_is_no_regular_file_is_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    here = Path.cwd()
    os.chdir(tmp_path)  # the path of a socket may have about 100 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(here)
    assert seen(tmp_path) == {"fifo": "not a regular file (fifo)", "socket": "not a regular file (socket)"}
    assert seen(Path("/dev/null")) == {".": "not a regular file (device)"}


def test_the_databases_own_files_are_passed_over_under_any_name(tmp_path: Path) -> None:
    make(tmp_path, "k.db", "k.db-wal", "a.txt")
    (tmp_path / "hard-link").hardlink_to(tmp_path / "k.db")
    own_reason = "the database itself"
    own = {(s.st_dev, s.st_ino): own_reason for s in ((tmp_path / name).stat() for name in ("k.db", "k.db-wal"))}
    assert seen(tmp_path, never_open=own) == {
        "a.txt": "",
        "hard-link": own_reason,
        "k.db": own_reason,
        "k.db-wal": own_reason,
    }


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9.txt"
    try:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (found,) = discover([tmp_path], include=["*.txt"])
    assert os.path.basename(found.path) == name
    assert not taken(tmp_path, exclude=[os.fsdecode(name)])
    assert read_file(found.path, MB).data == b"x"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "locked/a.txt", "b.txt")
    (tmp_path / "locked").chmod(0)
    try:
        assert seen(tmp_path) == {"locked": "unreadable: Permission denied", "b.txt": ""}
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_a_folder_exchanged_for_another_while_walking_is_not_entered(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "1.txt", "a/x.txt", "b/2.txt")
    make(tmp_path, "outside/secret.txt")
    results = discover([root])
    next(results)
    (root / "a").rename(tmp_path / "moved")
    (root / "a").symlink_to(tmp_path / "outside")
    rest = list(results)
    assert [type(result) for result in rest] == [Unreadable, Found]
    assert not any(b"secret" in result.path for result in rest)


@pytest.mark.skipif(sys.platform == "darwin", reason="paths have 1,024 bytes at most")
def test_a_tree_deeper_than_pythons_stack(tmp_path: Path) -> None:
    folders = [tmp_path / ("d/" * depth) for depth in range(1, 1_101)]
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "a.txt").write_text("x")
    try:
        assert taken(tmp_path) == ["d/" * 1_100 + "a.txt"]
    finally:  # what clears the temporary folder goes down by recursion
        (folders[-1] / "a.txt").unlink()
        for folder in reversed(folders):
            folder.rmdir()


@given(st.lists(st.lists(st.sampled_from("abc.e"), min_size=1, max_size=3), max_size=12))
def test_every_file_is_either_taken_or_passed_over_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for parts in paths:
        path = root.joinpath(*(f"x{part}" for part in parts))
        if not any(parent.is_file() for parent in path.parents) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
    on_disk = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert set(seen(root, exclude=["xa"])) | {f for f in on_disk if "xa" in f.split("/")} == on_disk


def test_a_file_is_read_with_the_hash_of_its_very_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9_000
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    (found,) = discover([tmp_path])
    result = read_file(found.path, 3 * MB, expect=found)
    assert result.data == content
    assert result.sha256 == sha256(content).hexdigest()
    assert (result.fingerprint.size, result.fingerprint.inode) == (len(content), path.stat().st_ino)
    assert hash_file(found.path, 3 * MB) == (result.sha256, result.fingerprint)


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(5 * 1024 * MB)
    for read in (read_file, hash_file):
        with pytest.raises(ExtractError, match=r"5,120\.0 MB, the limit is 100 MB: raise max_file_mb") as caught:
            read(os.fsencode(path), 100 * MB)
        assert caught.value.code == "too_large"


def test_what_is_gone_or_locked_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(os.fsencode(tmp_path / "gone"), MB)


@pytest.mark.timeout(20)
def test_what_took_a_files_place_is_not_read(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "other.txt")
    (found, _) = discover([tmp_path])
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").symlink_to(tmp_path / "other.txt")
    assert code_of_reading(found.path) == "changing"
    (tmp_path / "a.txt").unlink()
    os.mkfifo(tmp_path / "a.txt")
    assert code_of_reading(found.path) == "changing"
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").mkdir()
    assert code_of_reading(found.path) == "changing"


def code_of_reading(path: bytes) -> str:
    with pytest.raises(TransientError) as caught:
        read_file(path, MB)
    return caught.value.code


def test_a_folder_above_exchanged_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "in/a.txt")
    make(tmp_path, "outside/a.txt")
    (found,) = discover([root])
    assert isinstance(found, Found)
    (root / "in").rename(tmp_path / "moved")
    (root / "in").symlink_to(tmp_path / "outside")
    with pytest.raises(TransientError), open_regular(found.path, expect=found):
        pass
    assert code_of_reading(found.path) == "changing", "a parser knows the path alone"
    with pytest.raises(OSError) as caught:  # noqa: PT011
        open_without_links(found.path, os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


def test_a_file_that_grows_while_it_is_read_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(30 * MB))
    stop = threading.Event()

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"x")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        assert "changing" in {outcome(path) for _ in range(20)}
    finally:
        stop.set()
        writer.join()


def outcome(path: Path) -> str:
    try:
        read_file(os.fsencode(path), 100 * MB)
    except TransientError as error:
        return error.code
    return "read"
