"""Keep tokens' log-probabilities until the text that the tokens made is shown.

Text is held back, for characters that are not whole and for what may become a stop string, and some is never
shown. A token is listed if its text, or the beginning of it, is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engines.protocol import TokenLogprobs
    from inference.text.codec import Token

UNLIKELY: Final = -9999.0
"""What stands for minus infinity, which JSON has no number for. Source: OpenAI API reference, "logprobs"."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Say how likely a token was.

    Attributes:
        logprob: The natural logarithm of its probability.
    """

    token: Token
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenReport:
    """Report one token of an answer.

    Attributes:
        offset: How many characters of the answer came before it.
        top: The likeliest tokens of the step, the likeliest first.
    """

    chosen: Likelihood
    offset: int
    top: tuple[Likelihood, ...]


class LogprobLedger:
    """Hold reports until their text is shown.

    Args:
        show: Shows a token by itself.
    """

    def __init__(self, show: Callable[[int], Token]) -> None:
        self._show = show
        self._held: deque[TokenReport] = deque()

    def add(self, token_id: int, logprobs: TokenLogprobs, offset: int) -> None:
        """Note a token, and how many characters the answer had before it."""
        top = tuple(self._report(each, logprob) for each, logprob in logprobs.top)
        self._held.append(TokenReport(self._report(token_id, logprobs.chosen), offset, top))

    def release(self, shown: int) -> tuple[TokenReport, ...]:
        """Return the reports of tokens that begin within the characters shown so far, each once."""
        released = []
        while self._held and self._held[0].offset < shown:
            released.append(self._held.popleft())
        return tuple(released)

    def _report(self, token_id: int, logprob: float) -> Likelihood:
        # In this order it takes a NaN for never, too.
        return Likelihood(self._show(token_id), max(UNLIKELY, logprob))
