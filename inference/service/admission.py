"""Admission control: a limited number of requests generate, a limited number wait, the rest are rejected.

The API and the chat page share one queue. Waiting requests are scheduled round-robin across API keys, and
first come, first served within a key, so that a key with many requests does not delay the others.

A request is rejected when it arrives if by the forecast it would not end within the time limit, and while it
waits as soon as the forecast says so: a rejection in time can be retried, a timeout was waited for in vain.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Final

from inference.errors import OverloadedError
from inference.service.forecast import (
    LIMIT_SHARE,
    MARGIN,
    MIN_PACE_TOKENS,
    Forecast,
    Size,
    Timeline,
    expected_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEFAULT_RETRY_AFTER_S: Final = 2
"""Sent while nothing is known of the engine's speed."""

MAX_RETRY_AFTER_S: Final = 60
"""With a longer time, the official client chooses its own, which is shorter. Source: openai-python,
`_base_client.py`, `_calculate_retry_timeout`."""

MAX_EXPECTED_SHARE: Final = 0.5
"""No answer is expected to take more than this share of the time limit. One whose limit is too long for it
would otherwise be rejected whenever it has to wait at all."""

REVIEW_S: Final = 1.0
"""The interval at which the forecast of waiting requests is made again."""

REVIEW_SLACK: Final = 0.1
"""A waiting request is rejected if it would miss the time limit by more than this share of it: a forecast is
uncertain, and the wait so far would be lost."""


class AdmissionQueue:
    """The slots for requests that generate, and the queue of those that wait for one.

    Args:
        slots: How many slots there are. A request takes one for each of its choices.
        max_waiting: How many requests may wait.
        max_slots_per_key: How many slots one key may have, held and waited for together; None sets no limit.
        timeout_s: How long a request may take, with its wait.
        clock: Returns seconds.
    """

    def __init__(
        self,
        slots: int,
        max_waiting: int,
        max_slots_per_key: int | None = None,
        timeout_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._max_tokens = self._cache_tokens = math.inf
        self._max_waiting = max_waiting
        self._max_slots_per_key = max_slots_per_key
        self._timeout_s = timeout_s
        self._clock = clock
        self._forecast = Forecast()
        # The keys in round-robin order; the waiting requests of each in order of arrival.
        self._waiting: OrderedDict[str, deque[Admission]] = OrderedDict()
        self._running: dict[Admission, None] = {}
        self._slots_by_key: Counter[str] = Counter()
        self._slots_in_use = 0
        self._reviewed_at = -math.inf
        self._idle = asyncio.Event()
        self._idle.set()

    def configure(self, slots: int, max_tokens: float, cache_tokens: float, forecast: Forecast) -> None:
        """Set what has been measured of the engine, before the first request.

        Args:
            slots: How many slots there are.
            max_tokens: How many tokens of requests that run end in time; may be infinite.
            cache_tokens: How many tokens of requests there is room for; may be infinite.
            forecast: Knows the engine's speed.
        """
        self._slots = slots
        self._max_tokens = max_tokens
        self._cache_tokens = cache_tokens
        self._forecast = forecast

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

    def acquire(self, client: str = "-", size: Size | None = None) -> Admission:
        """Take slots for a request, all at once, or queue it until they are free.

        When the queue is full, the key with the longest queue loses its newest request, unless the new
        request's own key would then have as many waiting.

        Args:
            client: The name of the request's API key.
            size: The request's size; None is one slot. More than `max_slots_per_request` are never free.

        Raises:
            OverloadedError: If the queue is full, the key is at its limit, or the request would not end
                within the time limit.
        """
        admission = Admission(self, client, size or Size(), self._clock())
        self._check_key_limit(admission)
        if self._waiting or not self._has_room(admission):
            self._check_time(admission)
            self._evict_if_full(client)
            self._waiting.setdefault(client, deque()).append(admission)
        else:
            self._admit(admission)
        self._slots_by_key[client] += admission.size.slots
        self._idle.clear()
        return admission

    def release(self, admission: Admission) -> None:
        """Free a request's slots and admit waiting requests. Called once, by `Admission.release`."""
        self._uncount(admission)
        if admission.admitted_at is None:
            self._dequeue(admission)
        else:
            del self._running[admission]
            self._slots_in_use -= admission.size.slots
            duration_s = self._clock() - admission.admitted_at
            self._forecast.count_ends(admission.size.slots, duration_s, admission.tokens_each)
        self._admit_waiting()
        if not self._running:
            self._idle.set()

    def count_tokens(self, tokens: int) -> None:
        """Count generated tokens. Called by `Admission.add_tokens`."""
        self._forecast.count_tokens(tokens)

    async def wait_until_idle(self) -> None:
        """Return when no slot is taken and no request waits."""
        await self._idle.wait()

    def position(self, admission: Admission) -> int | None:
        """Return a waiting request's place in the queue, from 1; None if it does not wait."""
        places = enumerate(_in_order(self._waiting), 1)
        return next((place for place, each in places if each is admission), None)

    def review(self) -> None:
        """Admit what there is room for by now, and reject what will not end within the time limit.

        Does so at most once in `REVIEW_S`.
        """
        now = self._clock()
        if now - self._reviewed_at < REVIEW_S:
            return
        self._reviewed_at = now
        self._admit_waiting()
        token_s = self._token_s(now)
        if token_s is None:
            return
        length, timeline = self._forecast.length, self._timeline(token_s)
        for admission in _in_order(self._waiting):
            start_s, duration_s = self._place(timeline, admission, token_s, length)
            late_s = now - admission.queued_at + start_s + duration_s - self._timeout_s
            if late_s > REVIEW_SLACK * self._timeout_s:
                self._evict(admission, self._too_slow_error(late_s))
            else:
                timeline.start(start_s, duration_s, admission.size.slots, self._reserved(admission, length))

    def _check_key_limit(self, admission: Admission) -> None:
        client, limit = admission.client, self._max_slots_per_key
        held = self._slots_by_key[client]
        if limit is not None and held + admission.size.slots > limit:
            token_s, length = self._token_s(self._clock()), self._forecast.length
            ends_s = [
                _remaining_s(each, token_s, length)
                for each in self._running
                if each.client == client and token_s is not None
            ]
            raise OverloadedError(
                f"The key {client!r} has {held} answers being written or waiting, and one key may have"
                f" {limit}. Wait for one of them to end.",
                code="key_limit_exceeded",
                headers={"Retry-After": _retry_after(min(ends_s, default=None))},
            )

    def _check_time(self, admission: Admission) -> None:
        """Reject a request that has to wait and would not end within the time limit.

        Raises:
            OverloadedError: If so.
        """
        token_s = self._token_s(self._clock())
        if token_s is None:
            return
        length, timeline = self._forecast.length, self._timeline(token_s)
        queues = {client: deque(queue) for client, queue in self._waiting.items()}
        queues.setdefault(admission.client, deque()).append(admission)
        for each in _in_order(queues):
            start_s, duration_s = self._place(timeline, each, token_s, length)
            if each is admission:
                late_s = start_s + duration_s - self._timeout_s
                if late_s > 0:
                    raise self._too_slow_error(late_s)
                return
            timeline.start(start_s, duration_s, each.size.slots, self._reserved(each, length))

    def _evict_if_full(self, client: str) -> None:
        """Reject a waiting request of another key if the queue is full.

        Raises:
            OverloadedError: If no key has more waiting than this one would have.
        """
        if self.waiting < self._max_waiting:
            return
        longest = max(self._waiting.values(), key=len, default=deque[Admission]())
        if len(longest) <= len(self._waiting.get(client, ())) + 1:
            raise self._full_error()
        self._evict(longest[-1], self._full_error())

    def _evict(self, admission: Admission, error: OverloadedError) -> None:
        self._uncount(admission)
        self._dequeue(admission)
        admission.reject(error)

    def _full_error(self) -> OverloadedError:
        token_s = self._token_s(self._clock())
        first = next(_in_order(self._waiting), None)
        wait_s = None
        if token_s is not None:
            timeline = self._timeline(token_s)
            wait_s = timeline.find_start(first.size.slots if first else 1)
        return OverloadedError(
            f"Answers being written: {self._slots_in_use}, requests waiting: {self.waiting}, which is all"
            " this server takes. Try again shortly.",
            headers={"Retry-After": _retry_after(wait_s)},
        )

    def _too_slow_error(self, late_s: float) -> OverloadedError:
        retry_after = _retry_after(late_s)
        return OverloadedError(
            f"Answers being written: {self._slots_in_use}, requests waiting: {self.waiting}, so this one"
            f" would not end within the {self._timeout_s:g} s that a request may take. Try again in"
            f" {retry_after} s, or ask for fewer tokens.",
            headers={"Retry-After": retry_after},
        )

    def _has_room(self, admission: Admission) -> bool:
        """Return whether a request can start now. One that is alone can, whatever its length."""
        if self._slots_in_use + admission.size.slots > self._slots:
            return False
        length = self._forecast.length
        in_use = sum(self._reserved(each, length) for each in self._running)
        return not self._running or in_use + self._reserved(admission, length) <= self._room()

    def _reserved(self, admission: Admission, length: float) -> float:
        """Return the tokens that room is kept for."""
        size = admission.size
        return size.prompt_tokens + size.slots * expected_tokens(
            size.max_new_tokens, MARGIN * length, admission.tokens_each
        )

    def _room(self) -> float:
        """Return how many tokens may run at once: as was measured, or more if the engine proves to be faster.

        The measurement is short, and may have been disturbed by something else on the machine.
        """
        tokens_per_s = sum(slots / pace_s for slots, pace_s in self._paces(self._clock()) if pace_s > 0.0)
        by_speed = tokens_per_s * LIMIT_SHARE * self._timeout_s if tokens_per_s else 0.0
        return min(max(self._max_tokens, by_speed), self._cache_tokens)

    def _paces(self, now: float) -> list[tuple[int, float]]:
        """Return the slots and the seconds for each token of the requests that have run for some time."""
        return [
            (each.size.slots, (now - each.admitted_at) / each.tokens_each)
            for each in self._running
            if each.admitted_at is not None and each.tokens_each >= MIN_PACE_TOKENS
        ]

    def _token_s(self, now: float) -> float | None:
        return self._forecast.token_s([pace_s for _, pace_s in self._paces(now)], self._slots_in_use)

    def _timeline(self, token_s: float) -> Timeline:
        """Return when the requests that run are expected to end."""
        length = self._forecast.length
        reserved = {each: self._reserved(each, length) for each in self._running}
        timeline = Timeline(self._slots - self._slots_in_use, self._room() - sum(reserved.values()))
        for each, tokens in reserved.items():
            timeline.add(_remaining_s(each, token_s, length), each.size.slots, tokens)
        return timeline

    def _place(
        self, timeline: Timeline, admission: Admission, token_s: float, length: float
    ) -> tuple[float, float]:
        """Return when a waiting request is expected to start, and how long it will take then."""
        tokens = expected_tokens(admission.size.max_new_tokens, length)
        duration_s = min(token_s * tokens, MAX_EXPECTED_SHARE * self._timeout_s)
        return timeline.find_start(admission.size.slots, self._reserved(admission, length)), duration_s

    def _admit_waiting(self) -> None:
        # A request that needs more room than is free is not overtaken: small requests would starve it.
        while self._waiting:
            client, queue = next(iter(self._waiting.items()))
            if not self._has_room(queue[0]):
                return
            admission = queue.popleft()
            if queue:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            self._admit(admission)

    def _admit(self, admission: Admission) -> None:
        self._slots_in_use += admission.size.slots
        self._running[admission] = None
        admission.admit(self._clock())

    def _dequeue(self, admission: Admission) -> None:
        queue = self._waiting[admission.client]
        queue.remove(admission)
        if not queue:
            del self._waiting[admission.client]

    def _uncount(self, admission: Admission) -> None:
        self._slots_by_key[admission.client] -= admission.size.slots
        if not self._slots_by_key[admission.client]:
            del self._slots_by_key[admission.client]


class Admission:
    """A request's slots, or its position in the queue. `release` must be called at least once.

    Attributes:
        client: The name of the request's API key.
        size: What it needs.
        queued_at: When it arrived, by the queue's clock.
        admitted_at: When it got its slots, by the queue's clock; None before.
        tokens: How many tokens its answers have so far.
    """

    def __init__(self, queue: AdmissionQueue, client: str, size: Size, queued_at: float) -> None:
        self.client = client
        self.size = size
        self.queued_at = queued_at
        self.admitted_at: float | None = None
        self.tokens = 0
        self._queue = queue
        self._is_released = False
        self._error: OverloadedError | None = None
        self._changed = asyncio.Event()

    @property
    def is_admitted(self) -> bool:
        """Return whether the request has, or had, its slots."""
        return self.admitted_at is not None

    @property
    def position(self) -> int | None:
        """Return its place in the queue, from 1; None if it does not wait."""
        return None if self.is_admitted or self._is_released else self._queue.position(self)

    @property
    def tokens_each(self) -> float:
        """Return how many tokens each of its answers has so far, on average."""
        return self.tokens / self.size.slots

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
            OverloadedError: If the request was evicted in favour of another key's, or would not end within
                the time limit.
        """
        while not self._changed.is_set():
            try:
                await asyncio.wait_for(self._changed.wait(), REVIEW_S)
            except TimeoutError:
                self._queue.review()
        if self._error is not None:
            raise self._error

    def add_tokens(self, tokens: int) -> None:
        """Count new tokens of its answers."""
        self.tokens += tokens
        self._queue.count_tokens(tokens)

    def release(self) -> None:
        """Free the slots, or leave the queue; idempotent."""
        if not self._is_released:
            self._is_released = True
            self._changed.set()
            self._queue.release(self)


def _in_order(queues: Mapping[str, deque[Admission]]) -> Iterator[Admission]:
    """Return waiting requests in the order in which they will be admitted: round-robin across the keys."""
    rounds = itertools.zip_longest(*map(tuple, queues.values()))
    return (admission for turn in rounds for admission in turn if admission is not None)


def _remaining_s(admission: Admission, token_s: float, length: float) -> float:
    """Return how long a request that runs is expected to go on."""
    tokens = admission.tokens_each
    return token_s * (expected_tokens(admission.size.max_new_tokens, length, tokens) - tokens)


def _retry_after(wait_s: float | None) -> str:
    if wait_s is None:
        return str(DEFAULT_RETRY_AFTER_S)
    return str(min(max(math.ceil(wait_s), 1), MAX_RETRY_AFTER_S))
