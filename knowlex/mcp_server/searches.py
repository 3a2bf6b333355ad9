"""What is found: passages of files, memories and messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from knowlex.hits import Hit, Hits
from knowlex.mcp_server.answers import Conversations, Found, Leg, Passage, Said
from knowlex.mcp_server.budget import Budget
from knowlex.mcp_server.scope import Scope, document_uri
from knowlex.untrusted import neutral
from pipeline.answer import Mode
from storage.content import text_of
from storage.conversations import Conversation
from storage.errors import NotFoundError
from storage.messages import Message


def search(
    scope: Scope,
    query: str,
    *,
    project: str | None,
    k: int,
    mode: str,
    sources: Sequence[str],
    filters: str | Mapping[str, Any] | None,
    max_tokens: int,
) -> Found:
    """Return the passages that answer a question best. Raises as `Knowlex.search`."""
    of = scope.project(project)
    hits = scope.kb.search(of.id, query, k, mode=mode, sources=sources, filters=filters)
    budget = Budget(max_tokens)
    shown = [_passage(hit, of.id, *kept) for hit in hits if (kept := budget.take(neutral(hit.text)))]
    return Found(
        project=of.name,
        mode=cast(Mode, hits.mode),
        took_ms=round(hits.took_ms, 2),
        degraded=degraded(hits),
        legs=legs(hits),
        notes=list(hits.notes),
        left_out=len(hits) - len(shown),
        hits=shown,
    )


def _passage(hit: Hit, project_id: str, text: str, cut: bool) -> Passage:
    return Passage(
        rank=hit.rank,
        score=hit.score,
        source=hit.source.value,
        id=hit.id,
        file_id=hit.file_id,
        file=hit.file,
        path=hit.path,
        page_start=hit.page_start,
        page_end=hit.page_end,
        heading=hit.heading,
        char_start=hit.char_start,
        char_end=hit.char_end,
        text=text,
        repeated=min(shown_length(hit.text[: hit.repeated]), len(text)),
        cut=cut,
        link=hit.link,
        uri=None if hit.file_id is None else document_uri(project_id, hit.file_id),
    )


def degraded(hits: Hits) -> dict[str, str]:
    """Return by leg why it could not do its part."""
    return {name: leg.degraded for name, leg in hits.legs.items() if leg.degraded}


def legs(hits: Hits) -> dict[str, Leg]:
    """Return by leg what it did."""
    return {
        name: Leg(returned=leg.returned, ms=round(leg.ms, 2), degraded=leg.degraded) for name, leg in hits.legs.items()
    }


def shown_length(text: str) -> int:
    """Return how many characters the beginning of a text has as it is shown, where some stand as their codes."""
    return len(neutral(text))


def search_conversations(
    scope: Scope,
    query: str,
    *,
    project: str | None,
    k: int,
    mode: str,
    filters: str | Mapping[str, Any] | None,
    max_tokens: int,
) -> Conversations:
    """Return the messages of a project's conversations that answer a question best. Raises as `Knowlex.search`."""
    of = scope.project(project)
    hits = scope.kb.search(of.id, query, k, mode=mode, sources=("messages",), filters=filters)
    budget = Budget(max_tokens)
    said = list(_said(scope, of.id, hits))
    shown = [
        Said(
            rank=hit.rank,
            score=hit.score,
            id=hit.id,
            conversation_id=conversation.id,
            conversation=conversation.title,
            role=message.role.value,
            created_at=message.created_at,
            text=kept[0],
            cut=kept[1],
        )
        for hit, message, conversation in said
        if (kept := budget.take(neutral(text_of(message.content))))
    ]
    return Conversations(
        project=of.name,
        degraded=degraded(hits),
        legs=legs(hits),
        notes=list(hits.notes),
        left_out=len(said) - len(shown),
        messages=shown,
    )


def _said(scope: Scope, project_id: str, hits: Hits) -> Iterable[tuple[Hit, Message, Conversation]]:
    """Yield who said what was found, and where; what was deleted, or moved elsewhere, since it was found is gone."""
    for hit in hits:
        try:
            message = scope.kb.conversations.message(hit.id)
            conversation = scope.kb.conversations.details(message.conversation_id)
        except NotFoundError:
            continue
        if conversation.project_id == project_id:
            yield hit, message, conversation
