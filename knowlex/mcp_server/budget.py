"""How much of what was found an answer has room for."""

from __future__ import annotations

TOKEN_BYTES = 4
"""Bytes of UTF-8 that are taken for one token: the usual rule of thumb for English."""

WORTH_SHOWING = 50
"""Tokens below which the beginning of a text is rather left out."""


def tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return -(-len(text.encode("utf8", "surrogatepass")) // TOKEN_BYTES)


class Budget:
    """What is left of the tokens that the texts of an answer may have."""

    def __init__(self, max_tokens: int) -> None:
        self._left = max_tokens

    def take(self, text: str) -> tuple[str, bool] | None:
        """Return as much of the next text as fits, and whether something of it was cut off; None: it has no room."""
        size = tokens(text)
        if size <= self._left:
            self._left -= size
            return text, False
        left, self._left = self._left, 0
        if left < WORTH_SHOWING:
            return None
        return text.encode("utf8", "surrogatepass")[: left * TOKEN_BYTES].decode("utf8", "ignore"), True

    def has_room_for(self, text: str) -> bool:
        """Tell whether the next text fits as a whole."""
        return tokens(text) <= self._left
