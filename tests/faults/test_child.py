"""No test leaves a process behind, not even one that stands still."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from faults import child, storm


@pytest.mark.xdist_group("faults")
def test_a_worker_that_stands_still_is_ended_with_its_test(tmp_path: Path) -> None:
    with child.ended():
        worker = storm.stopped_at("before:knowlex.cli.main", ["--db", str(tmp_path / "a.db"), "stats"])
        assert worker is not None
        assert psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED
    assert not psutil.pid_exists(worker.pid)
