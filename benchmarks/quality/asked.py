"""What the programs that run another toolkit have in common: python with_TOOLKIT.py MODEL INPUT OUTPUT

INPUT is JSON: a list of {"documents": [[id, text]…], "queries": [[id, text]…]}, each to be searched by itself. OUTPUT
will hold the ids of the best documents of each query, best first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

DEPTH = 100
"""Documents that each leg of a toolkit brings."""

Search = Callable[[str, int], list[str]]


def main(open_index: Callable[[str, list[tuple[str, str]]], Search]) -> None:
    """Answer every query. open_index: model folder and documents to what searches them."""
    model, given, wanted = sys.argv[1:]
    rankings: dict[str, list[str]] = {}
    for part in json.loads(Path(given).read_text("utf8")):
        search = open_index(model, [(id, text) for id, text in part["documents"]])
        rankings |= {id: search(text, 10) for id, text in part["queries"]}
    Path(wanted).write_text(json.dumps(rankings), "utf8")
