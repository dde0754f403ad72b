"""Let so many requests generate, so many more wait, and turn the rest away.

Both ways in, the API and the chat, go through the same door. First come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque

from inference.errors import OverloadedError


class Door:
    """Count who is inside and who waits.

    Args:
        places: How many may be inside.
        waiting_places: How many may wait.
    """

    def __init__(self, places: int, waiting_places: int) -> None:
        self._places = places
        self._waiting_places = waiting_places
        self._waiting: deque[Ticket] = deque()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Return how many are inside."""
        return self._inside

    @property
    def waiting(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def enter(self) -> Ticket:
        """Take a ticket, which is a place inside or one in the queue.

        Raises:
            OverloadedError: If the queue is full.
        """
        if self._inside >= self._places and len(self._waiting) >= self._waiting_places:
            raise OverloadedError(
                f"{self._inside} requests are being answered and {len(self._waiting)} wait, which is all this"
                " server takes. Try again shortly.",
                headers={"Retry-After": "2"},
            )
        ticket = Ticket(self)
        self._empty.clear()
        if self._inside < self._places:
            self._admit(ticket)
        else:
            self._waiting.append(ticket)
        return ticket

    async def wait_until_empty(self) -> None:
        """Return when nobody is inside and nobody waits."""
        await self._empty.wait()

    def _admit(self, ticket: Ticket) -> None:
        self._inside += 1
        ticket.admit()

    def _leave(self, ticket: Ticket) -> None:
        if ticket.is_admitted:
            self._inside -= 1
        else:
            self._waiting.remove(ticket)
        while self._waiting and self._inside < self._places:
            self._admit(self._waiting.popleft())
        if self._inside == 0:
            self._empty.set()


class Ticket:
    """Be one request's place. `leave` must be called, once or more."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._is_admitted = False
        self._has_left = False
        self._news = asyncio.Event()

    @property
    def is_admitted(self) -> bool:
        """Return whether the holder is, or was, inside."""
        return self._is_admitted

    def admit(self) -> None:
        """Let the holder in. For the door."""
        self._is_admitted = True
        self._news.set()

    async def wait(self) -> None:
        """Return when the holder is inside, or has left."""
        await self._news.wait()

    def leave(self) -> None:
        """Give the place back; idempotent."""
        if not self._has_left:
            self._has_left = True
            self._news.set()
            self._door._leave(self)  # noqa: SLF001 - the two are one thing
