"""Print how well messages are found in conversations whose turns are judged, and what each step brings.

    python -m benchmarks.conversations COLLECTION

COLLECTION is in BEIR's layout; each question has a scope, and a document is a turn: its _id is SCOPE/D<session>:<turn>,
its title the time of the session. A session becomes a conversation, a scope a project.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np

from knowlex import Knowlex
from knowlex.pending_vectors import embed_pending
from pipeline import collection, evaluate, order
from pipeline.collection import Collection, Document

TURN = re.compile(r"(?P<scope>.+)/D(?P<session>\d+):(?P<turn>\d+)")
NEAR = 20
"""Messages asked for: a measure looks at ten."""


def place(document: Document) -> tuple[str, int, int]:
    """Return scope, session and turn of a document."""
    match = TURN.fullmatch(document.id)
    if match is None:
        raise SystemExit(f"{document.id}: is no turn; its _id must be SCOPE/D<session>:<turn>")
    return match["scope"], int(match["session"]), int(match["turn"])


def fill(kb: Knowlex, judged: Collection) -> dict[str, str]:
    """Add every turn as a message, and return its document by its id."""
    ids: dict[str, str] = {}
    turns = sorted(judged.documents, key=place)
    for scope in dict.fromkeys(place(turn)[0] for turn in turns):
        kb.projects.create(scope)
    for (scope, session), said in groupby(turns, key=lambda turn: place(turn)[:2]):
        spoken = list(said)
        talk = kb.conversations.create(f"session {session}, {spoken[0].title}", project=scope)
        for turn in spoken:
            ids[kb.conversations.add(talk.id, "user", turn.text).id] = turn.id
    embed_pending(kb.engine, len(ids))
    return ids


def measured(
    kb: Knowlex, judged: Collection, ids: Mapping[str, str], mode: str
) -> Iterator[tuple[float, float, float]]:
    """Yield nDCG@10, recall@5 and recall@10 of each question."""
    for query in judged.queries:
        hits = kb.search(query.scope, query.text, NEAR, mode=mode, sources=["messages"])
        ranking = [ids[hit.id] for hit in hits]
        yield (
            evaluate.ndcg(ranking, query.grades),
            evaluate.recall(ranking, query.grades, 5),
            evaluate.recall(ranking, query.grades, 10),
        )


def main(folder: Path) -> None:
    """Print a line a step."""
    judged = collection.read(folder)
    print(f"{'':36} {'nDCG@10':>8} {'recall@5':>9} {'recall@10':>10}")
    with tempfile.TemporaryDirectory() as kept, Knowlex(Path(kept) / "turns.db", config=None) as kb:
        ids = fill(kb, judged)
        share = order.NEIGHBOUR_SHARE
        for name, mode, counted in (
            ("words", "text", 0.0),
            ("meaning", "vector", 0.0),
            ("both", "hybrid", 0.0),
            (f"both, {share} of each neighbour", "hybrid", share),
        ):
            order.NEIGHBOUR_SHARE = counted
            ndcg, near, far = np.mean(list(measured(kb, judged, ids, mode)), axis=0)
            print(f"{name:36} {ndcg:8.4f} {near:9.4f} {far:10.4f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
