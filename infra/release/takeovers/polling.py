"""Poll an app until something is known: the loop, the requests beside it, and the line with the phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from infra.errors import FjarrError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from infra.clock import Clock
    from infra.console import Step
    from infra.release.takeovers.outcome import Background

T = TypeVar("T")


class PollLoop(Generic[T]):
    """A loop that polls until something is known.

    Args:
        interval_s: The pause between two polls.
        clock: The clock.
        renew_lock: Called in each pause to renew the deploy lock. An error that it raises ends the loop.
    """

    def __init__(self, interval_s: float, clock: Clock, renew_lock: Callable[[], None]) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._renew_lock = renew_lock

    def run(self, poll: Callable[[float], T | None]) -> T:
        """Call a function until it returns a value, and return that.

        Args:
            poll: Takes the time, in seconds of the clock, and returns None while nothing is known.
        """
        while (outcome := poll(self._clock.elapsed_s())) is None:
            self._renew_lock()
            self._clock.sleep(self._interval_s)
        return outcome


@dataclass(slots=True)
class PeriodicRequest(Generic[T]):
    """A request that is sent at intervals in the background, so that polling goes on until it is answered.

    Attributes:
        background: Sends it.
        request: The request.
        interval_s: The time from an answer to the next request.
        next_s: When it is sent next, in seconds of the clock.
    """

    background: Background
    request: Callable[[], T]
    interval_s: float
    next_s: float = 0.0
    _pending: Future[T] | None = None

    def poll(self, now_s: float) -> T | None:
        """Send the request if it is due, and return its answer once there is one.

        A request that fails says nothing about what is waited for, and the next one may succeed.
        """
        if self._pending is None:
            if now_s >= self.next_s:
                self._pending = self.background(self.request)
            return None
        if not self._pending.done():
            return None
        pending, self._pending, self.next_s = self._pending, None, now_s + self.interval_s
        try:
            return pending.result()
        except FjarrError:
            return None


@dataclass(slots=True)
class PhaseLine:
    """The line of a console's step that shows what is waited for.

    Attributes:
        step: The step.
        is_terminal: Whether the line is written at each poll. If not, it is written when it has changed.
        start_s: When the wait began, in seconds of the clock.
    """

    step: Step
    is_terminal: bool
    start_s: float
    _shown: str = ""

    def show(self, phase: str, percent: str, last_line: str, now_s: float) -> None:
        """Show a phase.

        Args:
            phase: What is waited for.
            percent: How far it is, as text.
            last_line: The last line of the log; empty leaves it out.
            now_s: The time, in seconds of the clock.
        """
        line = f": {last_line}" if last_line else ""
        if f"{phase}{percent}{line}" != self._shown or self.is_terminal:
            self._shown = f"{phase}{percent}{line}"
            self.step.enter(phase, f"{percent} ({now_s - self.start_s:.0f} s){line}")
