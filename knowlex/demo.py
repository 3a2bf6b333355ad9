"""`make demo`: ingest the sample documents and ask them a few questions."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from knowlex.facade import Knowlex
from knowlex.hits import as_text
from knowlex.terminal import BOLD, PLAIN, shows_bold, size, table

ROOT = Path(__file__).parent.parent
DOCUMENTS = ROOT / "tests" / "data" / "demo"
DATABASE = ROOT / "data" / "demo.db"
PROJECT = "demo"
QUESTIONS = ("How many days of paid leave do I get?", "What happens when a delivery is late?")


def main() -> int:
    """Show ingestion, the status of the files, and a search with sources and pages."""
    # The embedder says in the log that it compiles the model, which takes a while at the first run.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("knowlex.embed").setLevel(logging.INFO)
    DATABASE.parent.mkdir(exist_ok=True)
    with Knowlex(DATABASE) as kb:
        _forget_last_time(kb)
        _say(f"Ingesting {DOCUMENTS.relative_to(ROOT)} …")
        report = kb.ingest(PROJECT, DOCUMENTS, progress=True)
        _say(f"{report.ingested} files, {report.chunks} passages in {report.seconds:.1f} s")
        _show_files(kb)
        for question in QUESTIONS:
            _ask(kb, question)
    _say(f"\nAsk more: .venv/bin/knowlex --db {DATABASE.relative_to(ROOT)} search {PROJECT} 'your question'")
    return 1 if report.failed else 0


def _forget_last_time(kb: Knowlex) -> None:
    """Begin anew, so that each run shows ingestion."""
    if any(item.project.name == PROJECT for item in kb.projects.list()):
        kb.projects.delete(PROJECT)


def _show_files(kb: Knowlex) -> None:
    rows = [(row.status, row.chunk_count, size(row.size), row.filename) for row in kb.files(PROJECT)]
    _say("\n" + table(("STATUS", "PASSAGES", "SIZE", "FILE"), rows))


def _ask(kb: Knowlex, question: str) -> None:
    hits = kb.search(PROJECT, question, k=3, explain=True)
    on, off = (BOLD, PLAIN) if shows_bold() else ("", "")
    _say(f"\n{on}{question}{off}  ({len(hits)} passages in {hits.took_ms:.0f} ms)\n")
    _say(as_text(hits, bold=shows_bold()))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
