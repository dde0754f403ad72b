"""The clock that the pipeline uses to wait, and to measure how long it waited."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A source of time. Tests use one that they control."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""

    def elapsed_s(self) -> float:
        """Return the seconds since a fixed moment. Never decreases."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock(Clock):
    """This machine's clock."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return datetime.now(UTC)

    def elapsed_s(self) -> float:
        """Return the seconds since a fixed moment. Never decreases."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class ManualClock(Clock):
    """A clock for tests, which only `sleep` advances, so that waits of minutes take no time.

    Attributes:
        when: The time of day.
    """

    def __init__(self, when: datetime) -> None:
        self.when = when
        self._start = when

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return self.when

    def elapsed_s(self) -> float:
        """Return seconds since this clock was made."""
        return (self.when - self._start).total_seconds()

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.when += timedelta(seconds=seconds)
