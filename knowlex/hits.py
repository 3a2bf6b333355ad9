"""What a search found: a list of hits that shows itself in a notebook and turns into a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, overload

from knowlex import notebook
from knowlex.notebook import escaped
from knowlex.terminal import emphasised, from_here, one_line, paragraph, quantity
from pipeline.answer import Answer, Hit, Leg

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["Hit", "Hits", "Leg"]

# The contract of `search --json`, in its order; what else a hit holds is said where it was asked for.
_KEYS = (
    "rank",
    "score",
    "source",
    "id",
    "file_id",
    "file",
    "path",
    "page_start",
    "page_end",
    "heading",
    "char_start",
    "char_end",
    "text",
    "snippet",
    "text_rank",
    "text_score",
    "vector_rank",
    "vector_score",
    "repeated",
    "link",
)
_HEAD = ("", "score", "passage", "where", "by words", "by meaning")


class Hits(Sequence[Hit]):
    """The hits of one question, best first, and how they were found.

    legs: by name ("text", "vector") what the leg returned, how long it took, and why it was degraded, if
    it was. took_ms: of the search, but for its snippets, which are made when they are read. notes: passages that were
    found and cannot be read, how many hits max_tokens had no room for, how many files still wait to be read, and where
    nothing was found, what else was left out.
    more: what else of each hit is told, as it was asked for.
    """

    def __init__(self, answer: Answer, project: str, *, more: Sequence[str] = ()) -> None:
        self.query = answer.query
        self.mode = answer.mode
        self.project = project
        self.took_ms = answer.took_ms
        self.notes = answer.notes
        self.legs: Mapping[str, Leg] = answer.legs
        self._hits = tuple(answer.hits)
        self.more = tuple(more)
        self._keys = (*_KEYS, *more)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        """Return the hit at a place, from 0, or several."""
        return self._hits[index]

    def __len__(self) -> int:
        """Return the number of hits."""
        return len(self._hits)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values: the contract of `search --json`; `notes` only where there are some."""
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {
            "query": self.query,
            "mode": self.mode,
            "project": self.project,
            "took_ms": round(self.took_ms, 2),
            "legs": {name: asdict(leg) | {"ms": round(leg.ms, 2)} for name, leg in self.legs.items()},
            "hits": self._rows(),
            **notes,
        }

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row a hit. Raises ConfigurationError where pandas is not installed."""
        return notebook.frame(self._rows(), self._keys)

    def _rows(self) -> list[dict[str, Any]]:
        # Not dataclasses.asdict, which copies deeply: that costs more than the search of a small project.
        return [{key: _value(getattr(hit, key)) for key in self._keys} for hit in self._hits]

    def __repr__(self) -> str:
        names = file_names(self)
        found = (f"{hit.rank:3} {hit.score:.3f} {place(hit, names)}" for hit in self._hits)
        head = f"Hits({self.query!r}, {len(self)} in {self.took_ms:.0f} ms)"
        return "\n".join([head, *map(one_line, self._told()), *found])

    def _told(self) -> list[str]:
        """Return what was lacking and what is to be said, each in a line."""
        degraded = (f"{name} leg: {leg.degraded}" for name, leg in self.legs.items() if leg.degraded)
        return [*degraded, *self.notes]

    def _repr_html_(self) -> str:
        """Show the hits as a table, in a notebook; every text of a document is escaped."""
        title = f"{quantity(len(self), 'passage')} for <b>{escaped(self.query)}</b> in {self.took_ms:.0f} ms"
        names = file_names(self)
        shown = [notebook.paragraph(title), *(notebook.paragraph(escaped(note)) for note in self._told())]
        return "".join(shown) + notebook.table(_HEAD, (_html_row(hit, names) for hit in self._hits))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Return what Jupyter may show: HTML, and plain text elsewhere."""
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


def file_names(hits: Iterable[Hit]) -> dict[str, str]:
    """Return by path what people call the file of a hit: an attachment by its mail and its name, others by the name.

    Files among these hits that would be called the same are called by their paths, from the working directory on where
    they lie below it.
    """
    names = {hit.path: _file_name(hit, hit.path) for hit in hits if hit.path is not None}
    called = Counter(names.values())
    return {path: from_here(path) if called[name] > 1 else name for path, name in names.items()}


def _file_name(hit: Hit, path: str) -> str:
    if hit.container is None:
        return hit.file or path
    return path[hit.container.rfind("/") + 1 :]


def place(hit: Hit, names: Mapping[str, str]) -> str:
    """Return where a hit stands, as people write it: file:page, or what kind of passage it is.

    names: of the files of all hits that are shown, see `file_names`.
    """
    if hit.path is None:
        return f"{hit.source.value} {hit.id}"
    return one_line(names[hit.path]) + (f":{pages(hit.page_start, hit.page_end)}" if hit.page_start else "")


def pages(first: int | None, last: int | None) -> str:
    """Return a range of pages as people write it; empty without pages."""
    if first is None:
        return ""
    return str(first) if last in (None, first) else f"{first}-{last}"


def _value(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _html_row(hit: Hit, names: Mapping[str, str]) -> Iterable[str]:
    heading = f"<b>{escaped(hit.heading)}</b><br>" if hit.heading else ""
    yield str(hit.rank)
    yield f"{hit.score:.3f}"
    yield heading + _marked(hit.snippet)
    yield notebook.titled(place(hit, names), hit.id if hit.path is None else from_here(hit.path))
    yield _leg(hit.text_rank, hit.text_score)
    yield _leg(hit.vector_rank, hit.vector_score)


def _leg(rank: int | None, score: float | None) -> str:
    return "–" if rank is None or score is None else f"{rank} ({score:.2f})"


def _marked(snippet: str) -> str:
    """Return a snippet as HTML in which nothing but <mark> is markup."""
    return escaped(snippet).replace("&lt;mark&gt;", "<mark>").replace("&lt;/mark&gt;", "</mark>")


def as_text(hits: Hits, *, bold: bool) -> str:
    """Return the hits for a terminal: place, score and heading of each, and below them its snippet.

    Hits that were merged, or that are asked for with what is around them, are there to be read: their whole text.
    """
    names = file_names(hits)
    return "\n\n".join(_as_text(hit, place(hit, names), hits.more, bold=bold) for hit in hits) or "nothing found"


def _as_text(hit: Hit, where: str, more: Sequence[str], *, bold: bool) -> str:
    heading = f"  {one_line(hit.heading)}" if hit.heading else ""
    found = hit.marked if hit.merged or "before" in more else hit.snippet
    text = emphasised(" ".join(found.split()), bold=bold)
    also = hit.also if "also" in more else ()
    places = f"(also in {', '.join(one_line(from_here(path)) for path in also)})" if also else ""
    shown = (one_line(hit.before), text, one_line(hit.after), places, _explained(hit))
    return "\n".join(
        [f"{hit.rank:2}  {hit.score:.3f}  {where}{heading}", *(paragraph(text, "    ") for text in shown if text)]
    )


def _explained(hit: Hit) -> str:
    if not hit.why:
        return ""
    factors = ", ".join(f"{name} {value:.3f}" for name, value in hit.why.items())
    words, meaning = _leg(hit.text_rank, hit.text_score), _leg(hit.vector_rank, hit.vector_score)
    return f"(by words {words}, by meaning {meaning}; {factors})"
