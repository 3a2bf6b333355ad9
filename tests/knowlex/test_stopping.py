from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from knowlex.cli import stopping

PROGRAM = """
import sys, time
from knowlex.cli import stopping
stopping.GRACE_S = 0.2
stopping.ABANDON_S = 0.2
def abandon(): print("abandoned", flush=True); time.sleep(WAITS_S)
def stop(): print("stop", flush=True)
with stopping.stopping(stop, abandon):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_stops_the_block_from_another_thread(number: signal.Signals) -> None:
    stopped = threading.Event()
    before = signal.getsignal(number)
    with stopping.stopping(stopped.set, lambda: None) as told:
        os.kill(os.getpid(), number)
        assert stopped.wait(10)
    assert told.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_without_a_signal_nothing_is_told() -> None:
    with stopping.stopping(lambda: None, lambda: None) as told:
        pass
    assert told.signal is None


@pytest.mark.parametrize("waits_s", ["0", "3600"])
def test_a_block_that_does_not_end_is_abandoned_after_the_grace_however_long_that_takes(waits_s: str) -> None:
    program = PROGRAM.replace("WAITS_S", waits_s)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.read() == "stop\nabandoned\n"
    assert child.returncode == 128 + signal.SIGTERM
