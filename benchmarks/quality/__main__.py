"""Print nDCG@10 of Knowlex and of plain references on judged collections.

    python -m benchmarks.quality FOLDER [NAME…] [--reranker MODEL] [--toolkit NAME]… [--environments DIR] [--json FILE]

FOLDER holds a folder a collection, in BEIR's layout; without names, all are taken. Every system gets the same documents
and the same model in one run:

    text, vector, hybrid   Knowlex: each document is a file, ranked by its best passage
    rerank                 the hybrid, its first passages ordered by a cross-encoder, with --reranker (name or folder)
    bm25s, exact           Lucene's BM25, and exact cosines, over whole documents (see `reference`)
    rrf, convex            the two fused by reciprocal ranks (k 60), and by the mean of min-max scores
    txtai, llamaindex      their own hybrid searches over whole documents, with --toolkit (see `with_*`), each in an
                           environment of its own (made at the first run and kept, as of `benchmarks.peers`)

Gain is linear; judged questions only. "p" is of the hybrid against the better of its own legs on that collection, and
in the last lines against each other system over all collections: paired randomisation tests, stratified by collection.
Needs bm25s (extra `dev`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs

from benchmarks.ingestion import model_folder
from benchmarks.peers.__main__ import QUIET
from benchmarks.peers.environments import python_of
from benchmarks.processes import run
from benchmarks.quality.reference import ranked, whole
from knowlex.config import load_settings
from knowlex.evaluation import EvalOptions, prepared
from pipeline import collection, embed
from pipeline.collection import Collection
from pipeline.embed import Embedder
from pipeline.evaluate import Scores, ndcg, p_value

OWN = ("text", "vector", "hybrid")
OTHERS = ("bm25s", "exact", "rrf", "convex")
TOOLKITS = ("txtai", "llamaindex")
WIDTH = 10

Outcome = Mapping[str, Scores]
"""By system, nDCG@10 of each question."""


def measure(
    judged: Collection, embedder: Embedder, toolkits: Mapping[str, Path], reranker: str | None = None
) -> Outcome:
    """Ask every question of every system. toolkits: by name, the interpreter of its environment."""
    ways = {mode: EvalOptions(mode=mode, k=10, progress=False) for mode in OWN}
    if reranker:
        ways["rerank"] = replace(ways["hybrid"], rerank=reranker)
    with prepared(judged, load_settings(environ={}), progress=False, rerank=reranker or False) as ready:
        own = {name: [one.measures["ndcg@10"] for one in ready.asked(way)] for name, way in ways.items()}
    others: dict[str, list[float]] = {name: [] for name in OTHERS}
    for query, rankings in zip(judged.queries, ranked(judged, embedder), strict=True):
        for name, ranking in rankings.items():
            others[name].append(ndcg(ranking, query.grades))
    for name, python in toolkits.items():
        answers = toolkit_rankings(name, python, judged)
        others[name] = [ndcg(answers[query.id], query.grades) for query in judged.queries]
    return {name: np.array(scores) for name, scores in (own | others).items()}


def toolkit_rankings(name: str, python: Path, judged: Collection) -> Mapping[str, list[str]]:
    """Return what a toolkit ranks for each query, by the query's id; it runs in its own environment."""
    parts: list[dict[str, list[tuple[str, str]]]] = []
    for scope in dict.fromkeys(query.scope for query in judged.queries):
        queries = [query for query in judged.queries if query.scope == scope]
        documents = [(each.id, whole(each)) for each in judged.documents if queries[0].may_find(each.id)]
        parts.append({"documents": documents, "queries": [(query.id, query.text) for query in queries]})
    with tempfile.TemporaryDirectory() as place:
        given, told = Path(place) / "given.json", Path(place) / "told.json"
        given.write_text(json.dumps(parts))
        program = str(Path(__file__).parent / f"with_{name}.py")
        # -E: nothing of this environment is to be imported there.
        run(str(python), "-E", program, str(model_folder()), str(given), str(told), **QUIET)
        return json.loads(told.read_text())


def line(name: str, values: Mapping[str, float], rest: str) -> str:
    """Return a line of the table."""
    return f"{name:18}" + "".join(f" {value:{WIDTH}.4f}" for value in values.values()) + f"  {rest}"


def against_own(outcome: Outcome) -> str:
    """Tell how the hybrid differs from the better of its own legs."""
    better = max(("text", "vector"), key=lambda leg: float(outcome[leg].mean()))
    apart = outcome["hybrid"] - outcome[better]
    return f"{apart.mean():+.4f} p {p_value({'': apart}):.4f} {better}"


def report(outcomes: Mapping[str, Outcome]) -> str:
    """Return the means over the collections, and how the hybrid compares with each other system."""
    systems = next(iter(outcomes.values()))
    means = {system: float(np.mean([outcome[system].mean() for outcome in outcomes.values()])) for system in systems}
    lines = [line("mean", means, "")]
    for system in systems:
        if system != "hybrid":
            p = p_value({name: outcome["hybrid"] - outcome[system] for name, outcome in outcomes.items()})
            lines.append(f"hybrid over {system:10} {100 * (means['hybrid'] / means[system] - 1):+6.2f} %  p {p:.4f}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print a line a collection."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--reranker", metavar="MODEL")
    parser.add_argument("--toolkit", action="append", choices=TOOLKITS, default=[])
    parser.add_argument("--environments", type=Path, default=platformdirs.user_cache_path("knowlex") / "peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.names or sorted(place.name for place in options.folder.iterdir() if place.is_dir())
    embedder = embed.load(embed.EmbedSettings())
    toolkits = {name: python_of(name, options.environments) for name in options.toolkit}
    systems = (*OWN, *(["rerank"] if options.reranker else []), *OTHERS, *toolkits)
    print(f"{'':18}" + "".join(f" {system:>{WIDTH}}" for system in systems) + "  to the better leg")
    outcomes: dict[str, Outcome] = {}
    for name in names:
        outcomes[name] = measure(collection.read(options.folder / name), embedder, toolkits, options.reranker)
        means = {system: float(scores.mean()) for system, scores in outcomes[name].items()}
        print(line(name, means, against_own(outcomes[name])), flush=True)
    print(report(outcomes))
    if options.json:
        told = {name: {system: s.tolist() for system, s in outcome.items()} for name, outcome in outcomes.items()}
        options.json.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
