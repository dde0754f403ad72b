"""Admission control: a limited number of requests generate, a limited number wait, the rest are rejected.

The API and the chat page share one queue. Waiting requests are scheduled round-robin across API keys, and
first come, first served within a key, so that a key with many requests does not delay the others.
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

DEFAULT_RETRY_AFTER_S: Final = 2
"""Sent while no request has finished yet, so that no duration is known."""

MAX_RETRY_AFTER_S: Final = 60
SMOOTHING_FACTOR: Final = 0.2
"""The weight of the newest request in the moving average of how long a request holds its slots."""


class AdmissionQueue:
    """The slots for requests that generate, and the queue of those that wait for one.

    Args:
        slots: How many slots there are. A request takes one for each of its choices.
        max_waiting: How many requests may wait.
        max_slots_per_key: How many slots one key may have, held and waited for together; None sets no limit.
        clock: Returns seconds.
    """

    def __init__(
        self,
        slots: int,
        max_waiting: int,
        max_slots_per_key: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._max_slots_per_key = max_slots_per_key
        self._clock = clock
        # The keys in round-robin order; the waiting requests of each in order of arrival.
        self._waiting: OrderedDict[str, deque[Admission]] = OrderedDict()
        self._slots_by_key: Counter[str] = Counter()
        self._slots_in_use = 0
        self._mean_duration_s: float | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def max_slots_per_request(self) -> int:
        """Return how many slots one request can ever get."""
        return min(self._slots, self._max_slots_per_key or self._slots)

    @property
    def slots_in_use(self) -> int:
        """Return how many slots are taken."""
        return self._slots_in_use

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return sum(len(queue) for queue in self._waiting.values())

    def acquire(self, client: str = "-", slots: int = 1) -> Admission:
        """Take slots for a request, all at once, or queue it until they are free.

        When the queue is full, the key with the longest queue loses its newest request, unless the new
        request's own key would then have as many waiting.

        Args:
            client: The name of the request's API key.
            slots: How many slots the request needs, at most `max_slots_per_request`: more are never free.

        Raises:
            OverloadedError: If the queue is full, or the key is at its limit.
        """
        self._check_key_limit(client, slots)
        admission = Admission(self, client, slots)
        if self._waiting or self._slots_in_use + slots > self._slots:
            self._evict_if_full(client)
            self._waiting.setdefault(client, deque()).append(admission)
        else:
            self._admit(admission)
        self._slots_by_key[client] += slots
        self._idle.clear()
        return admission

    def release(self, admission: Admission) -> None:
        """Free a request's slots and admit waiting requests. Called once, by `Admission.release`."""
        self._uncount(admission)
        if admission.admitted_at is None:
            self._dequeue(admission)
        else:
            self._slots_in_use -= admission.slots
            self._record_duration(self._clock() - admission.admitted_at)
        self._admit_waiting()
        if self._slots_in_use == 0:
            self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return when no slot is taken and no request waits."""
        await self._idle.wait()

    def _check_key_limit(self, client: str, slots: int) -> None:
        limit, held = self._max_slots_per_key, self._slots_by_key[client]
        if limit is not None and held + slots > limit:
            raise OverloadedError(
                f"The key {client!r} has {held} answers being written or waiting, and one key may have"
                f" {limit}. Wait for one of them to end.",
                code="key_limit_exceeded",
                headers={"Retry-After": self._retry_after(0)},
            )

    def _evict_if_full(self, client: str) -> None:
        """Reject a waiting request of another key if the queue is full.

        Raises:
            OverloadedError: If no key has more waiting than this one would have.
        """
        if self.waiting < self._max_waiting:
            return
        longest = max(self._waiting.values(), key=len, default=deque[Admission]())
        if len(longest) <= len(self._waiting.get(client, ())) + 1:
            raise self._overloaded_error()
        admission = longest[-1]
        self._uncount(admission)
        self._dequeue(admission)
        admission.reject(self._overloaded_error())

    def _overloaded_error(self) -> OverloadedError:
        waiting = self.waiting
        return OverloadedError(
            f"{self._slots_in_use} answers are being written and {waiting} requests wait, which is all this"
            " server takes. Try again shortly.",
            headers={"Retry-After": self._retry_after(waiting)},
        )

    def _retry_after(self, ahead: int) -> str:
        """Return the seconds until the requests ahead, and one more, are expected to have finished."""
        if self._mean_duration_s is None:
            return str(DEFAULT_RETRY_AFTER_S)
        estimate_s = math.ceil(self._mean_duration_s * (ahead + 1) / self._slots)
        return str(min(max(estimate_s, 1), MAX_RETRY_AFTER_S))

    def _record_duration(self, duration_s: float) -> None:
        mean_s = duration_s if self._mean_duration_s is None else self._mean_duration_s
        self._mean_duration_s = mean_s + SMOOTHING_FACTOR * (duration_s - mean_s)

    def _admit_waiting(self) -> None:
        # A request that needs more slots than are free is not overtaken: small requests would starve it.
        while self._waiting:
            client, queue = next(iter(self._waiting.items()))
            if self._slots_in_use + queue[0].slots > self._slots:
                return
            admission = queue.popleft()
            if queue:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            self._admit(admission)

    def _admit(self, admission: Admission) -> None:
        self._slots_in_use += admission.slots
        admission.admit(self._clock())

    def _dequeue(self, admission: Admission) -> None:
        queue = self._waiting[admission.client]
        queue.remove(admission)
        if not queue:
            del self._waiting[admission.client]

    def _uncount(self, admission: Admission) -> None:
        self._slots_by_key[admission.client] -= admission.slots
        if not self._slots_by_key[admission.client]:
            del self._slots_by_key[admission.client]


class Admission:
    """A request's slots, or its position in the queue. `release` must be called at least once.

    Attributes:
        client: The name of the request's API key.
        slots: How many slots it needs.
        admitted_at: When it got its slots, by the queue's clock; None before.
    """

    def __init__(self, queue: AdmissionQueue, client: str, slots: int) -> None:
        self.client = client
        self.slots = slots
        self.admitted_at: float | None = None
        self._queue = queue
        self._is_released = False
        self._error: OverloadedError | None = None
        self._changed = asyncio.Event()

    @property
    def is_admitted(self) -> bool:
        """Return whether the request has, or had, its slots."""
        return self.admitted_at is not None

    def admit(self, now: float) -> None:
        """Grant the slots. Called by the queue."""
        self.admitted_at = now
        self._changed.set()

    def reject(self, error: OverloadedError) -> None:
        """Remove the request from the queue; `wait` raises the error. Called by the queue."""
        self._is_released = True
        self._error = error
        self._changed.set()

    async def wait(self) -> None:
        """Return when the request has its slots, or was released.

        Raises:
            OverloadedError: If the request was evicted in favour of another key's.
        """
        await self._changed.wait()
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Free the slots, or leave the queue; idempotent."""
        if not self._is_released:
            self._is_released = True
            self._changed.set()
            self._queue.release(self)
