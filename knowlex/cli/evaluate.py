"""`knowlex eval`: how well is a judged collection found?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from knowlex.cli.door import Command, Door, pass_door
from knowlex.cli.search import mode_option
from knowlex.terminal import quantity, table

if TYPE_CHECKING:
    from knowlex.evaluation import Evaluation

_PATH = click.Path(path_type=Path)


@click.command("eval", cls=Command)
@click.argument("folder", metavar="DIR", type=_PATH)
@mode_option
@click.option(
    "-k",
    "--k",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Documents to rank for a question; 100 at least.",
)
@click.option("--rerank", is_flag=True, help="Order the first passages by the cross-encoder of rerank_model.")
@click.option("--run", metavar="FILE", type=_PATH, help="Write the rankings, in TREC's format.")
@click.option("--compare", metavar="RUN", type=_PATH, help="Compare with a run that was written before.")
@click.option("--report", metavar="FILE", type=_PATH, help="Write one JSON line a question: what was found and missed.")
@pass_door
def evaluate(door: Door, folder: Path, **options: Any) -> None:
    """Judge how well the documents of DIR are found, under the settings in force.

    DIR has the layout of BEIR: corpus.jsonl or corpus.jsonl.gz, queries.jsonl, qrels.tsv (whose first line is a head
    where its third field is no number). Its documents go into a database of their own, which is gone at the end. Each
    is ranked by its best passage; only questions to which a document is relevant count. An older run or report of that
    name is replaced; anything else is not. A run that is compared with is in the order of its scores, as for
    trec_eval; a question that it has no line for counts as 0 there, and how many these are is told.

    \b
    Example:
      knowlex eval ./cranfield --mode text --run text.run
      knowlex eval ./cranfield --compare text.run --report questions.jsonl
    """
    from knowlex.cli.stopping import unwinding

    with unwinding(), door.open() as kb:
        judged = kb.evaluate(folder, progress=door.progress, **options)
    if door.json:
        door.answer(judged.as_dict())
        return
    _describe(door, judged)


def _describe(door: Door, judged: Evaluation) -> None:
    from knowlex import evaluation

    door.say(evaluation.title(judged))
    for line in evaluation.lacking(judged):
        door.note(line)
    if judged.unsearchable:
        door.note(f"{quantity(judged.unsearchable, 'document')} without text that could be read: not to be found")
    if judged.unknown_questions:
        door.note(
            f"not counted, as queries.jsonl lacks the question: {quantity(judged.unknown_questions, 'judgement')}"
        )
    if judged.unknown_documents:
        lost = quantity(judged.unknown_documents, "judgement")
        door.note(f"not found, as the corpus, or the question's scope, lacks the document: {lost}")
    door.say(table(*evaluation.table(judged)))
    took = judged.query_ms
    door.say(f"a search for ten passages takes {took['p50']:.0f} ms, 95 of 100 at most {took['p95']:.0f} ms")
