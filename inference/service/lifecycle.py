"""Follow a request through the server: when it came, was let in, said its first word, and ended.

The service reports what happens, observers make of it what they are for: numbers, traces, logs. Nothing here
holds what was asked or answered; an observer that wants it is handed it and keeps it itself.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.errors import ApiError
    from inference.service.service import TextRequest

Outcome = Literal["stop", "length", "abort", "error"]
"""How a request ended: as the engine says it, by the client's leaving, or by an error of ours."""


class Observer(Protocol):
    """Be told of what happens to requests. Called on the event loop's thread; must not raise, nor wait."""

    def came(self, passage: Passage) -> None:
        """Note a request that has its place, inside or in the queue."""

    def admitted(self, passage: Passage) -> None:
        """Note that it is let in."""

    def said(self, passage: Passage, tokens: int, gap_s: float | None, text: str) -> None:
        """Note new tokens, the time since the choice's last ones (None: it has none), and what they show."""

    def ended(self, passage: Passage) -> None:
        """Note its end; it comes once."""

    def refused(self, request: TextRequest, error: ApiError) -> None:
        """Note a request that was given no place."""


@dataclass(slots=True)
class RequestContext:
    """Be one HTTP request, as far as its logs and its trace want to know it.

    Attributes:
        key_name: The name of the key that opened the way; `-` for none.
        trace_id: By which a trace of it is found; None where there is none.
        refusal: The code of the error with which it was turned away at the edge.
        passages: The requests for text that came of it.
    """

    request_id: str
    key_name: str = "-"
    trace_id: str | None = None
    refusal: str | None = None
    passages: list[Passage] = field(default_factory=list)


REQUEST_CONTEXT: Final[ContextVar[RequestContext | None]] = ContextVar("request_context", default=None)
"""The HTTP request that the running code is about."""


class Passage:
    """Be one request on its way. The service calls its methods; times are of `clock`.

    Args:
        request: What is asked.
        prompt_tokens: How long the prompt is.
        observers: Who is told.
        clock: Returns seconds that only grow.

    Attributes:
        completion_tokens: How many tokens came so far, in all choices.
        outcomes: How its choices ended.
        error_code: The code of the error that ended it.
    """

    def __init__(
        self,
        request: TextRequest,
        prompt_tokens: int,
        observers: Sequence[Observer],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request = request
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.outcomes: list[Outcome] = []
        self.error_code: str | None = None
        self.came_at = clock()
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self._last_token_at: dict[int, float] = {}
        self._observers = observers
        self._clock = clock
        context = REQUEST_CONTEXT.get()
        # Work that a request has begun keeps its context: only what is the request's own is counted as its.
        if context is not None and context.request_id == request.request_id:
            context.passages.append(self)
        for observer in observers:
            observer.came(self)

    @property
    def time_to_first_token_s(self) -> float | None:
        """Return how long the first token took, waiting included."""
        return None if self.first_token_at is None else self.first_token_at - self.came_at

    def admitted(self) -> None:
        """Note that the request is let in; once or more."""
        if self.admitted_at is None:
            self.admitted_at = self._clock()
            for observer in self._observers:
                observer.admitted(self)

    def said(self, tokens: int, text: str, choice: int = 0) -> None:
        """Note new tokens of a choice, and what they show as."""
        now = self._clock()
        if self.first_token_at is None:
            self.first_token_at = now
        last = self._last_token_at.get(choice)
        self._last_token_at[choice] = now
        self.completion_tokens += tokens
        for observer in self._observers:
            observer.said(self, tokens, None if last is None else now - last, text)

    def finished(self, outcome: Outcome) -> None:
        """Note how a choice ended; `ended` says that all have."""
        self.outcomes.append(outcome)

    def ended(self, outcome: Outcome = "abort", error_code: str | None = None) -> None:
        """Note the request's end; idempotent.

        Args:
            outcome: What happened to it, if none of its choices has been noted as finished, or it failed.
            error_code: Of what error.
        """
        if self.ended_at is not None:
            return
        self.ended_at = self._clock()
        self.error_code = error_code
        if outcome == "error" or not self.outcomes:
            self.outcomes.append(outcome)
        for observer in self._observers:
            observer.ended(self)
