"""Settings that programs keep in the database; Knowlex reads none of them. They belong to no project."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from knowlex import config
from knowlex.server.dependencies import Caller, KnowledgeBase
from knowlex.server.routes.shared import After, Body, Limit, Page
from storage.errors import ForbiddenError, NotFoundError

router = APIRouter(prefix="/settings", tags=["settings"])

Key = Annotated[str, Path(description="The name of a setting.", examples=["theme"])]


class Value(Body):
    """A value to keep."""

    value: Any = Field(description="Any JSON value.")


class Setting(BaseModel):
    """A setting and its value."""

    key: str
    value: Any


@router.get("")
def list_settings(
    kb: KnowledgeBase,
    caller: Caller,
    prefix: Annotated[str, Query(description="Only keys that start so.")] = "",
    limit: Limit = 100,
    after: After = None,
) -> Page[Setting]:
    """List settings, sorted by key. A token that is bound to projects sees none."""
    page = kb.settings.page(prefix, limit=limit, after=after)
    if not caller.everywhere:
        return Page(items=[], next=None)
    return Page(items=[Setting(key=key, value=value) for key, value in page], next=page.next)


@router.get("/{key:path}")
def get_setting(key: Key, kb: KnowledgeBase, caller: Caller) -> Setting:
    """Return a setting."""
    if not caller.everywhere:
        raise _not_set(key)
    try:
        return Setting(key=key, value=kb.settings[key])
    except NotFoundError:
        raise _not_set(key) from None


@router.put("/{key:path}")
def set_setting(key: Key, body: Value, kb: KnowledgeBase, caller: Caller) -> Setting:
    """Keep a value. What Knowlex itself is set by, as its model, no request can change."""
    caller.require_write("set a setting")
    caller.require_everything("set a setting")
    if config.known(key):
        raise ForbiddenError(
            f"setting {key}: is one of Knowlex itself, which is set where the server runs; use another"
        )
    kb.settings[key] = body.value
    return Setting(key=key, value=body.value)


@router.delete("/{key:path}", status_code=204)
def delete_setting(key: Key, kb: KnowledgeBase, caller: Caller) -> None:
    """Forget a setting."""
    caller.require_write("delete a setting")
    if not caller.everywhere:
        raise _not_set(key)
    try:
        del kb.settings[key]
    except NotFoundError:
        raise _not_set(key) from None


def _not_set(key: str) -> NotFoundError:
    return NotFoundError(f"setting {key}: not set; GET /v1/settings lists those there are")
