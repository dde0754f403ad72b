"""Count crashes in a row, to end a container that cannot be helped by another start. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_CRASHES: Final = 3
"""After this many crashes in a row the container ends, and the platform starts another one."""

STABLE_S: Final = 60.0
"""A process that was ready for this long before its crash begins a new row."""


@dataclass(slots=True)
class CrashCounter:
    """The crashes of one kind of process in a row."""

    in_a_row: int = 0

    def record(self, ready_s: float) -> bool:
        """Record a crash, and return whether it was the last that is accepted.

        Args:
            ready_s: How long the process had been ready; 0 if it never was.
        """
        self.in_a_row = 1 if ready_s >= STABLE_S else self.in_a_row + 1
        return self.in_a_row >= MAX_CRASHES
