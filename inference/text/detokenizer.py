"""Turn tokens into text as they come, and stop where the request says.

`Detokenizer` never emits a character before all of its bytes are there; `StopFinder` never emits text that
may turn out to be the beginning of a stop string. Both are pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPLACEMENT: Final = "\ufffd"

MAX_PENDING: Final = 3
"""A character has at most 4 bytes, so at most 3 wait for the last; each, or all, show as one U+FFFD."""

CONTEXT_TOKENS: Final = 6
"""How many tokens already shown are decoded again with the new ones, for what depends on neighbours."""


class Detokenizer:
    """Decode a growing list of tokens, increment by increment.

    Args:
        decode: Turns token ids into text, without special tokens. Bytes that are not UTF-8 become U+FFFD.

    Decoding a token by itself would lose what depends on its neighbours: bytes of one character, and the
    space before a word in SentencePiece vocabularies. So a window of tokens is decoded, and what it shows
    beyond the last time is new.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens and return the text that is certain now."""
        self._window.extend(token_ids)
        text = self._decode(self._window)
        pending = len(text) - len(text.rstrip(REPLACEMENT))
        return self._show(text, len(text) - min(pending, MAX_PENDING))

    def finish(self) -> str:
        """Return what was held back."""
        text = self._decode(self._window)
        return self._show(text, len(text))

    def _show(self, text: str, end: int) -> str:
        new = text[self._shown : end]
        self._shown = max(self._shown, end)
        if end == len(text) and len(self._window) > CONTEXT_TOKENS:
            self._window = self._window[-CONTEXT_TOKENS:]
            self._shown = len(self._decode(self._window))
        return new


class StopFinder:
    """Pass text through up to the first of the stop strings.

    Attributes:
        is_found: Whether one was found; then nothing more passes.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        """Add text and return what may be shown."""
        if self.is_found or not self._stops:
            return "" if self.is_found else text
        self._held += text
        found = [index for stop in self._stops if (index := self._held.find(stop)) >= 0]
        if found:
            self.is_found = True
            return self._release(min(found))
        return self._release(len(self._held) - longest_partial_match(self._held, self._stops))

    def finish(self) -> str:
        """Return what was held back, since no stop string followed."""
        return "" if self.is_found else self._release(len(self._held))

    def _release(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text


def longest_partial_match(text: str, marks: Sequence[str]) -> int:
    """Return how many of a text's last characters are the beginning of a mark, but not all of it."""
    most = max(len(mark) for mark in marks) - 1
    for length in range(min(most, len(text)), 0, -1):
        tail = text[-length:]
        if any(mark.startswith(tail) for mark in marks):
            return length
    return 0
