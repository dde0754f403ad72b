"""Find how many users a server holds: load it with more and more clients until answers begin too late.

A client sends its next question as soon as it has an answer, so it is worth several people, who read and
think in between.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmarks.load import Load, run_load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.load import Target
    from benchmarks.measures import Measurement

MIN_REQUESTS: Final = 16
REQUESTS_PER_CLIENT: Final = 2
RESOLUTION: Final = 8
"""The search ends when the bounds are within this fraction of each other."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a load must keep.

    Attributes:
        time_to_first_token_s: The most that the 95th percentile of the time to the first token may be.
    """

    time_to_first_token_s: float

    def is_met(self, measurement: Measurement) -> bool:
        """Return whether a load had no failures, and its answers began in time."""
        times = measurement.time_to_first_token_s
        return not measurement.errors and times is not None and times.p95 <= self.time_to_first_token_s


@dataclass(frozen=True, slots=True)
class Search:
    """The steps of a load.

    Attributes:
        goal: What the load must keep.
        max_clients: The most clients to try.
        time_limit_s: After this time no further load begins.
        levels: Numbers of clients to measure in place of a search.
        requests: The number of requests of each load; None is two for each client, and at least sixteen.
        max_tokens: The length of the answers.
        prompts: What the clients ask, in rotation; empty makes up texts.
    """

    goal: Goal
    max_clients: int = 256
    time_limit_s: float = 300.0
    levels: tuple[int, ...] = ()
    requests: int | None = None
    max_tokens: int = 64
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        measurements: The loads, by their number of clients.
        clients: The most clients with which the goal was met; 0 if one was too many.
        is_limit: Whether more clients were tried and were too many. If not, the server may hold more.
        is_interrupted: Whether the search was cancelled before its end.
    """

    measurements: tuple[Measurement, ...]
    clients: int
    is_limit: bool
    is_interrupted: bool = False


async def find_users(
    target: Target,
    search: Search,
    show: Callable[[int], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Load a server step by step; `show` is called with the number of clients before each step.

    A search that is cancelled after its first load returns what it has measured.
    """
    started_s = clock()
    measured: dict[int, Measurement] = {}
    levels = iter(search.levels)

    def choose() -> int | None:
        if search.levels:
            return next(levels, None)
        met = {clients: search.goal.is_met(measurement) for clients, measurement in measured.items()}
        return next_level(met, search.max_clients)

    is_interrupted = False
    while (clients := choose()) is not None:
        if measured and clock() - started_s > search.time_limit_s:
            break
        show(clients)
        requests = max(clients, search.requests or max(MIN_REQUESTS, REQUESTS_PER_CLIENT * clients))
        load = Load(clients, requests, search.max_tokens, 0 if measured else 2, prompts=search.prompts)
        try:
            measured[clients] = await run_load(target, load, f"users-{clients}")
        except asyncio.CancelledError:
            if not measured:
                raise
            is_interrupted = True
            break
    return replace(judge(tuple(measured.values()), search.goal), is_interrupted=is_interrupted)


def judge(measurements: Sequence[Measurement], goal: Goal) -> Found:
    """Return what measured loads say: the largest that met the goal below the smallest that did not."""
    ordered = tuple(sorted(measurements, key=lambda each: each.clients))
    too_many = min((each.clients for each in ordered if not goal.is_met(each)), default=None)
    met = [each.clients for each in ordered if too_many is None or each.clients < too_many]
    return Found(ordered, max(met, default=0), too_many is not None)


def next_level(met: Mapping[int, bool], max_clients: int) -> int | None:
    """Return how many clients to try next: doubled until it is too many, then halfway; None at the end.

    Args:
        met: Whether the goal was met, by the number of clients.
        max_clients: The most clients to try.
    """
    too_many = min((clients for clients, is_met in met.items() if not is_met), default=None)
    best = max((each for each, is_met in met.items() if is_met and each < (too_many or each + 1)), default=0)
    if too_many is None:
        return min(2 * best, max_clients) or 1 if best < max_clients else None
    middle = (best + too_many) // 2
    return None if too_many - best <= max(1, best // RESOLUTION) else middle


def count_people(measurement: Measurement, think_time_s: float) -> int:
    """Return how many people are as much load as the clients, if each thinks before the next question.

    By Little's law, with the same number of requests at once: people = throughput x (answer + thinking).
    """
    throughput = (measurement.requests - measurement.errors) / measurement.duration_s
    return int(measurement.clients + throughput * think_time_s)
