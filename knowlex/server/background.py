"""What a server does beside answering: it loads the model, processes the queue, and keeps the database quick.

That is what `knowlex work` does, in a thread of this process, by the same workers and the same model. What ends a run
over the queue (a full disk, a database that was restored, a model that is not to be had) is told by `/readyz`, and a
new run begins after a while.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass

from knowlex.drain import Drain, give_back
from knowlex.facade import Knowlex
from storage.errors import TransientError
from storage.event_log import EventLog, code_of
from storage.health import Check

log = EventLog("knowlex.server")

AGAIN_S = 5.0
"""How long after a run over the queue was ended by an error the next one begins."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a run over the queue ended; told until a later one gets on."""

    code: str
    message: str


class Background:
    """Works beside the server between `start` and `stop`."""

    def __init__(self, kb: Knowlex) -> None:
        self._kb = kb
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._drain: Drain | None = None
        self._trouble: _Trouble | None = None
        self._thread = threading.Thread(target=self._work, name="background", daemon=True)

    def start(self) -> None:
        """Have the model loaded, and begin with the queue."""
        with suppress(Exception):  # it is being loaded; or `states` tells why it is not to be had
            self._kb.load_model()
        self._thread.start()

    def stop(self) -> None:
        """End soon, from any thread; what is not done stays in the queue."""
        self._stop.set()
        with self._lock:
            if self._drain is not None:
                self._drain.stop()

    def join(self) -> None:
        """Wait until all is back in the queue that was in hand; after `stop`."""
        if self._thread.ident is not None:
            self._thread.join()

    def abandon(self) -> None:
        """Give back what this process holds, when it is about to end on the spot."""
        give_back(lambda: self._kb.database)

    def states(self) -> list[Check]:
        """Return whether the model is there and the queue is worked on, as checks like those of `health`."""
        return [self._model(), self._worker()]

    def _model(self) -> Check:
        try:
            loaded = self._kb.load_model()
        except TransientError as error:
            return Check("model", False, error.message, error.code)
        except Exception as error:  # whatever a model's libraries raise
            return Check("model", False, str(error), code_of(error))
        return Check("model", True, "loaded" if loaded else "loaded with the first text; there is none yet")

    def _worker(self) -> Check:
        trouble, drain = self._trouble, self._drain
        if trouble is not None and not (drain is not None and drain.went_well):
            return Check("worker", False, trouble.message, trouble.code)
        return Check("worker", True, "works on the queue")

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                with self._begun() as drain:
                    drain.run(once=False)
            except Exception as error:  # all are told, and what was in hand is back in the queue
                log.error("work interrupted", error_code=code_of(error))
                self._trouble = _Trouble(code_of(error), str(error))
                with self._lock:
                    self._drain = None
                self._stop.wait(AGAIN_S)

    def _begun(self) -> Drain:
        drain = self._kb.drain(progress=False)
        with self._lock:
            self._drain = drain
            if self._stop.is_set():
                drain.stop()
        return drain
