"""Incremental detokenization and stop strings.

`Detokenizer` never emits a character before all of its bytes have arrived; `StopFinder` never emits text that
may be the beginning of a stop string. Neither does any input or output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPLACEMENT: Final = "\ufffd"

MAX_PENDING: Final = 3
"""A character has at most 4 bytes, so at most 3 wait for the last; they decode to one to three U+FFFD."""

CONTEXT_TOKENS: Final = 6
"""The number of emitted tokens that are decoded again with the new ones, as their context."""


class Detokenizer:
    """A decoder of a growing list of tokens.

    Args:
        decode: Returns the text of token ids, without special tokens. Bytes that are not UTF-8 become U+FFFD.

    Decoding each token by itself would lose what depends on its neighbours: the bytes of one character, and
    the space before a word in SentencePiece vocabularies. So a window of tokens is decoded, and the text
    beyond that of the previous call is new.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._emitted = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens and return the text that is complete now."""
        self._window.extend(token_ids)
        text = self._decode(self._window)
        pending = len(text) - len(text.rstrip(REPLACEMENT))
        return self._emit(text, len(text) - min(pending, MAX_PENDING))

    def finish(self) -> str:
        """Return what was held back; no tokens follow."""
        text = self._decode(self._window)
        return self._emit(text, len(text))

    def _emit(self, text: str, end: int) -> str:
        new = text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        if end == len(text) and len(self._window) > CONTEXT_TOKENS:
            self._window = self._window[-CONTEXT_TOKENS:]
            self._emitted = len(self._decode(self._window))
        return new


class StopFinder:
    """A filter that emits text up to the first stop string.

    Args:
        stops: The strings.
        keeps_stop: Emit the string that was found, too.

    Attributes:
        found: The one that was found; nothing more is emitted then. None before.
    """

    def __init__(self, stops: Sequence[str], *, keeps_stop: bool = False) -> None:
        self._stops = tuple(stops)
        self._keeps_stop = keeps_stop
        self._held = ""
        self.found: str | None = None

    @property
    def is_found(self) -> bool:
        """Return whether one was found."""
        return self.found is not None

    def push(self, text: str) -> str:
        """Add text and return what can be emitted now."""
        if self.is_found or not self._stops:
            return "" if self.is_found else text
        self._held += text
        ends = [
            (index + (len(stop) if self._keeps_stop else 0), stop)
            for stop in self._stops
            if (index := self._held.find(stop)) >= 0
        ]
        if ends:
            end, self.found = min(ends)
            return self._release(end)
        return self._release(len(self._held) - longest_partial_match(self._held, self._stops))

    def finish(self) -> str:
        """Return what was held back; no text follows."""
        return "" if self.is_found else self._release(len(self._held))

    def _release(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text


def longest_partial_match(text: str, strings: Sequence[str]) -> int:
    """Return how many characters at the end of a text begin one of the strings, but do not complete it."""
    longest = max(len(string) for string in strings) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[-length:]
        if any(string.startswith(tail) for string in strings):
            return length
    return 0
