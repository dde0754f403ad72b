"""Log-probabilities of tokens, held back until the tokens' text is emitted.

Text is held back for incomplete characters and for possible stop strings, and some is never emitted. A token
is listed if its text, or the beginning of it, is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.engines.protocol import TokenLogprobs
    from inference.text.codec import Token

MIN_LOGPROB: Final = -9999.0
"""Sent for minus infinity, which JSON cannot represent. Source: OpenAI API reference, "logprobs"."""


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token and its log-probability.

    Attributes:
        logprob: The natural logarithm of its probability; None for the first token of a prompt.
    """

    token: Token
    logprob: float | None


@dataclass(frozen=True, slots=True)
class LogprobEntry:
    """The log-probabilities at one position of an answer.

    Attributes:
        chosen: The token that was generated.
        offset: How many characters of the answer come before it.
        top: The likeliest tokens at this position, the likeliest first.
    """

    chosen: Logprob
    offset: int
    top: tuple[Logprob, ...]


@dataclass(frozen=True, slots=True)
class PromptLogprob:
    """A token in one place of a prompt, and its log-probability there.

    Attributes:
        rank: Its place among all tokens, the likeliest first, from 1; None if the engine does not say it.
    """

    token_id: int
    token: Token
    logprob: float
    rank: int | None


PromptLogprobs = tuple[tuple[PromptLogprob, ...], ...]
"""For each token of a prompt, the token itself and the likeliest ones in its place; empty for the first."""


class LogprobLedger:
    """The entries of the tokens whose text has not been emitted yet.

    Args:
        token: Returns a token by its id.
    """

    def __init__(self, token: Callable[[int], Token]) -> None:
        self._token = token
        self._held: deque[LogprobEntry] = deque()

    def add(self, token_id: int, logprobs: TokenLogprobs | None, offset: int) -> None:
        """Add a token that `offset` characters of the answer come before; None for a prompt's first token."""
        if logprobs is None:
            self._held.append(LogprobEntry(Logprob(self._token(token_id), None), offset, ()))
            return
        top = tuple(self._logprob(each, logprob) for each, logprob in logprobs.top)
        self._held.append(LogprobEntry(self._logprob(token_id, logprobs.chosen), offset, top))

    def release(self, emitted: float) -> tuple[LogprobEntry, ...]:
        """Return, once each, the entries of tokens that begin within the first `emitted` characters.

        Infinity returns all of them, those without text too.
        """
        released = []
        while self._held and self._held[0].offset < emitted:
            released.append(self._held.popleft())
        return tuple(released)

    def _logprob(self, token_id: int, logprob: float) -> Logprob:
        return Logprob(self._token(token_id), _clamp(logprob))


def list_prompt_logprobs(
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprobs],
    count: int,
    token: Callable[[int], Token],
) -> PromptLogprobs:
    """Return the log-probabilities of a prompt's tokens, and those of the likeliest in their places.

    Args:
        token_ids: The prompt.
        entries: One for each of its tokens but the first.
        count: How many of the likeliest tokens to list.
        token: Returns a token by its id.
    """
    found: list[tuple[PromptLogprob, ...]] = [()]
    for token_id, entry in zip(token_ids[1:], entries, strict=True):
        # The prompt's own token comes first, whatever its rank.
        ranked: dict[int, tuple[float, int | None]] = {token_id: (entry.chosen, entry.rank)}
        for rank, (each, logprob) in enumerate(entry.top[:count], start=1):
            ranked.setdefault(each, (logprob, rank))
        found.append(
            tuple(
                PromptLogprob(each, token(each), _clamp(logprob), rank)
                for each, (logprob, rank) in ranked.items()
            )
        )
    return tuple(found)


def _clamp(logprob: float) -> float:
    # The order of the arguments makes NaN the minimum, too.
    return max(MIN_LOGPROB, logprob)
