"""Tell the time, and let it pass: the one place where the pipeline's waiting touches the clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tell the time of day and the time that has passed; tests bring a clock of their own."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""

    def elapsed_s(self) -> float:
        """Return seconds since some fixed moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock(Clock):
    """Use this machine's clock."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return datetime.now(UTC)

    def elapsed_s(self) -> float:
        """Return seconds since some fixed moment; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class ManualClock(Clock):
    """Stand still until somebody sleeps: waits of minutes take no time in a test.

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
        """Move the time on."""
        self.when += timedelta(seconds=seconds)
