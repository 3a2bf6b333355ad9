"""Any sequence of finds, edits, moves, claims, commits, failures, losses and deletions keeps the files true."""

from __future__ import annotations

import hashlib
from pathlib import Path

import in_memory
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from storage import changes, chunks, files, parts, projects, queue, vectors
from storage.chunks import NewChunk
from storage.errors import LeaseLostError
from storage.files import Ready, Registered, Seen, Status, Versions
from storage.fingerprint import Fingerprint
from storage.passage_tokens import tokens_of
from storage.queue import Claim
from storage.verify import verify

NAMES = [f"/docs/{letter}.md".encode() for letter in "abcd"]
CONTENTS = ["one", "one two", "a box", "two boxes"]
WITHIN = {"a box": {"x": "one", "y": "one two"}, "two boxes": {"x": "one", "b": "a box", "c": "a box"}}
"""What lies within the files of these contents."""
DIM = 8


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def made_of(content: str, settings: str) -> list[NewChunk]:
    """Chunks of a content: its words; the settings stand in the heading, so that a re-chunk is seen."""
    words = content.split()
    values = np.stack([np.random.default_rng(len(w)).standard_normal(DIM) for w in words]).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return [
        NewChunk(w, 1, i, i + 1, None, None, settings, tokens_of(w, settings), vectors.input_hash(w), vector)
        for i, (w, vector) in enumerate(zip(words, vectors.encode(values), strict=True))
    ]


class FilesMachine(RuleBasedStateMachine):
    claims = Bundle("claims")

    @initialize()
    def start(self) -> None:
        self.folder = in_memory.folder()
        self.db = in_memory.new_database(Path(self.folder.name) / "machine.db")
        self.disk: dict[bytes, str] = {}
        self.versions = Versions("v1", frozenset({"text 1"}))
        with self.db.write() as db:
            self.project = projects.create(db, "p").pk
            self.model = vectors.ensure_model(
                db, name="m", hash="h", dim=DIM, pooling="mean", query_prompt="", document_prompt="", precision="fp32"
            )

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()

    @rule(name=st.sampled_from(NAMES), content=st.sampled_from(CONTENTS))
    def write_and_find(self, name: bytes, content: str) -> None:
        self.disk[name] = content
        seen = Seen(name, Fingerprint(len(content), 1, 1, 1), digest(content))
        with self.db.write() as db:
            pk, registered = files.register(db, self.project, seen, self.versions, scanned_ns=10**18)
            file = files.get(db, pk)
        assert file.content_hash == digest(content)
        if registered is Registered.QUEUED:
            assert file.status in (Status.PENDING, Status.PROCESSING)
        if registered is Registered.UNCHANGED:
            assert file.status in (Status.READY, Status.FAILED)

    @rule(name=st.sampled_from(NAMES))
    def cannot_read(self, name: bytes) -> None:
        with self.db.write() as db:
            files.record_unreadable(db, self.project, name, Fingerprint(1, 1, 1, 1), code="unreadable", message="no")

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: bytes) -> None:
        with self.db.write() as db:
            if file := files.by_path(db, self.project, name):
                files.delete(db, file)

    @rule(name=st.sampled_from(NAMES), to=st.sampled_from(NAMES))
    def move(self, name: bytes, to: bytes) -> None:
        with self.db.write() as db:
            file = files.by_path(db, self.project, name)
            if file is not None and files.by_path(db, self.project, to) is None:
                inner = {f.id for f in files.within(db, file)}
                files.move(db, file, to)
                self.disk[to] = self.disk.get(name, "")
                moved = files.get(db, file.pk)
                assert (moved.id, moved.path_bytes) == (file.id, to)
                assert {f.id for f in files.within(db, moved)} == inner

    @rule(version=st.sampled_from(["v1", "v2"]))
    def change_settings(self, version: str) -> None:
        self.versions = Versions(version, frozenset({"text 1"}))

    @rule(target=claims, limit=st.integers(1, 3))
    def claim(self, limit: int):
        with self.db.write() as db:
            return multiple(*queue.claim(db, "me", limit=limit, now_ms=10**15))

    @rule(claim=consumes(claims), fails=st.sampled_from(["no", "bytes", "empty", "path", "later"]))
    def finish(self, claim: Claim, fails: str) -> None:
        content = next((c for c in CONTENTS if digest(c) == claim.content_hash), None)
        try:
            with self.db.write() as db:
                queue.require_lease(db, claim)
                if fails == "bytes":
                    files.mark_failed(db, claim.pk, code="corrupt", message="bad", versions=self.versions)
                elif fails == "empty":
                    files.mark_empty(db, claim.pk, code="empty", message="empty", versions=self.versions)
                    assert files.get(db, claim.pk).indexed_hash in (claim.content_hash, None)
                elif fails == "later":
                    queue.try_later(db, claim, now_ms=0, wait_ms=0, code="timeout", message="slow")
                elif fails == "path" or content is None:
                    files.mark_unreadable(db, claim.pk, code="unreadable", message="gone")
                else:
                    self._commit(db, claim, content)
        except LeaseLostError:
            pass

    def _commit(self, db, claim: Claim, content: str) -> None:
        new = made_of(content, self.versions.settings)
        files.make_room(db, files.get(db, claim.pk), digest(content))
        chunks.replace(db, self.project, claim.pk, self.model.pk, new)
        files.mark_ready(
            db, claim.pk, Ready(digest(content), len(new), None, "text 1", self.versions.settings, {"k": 1})
        )
        within = WITHIN.get(content, {}).items()
        seen = [Seen(parts.path_in(claim.path, n), Fingerprint(len(c), 0, 0, 0), digest(c)) for n, c in within]
        files.replace_within(db, files.get(db, claim.pk), seen, self.versions)
        changes.bump(db, self.project)

    @rule()
    def drain(self) -> None:
        """Finish whatever waits: most of what can go wrong needs files that were ready before."""
        for _ in range(3):  # what lies within a file waits once that is finished
            with self.db.write() as db:
                claimed = queue.claim(db, "drain", limit=99, now_ms=10**15)
            for claim in claimed:
                self.finish(claim=claim, fails="no")

    @rule()
    def lose_the_worker(self) -> None:
        with self.db.write() as db:
            queue.reclaim(db, now_ms=0, is_dead=lambda owner: True)

    @rule()
    def retry(self) -> None:
        with self.db.write() as db:
            files.retry_failed(db, self.project, self.versions)
            assert files.counts(db, self.project)["failed"] == 0

    @invariant()
    def all_is_true(self) -> None:
        if not hasattr(self, "db"):
            return
        assert verify(self.db) == []
        with self.db.read() as db:
            for file in files.every(db, self.project):
                if not parts.is_part(file.path_bytes):
                    assert file.content_hash in (digest(self.disk.get(file.path_bytes, "")), None)
                self._within_is_true(db, file)
                owner = file.duplicate_of or file.pk
                texts = [chunk.content for chunk in chunks.of_file(db, owner)]
                if file.indexed_hash is not None:
                    assert digest(" ".join(texts)) == file.indexed_hash
                    assert file.chunk_count == len(texts)

    def _within_is_true(self, db, file) -> None:
        """What lies in a file is that of the bytes that are indexed, and it lies in the owner alone."""
        indexed = next((c for c in CONTENTS if digest(c) == file.indexed_hash), "")
        expected = {} if file.duplicate_of else WITHIN.get(indexed, {})
        direct = [f for f in files.within(db, file) if parts.parent_of(f.path_bytes) == file.path_bytes]
        assert {f.filename: f.content_hash for f in direct if f.content_hash} == {
            name: digest(content)
            for name, content in expected.items()
            if any(f.filename == name and f.content_hash for f in direct)
        }
        assert {f.filename for f in direct} == set(expected)

    @invariant()
    def everything_can_be_finished(self) -> None:
        """What is not settled is in the queue, in a worker's hands, or waits for such a one."""
        if not hasattr(self, "db"):
            return
        with self.db.read() as db:
            waiting = [f for f in files.every(db, self.project, Status.PENDING) if f.waiting_for]
            assert all(files.get(db, f.waiting_for).status in (Status.PENDING, Status.PROCESSING) for f in waiting)


EFFORT = settings(stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
FilesMachine.TestCase.settings = settings(EFFORT, max_examples=200)
TestFiles = pytest.mark.long(FilesMachine.TestCase)

MANY = 10_000


@pytest.mark.soak
@pytest.mark.row(12)
@pytest.mark.timeout(0)
def test_very_many_sequences_of_files_and_files_within_them(figure) -> None:
    effort = settings(EFFORT, max_examples=MANY, database=None, derandomize=False)
    run_state_machine_as_test(FilesMachine, settings=effort)
    figure(12, f"files within files: {MANY:,} × {EFFORT.stateful_step_count} steps, 0 differences", True)
