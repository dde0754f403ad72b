"""Let so many requests generate, so many more wait, and turn the rest away.

Both ways in, the API and the chat, go through the same door. Who waits is let in by turns of the keys, first
come first served within a key, so that the many requests of one do not hold up the few of another.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Final

from inference.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

GUESSED_RETRY_S: Final = 2
MOST_RETRY_S: Final = 60
NEWEST_SHARE: Final = 0.2
"""How much the request that left last counts in the mean of how long requests stay."""


class Door:
    """Count who is inside and who waits.

    Args:
        places: How many may be inside. A request with several choices takes a place for each.
        waiting_places: How many requests may wait.
        places_per_key: How many places one key may have, inside and waiting together; None sets no limit.
        clock: Returns seconds.
    """

    def __init__(
        self,
        places: int,
        waiting_places: int,
        places_per_key: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._waiting_places = waiting_places
        self._places_per_key = places_per_key
        self._clock = clock
        # The keys in the order of their turns, and the tickets of each in the order in which they came.
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._inside = 0
        self._mean_stay_s: float | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def most_places(self) -> int:
        """Return how many places one request can ever have."""
        return min(self._places, self._places_per_key or self._places)

    @property
    def inside(self) -> int:
        """Return how many places are taken."""
        return self._inside

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return sum(len(queue) for queue in self._waiting.values())

    def enter(self, client: str = "-", places: int = 1) -> Ticket:
        """Take a ticket, which is for places inside, all at once, or for one in the queue.

        Where the queue is full, a key that has the most in it yields: the request of it that came last is
        turned away, unless the newcomer's own key has as many.

        Args:
            client: The name of the key that asks.
            places: How many places the request takes, at most `most_places`: for more it would wait for ever.

        Raises:
            OverloadedError: If the queue is full, or the key has all that a key may have.
        """
        self._require_share(client, places)
        ticket = Ticket(self, client, places)
        if self._waiting or self._inside + places > self._places:
            self._make_room(client)
            self._waiting.setdefault(client, deque()).append(ticket)
        else:
            self._admit(ticket)
        self._held[client] += places
        self._empty.clear()
        return ticket

    async def wait_until_empty(self) -> None:
        """Return when nobody is inside and nobody waits."""
        await self._empty.wait()

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket back and let in who fits now. For `Ticket.leave`, which does it once."""
        self._release(ticket)
        if ticket.admitted_at is None:
            self._withdraw(ticket)
        else:
            self._inside -= ticket.places
            self._note_stay(self._clock() - ticket.admitted_at)
        self._admit_who_fits()
        if self._inside == 0:
            self._empty.set()

    def _require_share(self, client: str, places: int) -> None:
        most, held = self._places_per_key, self._held[client]
        if most is not None and held + places > most:
            raise OverloadedError(
                f"The key {client!r} has {held} answers being written or waiting, and one key may have"
                f" {most}. Wait for one of them to end.",
                code="key_limit_exceeded",
                headers={"Retry-After": self._retry_after(0)},
            )

    def _make_room(self, client: str) -> None:
        """See to a place in the queue."""
        if self.waiting < self._waiting_places:
            return
        longest = max(self._waiting.values(), key=len, default=deque[Ticket]())
        if len(longest) <= len(self._waiting.get(client, ())) + 1:
            raise self._overload()
        ticket = longest[-1]
        self._release(ticket)
        self._withdraw(ticket)
        ticket.turn_away(self._overload())

    def _overload(self) -> OverloadedError:
        waiting = self.waiting
        return OverloadedError(
            f"{self._inside} answers are being written and {waiting} requests wait, which is all this server"
            " takes. Try again shortly.",
            headers={"Retry-After": self._retry_after(waiting)},
        )

    def _retry_after(self, ahead: int) -> str:
        """Return after how many seconds to ask again: when as many as wait ahead, and one more, have left."""
        if self._mean_stay_s is None:
            return str(GUESSED_RETRY_S)
        return str(min(max(math.ceil(self._mean_stay_s * (ahead + 1) / self._places), 1), MOST_RETRY_S))

    def _note_stay(self, stay_s: float) -> None:
        mean_s = stay_s if self._mean_stay_s is None else self._mean_stay_s
        self._mean_stay_s = mean_s + NEWEST_SHARE * (stay_s - mean_s)

    def _admit_who_fits(self) -> None:
        # The turn does not pass over who needs more places than are free, or small requests would starve it.
        while self._waiting:
            client, queue = next(iter(self._waiting.items()))
            if self._inside + queue[0].places > self._places:
                return
            ticket = queue.popleft()
            if queue:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            self._admit(ticket)

    def _admit(self, ticket: Ticket) -> None:
        self._inside += ticket.places
        ticket.admit(self._clock())

    def _withdraw(self, ticket: Ticket) -> None:
        queue = self._waiting[ticket.client]
        queue.remove(ticket)
        if not queue:
            del self._waiting[ticket.client]

    def _release(self, ticket: Ticket) -> None:
        self._held[ticket.client] -= ticket.places
        if not self._held[ticket.client]:
            del self._held[ticket.client]


class Ticket:
    """Be one request's places. `leave` must be called, once or more.

    Attributes:
        client: The name of the key that it is for.
        places: How many places it is for.
        admitted_at: When the holder was let in, by the door's clock; None before.
    """

    def __init__(self, door: Door, client: str, places: int) -> None:
        self.client = client
        self.places = places
        self.admitted_at: float | None = None
        self._door = door
        self._has_left = False
        self._refusal: OverloadedError | None = None
        self._news = asyncio.Event()

    @property
    def is_admitted(self) -> bool:
        """Return whether the holder is, or was, inside."""
        return self.admitted_at is not None

    def admit(self, now: float) -> None:
        """Let the holder in. For the door."""
        self.admitted_at = now
        self._news.set()

    def turn_away(self, refusal: OverloadedError) -> None:
        """Send the holder away from the queue. For the door."""
        self._has_left = True
        self._refusal = refusal
        self._news.set()

    async def wait(self) -> None:
        """Return when the holder is inside, or has left.

        Raises:
            OverloadedError: If the holder's place in the queue went to another key.
        """
        await self._news.wait()
        if self._refusal is not None:
            raise self._refusal

    def leave(self) -> None:
        """Give the places back; idempotent."""
        if not self._has_left:
            self._has_left = True
            self._news.set()
            self._door.leave(self)
