"""What a server does beside answering, and what it says of that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from knowlex import Knowlex
from knowlex.drain import Drain
from knowlex.server.background import Background
from storage.errors import LockedError


def test_what_ended_the_work_is_told_until_the_work_gets_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, failed, let_go, idled = Drain.run, threading.Event(), threading.Event(), threading.Event()
    never = Drain._never  # pyright: ignore[reportPrivateUsage]

    def run(drain: Drain, **more: bool) -> object:
        if not failed.is_set():
            failed.set()
            raise LockedError("the database is locked; close what holds it")
        assert let_go.wait(60)  # begun again, it waits for the lock
        return original(drain, **more)

    def idle(drain: Drain) -> bool:
        done = never(drain)
        idled.set()
        return done

    monkeypatch.setattr(Drain, "run", run)
    monkeypatch.setattr(Drain, "_never", idle)
    monkeypatch.setattr("knowlex.server.background.AGAIN_S", 0.01)
    with Knowlex(tmp_path / "knowlex.db", workers=1) as kb:
        kb.projects.create("p")
        background = Background(kb)
        background.start()
        try:
            assert failed.wait(60)
            while not (told := background.states()[1]).code:
                pass
            assert (told.ok, told.code) == (False, "locked")
            let_go.set()
            assert idled.wait(60)
            assert background.states()[1].ok
        finally:
            let_go.set()
            background.stop()
            background.join()
