"""Forecast when requests start and end: from the engine's speed, and from how long answers have been.

A request states how long its answer may be, not how long it will be. The length is learned from how many
tokens have been generated for each answer that has ended: an average of the lengths of those that have ended
would be too short after a burst, of which the short ones end first.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_LENGTH: Final = 512.0
"""How many tokens an answer is expected to have before any has ended: half of the default limit."""

MARGIN: Final = 2.0
"""Room is kept for answers that are this many times as long as expected. One that is longer than expected is
expected to be this many times as long as it is now."""

PRIOR_ANSWERS: Final = 32.0
"""How many answers the first expectation counts for. Those that run count with their tokens before they count
as answers, so with fewer, a burst would make all answers look long."""

MAX_ANSWERS: Final = 64.0
"""After this many answers, those before count for half."""

LIMIT_SHARE: Final = 0.5
"""The share of the time limit in which the answers that run together should end. The rest is for those that
wait, and for steps that take longer as the contexts grow."""

SMOOTHING_FACTOR: Final = 0.2
"""The weight of the newest answer in a moving average."""

MIN_PACE_TOKENS: Final = 16
"""An answer with fewer tokens says more about its prompt than about the engine's speed."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a request.

    Attributes:
        slots: How many answers it asks for.
        prompt_tokens: The length of its prompts, those of all answers together.
        max_new_tokens: The limit of each answer.
    """

    slots: int = 1
    prompt_tokens: int = 0
    max_new_tokens: int = 0


class Forecast:
    """What is expected of answers.

    Args:
        step_s: Returns the duration of a step by its number of answers; None if it was not measured.
        length: How many tokens an answer is expected to have before any has ended.
    """

    def __init__(self, step_s: Callable[[int], float] | None = None, length: float = DEFAULT_LENGTH) -> None:
        self._step_s = step_s
        self._tokens = PRIOR_ANSWERS * length
        self._answers = PRIOR_ANSWERS
        self._token_s: float | None = None

    @property
    def length(self) -> float:
        """Return how many tokens the next answers are expected to have."""
        return self._tokens / self._answers

    def count_tokens(self, tokens: int) -> None:
        """Count generated tokens."""
        self._tokens += tokens

    def count_ends(self, answers: int, duration_s: float, tokens: float) -> None:
        """Count answers that have ended in any way.

        Args:
            answers: How many there are.
            duration_s: How long they took.
            tokens: How many tokens each of them has, on average.
        """
        self._answers += answers
        if self._answers > MAX_ANSWERS:
            self._answers, self._tokens = self._answers / 2, self._tokens / 2
        if tokens:
            pace_s = duration_s / tokens
            known_s = pace_s if self._token_s is None else self._token_s
            self._token_s = known_s + SMOOTHING_FACTOR * (pace_s - known_s)

    def token_s(self, paces_s: Sequence[float], slots_in_use: int) -> float | None:
        """Return the seconds from one token of an answer to its next; None if nothing is known.

        Args:
            paces_s: The seconds for each token of the answers that run, where they have enough of them.
            slots_in_use: How many answers run.
        """
        if paces_s:
            return sum(paces_s) / len(paces_s)
        return self._token_s if self._step_s is None else self._step_s(max(1, slots_in_use))


def expected_tokens(limit: int, length: float, tokens: float = 0.0) -> float:
    """Return how many tokens an answer will have.

    Args:
        limit: The most that it may have.
        length: How many an answer is expected to have.
        tokens: How many it has now.
    """
    return min(limit, length if tokens < length else MARGIN * tokens)


class Timeline:
    """The times at which slots and room for tokens become free. Times are in seconds from now.

    Args:
        slots: How many slots are free now.
        tokens: For how many tokens there is room now; infinite without a limit.
    """

    def __init__(self, slots: int, tokens: float = math.inf) -> None:
        self._slots = slots
        self._tokens = tokens
        self._ends: list[tuple[float, int, float]] = []
        self._now_s = 0.0

    def add(self, end_s: float, slots: int, tokens: float = 0.0) -> None:
        """Add a request that ends at a time, and frees its slots and its room then."""
        insort(self._ends, (end_s, slots, tokens))

    def find_start(self, slots: int, tokens: float = 0.0) -> float:
        """Return when a request can start, not before those that were started before it.

        A request that is alone starts whatever room it needs.
        """
        free_slots, free_tokens, start_s = self._slots, self._tokens, self._now_s
        for end_s, freed_slots, freed_tokens in self._ends:
            if free_slots >= slots and free_tokens >= tokens:
                break
            free_slots, free_tokens, start_s = free_slots + freed_slots, free_tokens + freed_tokens, end_s
        return max(start_s, self._now_s)

    def start(self, start_s: float, duration_s: float, slots: int, tokens: float = 0.0) -> None:
        """Start a request at a time that `find_start` returned."""
        ended = [end for end in self._ends if end[0] <= start_s]
        self._ends = self._ends[len(ended) :]
        self._slots += sum(slots for _, slots, _ in ended) - slots
        self._tokens += sum(tokens for _, _, tokens in ended) - tokens
        self._now_s = start_s
        self.add(start_s + duration_s, slots, tokens)
