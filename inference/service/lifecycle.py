"""Lifecycle events of a request: queued, admitted, new tokens, finished.

The service reports the events; observers turn them into metrics, traces and logs. Nothing here stores prompts
or answers: an observer that needs them is passed them, and keeps them itself.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.errors import ApiError
    from inference.service.requests import TextRequest

Outcome = Literal["stop", "length", "abort", "error"]
"""How a choice ended: the engine's finish reason, or that the client disconnected or the server failed."""


class Observer(Protocol):
    """A receiver of request lifecycle events.

    Methods are called on the event loop's thread; they must neither raise nor block.
    """

    def on_queued(self, lifecycle: RequestLifecycle) -> None:
        """Handle a request that was accepted; it has its slots, or waits for them."""

    def on_admitted(self, lifecycle: RequestLifecycle) -> None:
        """Handle a request that got its slots."""

    def on_tokens(self, lifecycle: RequestLifecycle, tokens: int, gap_s: float | None, text: str) -> None:
        """Handle new tokens of a choice.

        Args:
            lifecycle: The request.
            tokens: How many there are.
            gap_s: The time since the choice's previous tokens; None for its first ones.
            text: The text that they complete; may be empty.
        """

    def on_finished(self, lifecycle: RequestLifecycle) -> None:
        """Handle the end of a request. Called once for each request that was queued."""

    def on_rejected(self, request: TextRequest, error: ApiError) -> None:
        """Handle a request that was not accepted."""


@dataclass(slots=True)
class RequestContext:
    """One HTTP request, for its access log line and its trace.

    Attributes:
        key_name: The name of the API key; `-` for none.
        trace_id: The id of its trace; None where there is none.
        rejection_code: The error code if the middleware rejected it.
        lifecycles: The text requests that it led to.
    """

    request_id: str
    key_name: str = "-"
    trace_id: str | None = None
    rejection_code: str | None = None
    lifecycles: list[RequestLifecycle] = field(default_factory=list)


REQUEST_CONTEXT: Final[ContextVar[RequestContext | None]] = ContextVar("request_context", default=None)
"""The HTTP request that the running code belongs to."""


class RequestLifecycle:
    """The progress of one text request, reported to observers. Times are of `clock`.

    Args:
        request: The request.
        prompt_tokens: The length of its prompt.
        observers: The receivers of its events.
        clock: Returns monotonic seconds.

    Attributes:
        completion_tokens: The number of tokens generated so far, in all choices.
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
        self.queued_at = clock()
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.finished_at: float | None = None
        self._last_token_at: dict[int, float] = {}
        self._observers = observers
        self._clock = clock
        context = REQUEST_CONTEXT.get()
        # Background work that a request has started inherits its context; its own requests have other ids.
        if context is not None and context.request_id == request.request_id:
            context.lifecycles.append(self)
        for observer in observers:
            observer.on_queued(self)

    @property
    def time_to_first_token_s(self) -> float | None:
        """Return the time until the first token, queueing included; None before it."""
        return None if self.first_token_at is None else self.first_token_at - self.queued_at

    def admit(self) -> None:
        """Record that the request got its slots; idempotent."""
        if self.admitted_at is None:
            self.admitted_at = self._clock()
            for observer in self._observers:
                observer.on_admitted(self)

    def add_tokens(self, tokens: int, text: str, choice: int = 0) -> None:
        """Record new tokens of a choice, and the text that they complete."""
        now = self._clock()
        if self.first_token_at is None:
            self.first_token_at = now
        last = self._last_token_at.get(choice)
        self._last_token_at[choice] = now
        self.completion_tokens += tokens
        for observer in self._observers:
            observer.on_tokens(self, tokens, None if last is None else now - last, text)

    def finish_choice(self, outcome: Outcome) -> None:
        """Record how a choice ended. `finish` follows when all have."""
        self.outcomes.append(outcome)

    def finish(self, outcome: Outcome = "abort", error_code: str | None = None) -> None:
        """Record the request's end; idempotent.

        Args:
            outcome: How it ended, if it failed or none of its choices has finished.
            error_code: The code of the error, if it failed.
        """
        if self.finished_at is not None:
            return
        self.finished_at = self._clock()
        self.error_code = error_code
        if outcome == "error" or not self.outcomes:
            self.outcomes.append(outcome)
        for observer in self._observers:
            observer.on_finished(self)
