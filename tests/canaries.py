"""Words that must not get out: planted by a test, and looked for in all that was said."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass
class Canaries:
    """Words by what they were planted as, such as "token", "text", "query" or "home".

    canaries.new("text") gives a word that stands nowhere else; canaries.note("token", made.token) takes one that
    somebody else made, such as a token or a path. `found` returns what of them was said.
    """

    words: dict[str, str] = field(default_factory=dict[str, str])

    def new(self, kind: str) -> str:
        """Return a new word for a text, a name or a question."""
        return self.note(kind, f"canary{secrets.token_hex(8)}zq")

    def note(self, kind: str, word: str) -> str:
        """Look for this word, too, and return it."""
        assert len(word) >= 4, "so short a word is found by chance"
        self.words[word] = kind
        return word

    def found(self, *said: str | bytes) -> list[str]:
        """Return the kind of each word that was said, in any case, also as URLs, JSON, hex or base64 write it."""
        texts = [(each.decode("utf8", "replace") if isinstance(each, bytes) else each) for each in said]
        told = "\n".join(texts)
        return sorted(kind for word, kind in self.words.items() if any(form in told.lower() for form in _forms(word)))


def _forms(word: str) -> set[str]:
    plain = word.encode("utf8")
    # Of base64 what stands alone, and what other bytes before it shift by one or two.
    shifted = (base64.b64encode(b"x" * by + plain)[4 * bool(by) : -4] for by in range(3))
    forms = {word, quote(word, safe=""), quote(word), json.dumps(word)[1:-1], plain.hex()}
    return {form.lower() for form in (*forms, *(piece.decode("ascii") for piece in shifted if len(piece) > 8))}
