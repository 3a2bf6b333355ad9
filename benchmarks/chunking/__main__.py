"""Which way of cutting documents is found best? `python -m benchmarks.chunking DATA [--vectors FOLDER]`.

DATA holds ir/ (collections in BEIR's layout), docs/ (real documents) and projects/docs-tree.tar.xz (manuals). Every
policy cuts the same texts; the same embedder, full text and fusion rank the passages; a document stands where its best
passage does. Passages are compared at the same number of tokens, however many there are: `answer@1000` is the share of
the answer among the first 1,000 tokens that a reader is given. p-values are of a paired randomisation test against the
first policy, which is the default, adjusted for the number of policies (Holm).

The default is chosen by the collections marked "choice"; those marked "check" are only looked at afterwards.
FOLDER keeps the vectors, so that an interrupted run goes on, and every mean (means.json). Where
`semantic-text-splitter` is installed (extra `bench`), it takes part.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from benchmarks.chunking.beir import abstracts, articles, sessions
from benchmarks.chunking.files import real_documents
from benchmarks.chunking.manual import manual
from benchmarks.chunking.measures import judge
from benchmarks.chunking.policies import Policy, policies
from benchmarks.chunking.ranking import Passage, ranker
from benchmarks.chunking.report import Outcome, means, report
from benchmarks.chunking.texts import Collection
from benchmarks.chunking.vectors import Vectors
from pipeline import embed, model_files
from pipeline.document import Document

ROUNDS = 2
"""How often the speed is measured; the best counts."""
SPEED_CHARS = 300_000
"""Characters of each collection that the speed is measured on."""


def collections(data: Path, *, everything: bool) -> Iterator[Collection]:
    """Yield the collections. everything: also those whose texts mostly fit into one chunk of any policy."""
    ir, archive = data / "ir", data / "projects" / "docs-tree.tar.xz"
    yield abstracts(ir / "cranfield", "choice")
    yield articles(ir / "xquad-en", "choice")
    yield sessions(ir / "locomo-dev", "choice")
    yield manual(archive, "choice")
    yield abstracts(ir / "scifact-train", "check", most=450)
    yield manual(archive, "check")
    yield real_documents((data / "docs").resolve())
    if everything:
        yield abstracts(ir / "adi", "check")
        yield abstracts(ir / "cisi", "check")
        for name in ("xquad-de", "xquad-ru", "xquad-hi", "xquad-th", "drcd-dev-zh", "jsquad-valid-ja"):
            yield articles(ir / name, "check")


def sampled(collection: Collection, size: int) -> Collection:
    """Return a collection with `size` questions and the texts that answer them, at least `size`: for a trial."""
    questions = collection.questions[:size]
    right = {text for question in questions for text, grade in question.grades.items() if grade > 0}
    texts = sorted(collection.texts, key=lambda text: text.id not in right)[: max(size, len(right))]
    return Collection(collection.name, collection.use, texts, questions)


def cut(policy: Policy, collection: Collection, tokenizer: Tokenizer) -> tuple[list[Passage], list[int]]:
    """Return the passages of a collection, and how many tokens the model is given for each."""
    found = [(text, piece) for text in collection.texts for piece in policy.cut(text.document)]
    shown = tokenizer.encode_batch([piece.text for _, piece in found], add_special_tokens=False)
    given = tokenizer.encode_batch([piece.model_input for _, piece in found])
    passages = [Passage(text.id, text.scope, piece, len(e)) for (text, piece), e in zip(found, shown, strict=True)]
    return passages, [len(each) for each in given]


def ranked(outcome: Outcome, collection: Collection, vectors: Vectors) -> None:
    """Ask every question of a collection and note how well it was answered."""
    found: dict[tuple[str, str, str], list[float]] = {}
    with ranker(outcome.passages[collection.name], vectors) as search:
        for question in collection.questions:
            for mode, ranking in search.rank(question).items():
                for measure, value in judge(question, ranking).items():
                    found.setdefault((collection.name, mode, measure), []).append(value)
    outcome.quality |= {key: np.array(values) for key, values in found.items()}


def speeds(chosen: Sequence[Policy], texts: Sequence[Document]) -> dict[tuple[str, int], float]:
    """Return MB of UTF-8 per CPU-second of every chunker and size: the best of several rounds."""
    size = sum(len(text.text.encode()) for text in texts) / 1e6
    different = {(policy.chunker, policy.size): policy for policy in reversed(chosen)}
    seconds = dict.fromkeys(different, float("inf"))
    for _ in range(ROUNDS):
        for key, policy in different.items():
            start = time.process_time()
            for text in texts:
                policy.cut(text)
            seconds[key] = min(seconds[key], time.process_time() - start)
    return {key: size / taken for key, taken in seconds.items()}


def timed(chosen: Sequence[Collection]) -> list[Document]:
    """Return long texts of several kinds, SPEED_CHARS of each collection at most."""
    found: list[Document] = []
    for collection in chosen:
        left = SPEED_CHARS
        for text in collection.texts:
            if left > 0:
                found.append(text.document)
                left -= len(text.document.text)
    return found


def compare(data: Path, store: Path, *, everything: bool, names: Sequence[str], sample: int) -> list[str]:
    """Run it all and return the report's lines."""
    chosen = list(collections(data, everything=everything))
    chosen = [sampled(each, sample) for each in chosen] if sample else chosen
    files = model_files.resolve(embed.DEFAULT_MODEL)
    tokenizer, embedder = model_files.tokenizer(files), embed.load(embed.EmbedSettings())
    vectors = Vectors(store, embedder)
    compared = [policy for policy in policies(tokenizer) if not names or policy.label in names]
    outcomes = [Outcome(policy) for policy in compared]
    for outcome in outcomes:
        for each in chosen:
            outcome.passages[each.name], outcome.input_tokens[each.name] = cut(outcome.policy, each, tokenizer)
        made = vectors.make(p.piece.model_input for passages in outcome.passages.values() for p in passages)
        print(f"{outcome.policy.label}: {made} vectors made", file=sys.stderr)
    speed = speeds(compared, timed(chosen))
    for outcome in tqdm(outcomes, "ranking", file=sys.stderr):
        outcome.speed = speed[outcome.policy.chunker, outcome.policy.size]
        for each in chosen:
            ranked(outcome, each, vectors)
    (store / "means.json").write_text(json.dumps(means(outcomes), indent=1), "utf8")
    return list(report(outcomes, chosen, embedder.identity.max_tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--vectors", type=Path, help="where vectors are kept; a temporary folder by default")
    parser.add_argument("--all", action="store_true", help="also the collections of short texts and other languages")
    parser.add_argument("--policy", action="append", default=[], help='only these, such as "structure, 128"')
    parser.add_argument("--sample", type=int, default=0, help="at most so many texts and questions of each: a trial")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = given.vectors or Path(scratch)
        lines = compare(given.data, store, everything=given.all, names=given.policy, sample=given.sample)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
