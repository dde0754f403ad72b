"""The search for the number of users that a server holds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import users
from benchmarks.load import Target
from benchmarks.measures import Failure, Measurement, Percentiles
from benchmarks.users import Goal, Search, count_people, find_users, judge, next_level

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.load import Load

TARGET = Target("http://host", ("model",))
GOAL = Goal(1.0)


def measurement(clients: int, p95_s: float | None, errors: int = 0) -> Measurement:
    failures = (Failure("busy", errors),) if errors else ()
    times = None if p95_s is None else Percentiles(p95_s / 2, p95_s, p95_s)
    return Measurement(clients, 2 * clients, failures, 0, 10, 2.0, 5.0, 1.0, times, None, None, 0.0)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], Measurement]], list[Load]]:
    """Replace the load generator by a function of the number of clients; return the loads it is given."""

    def install(measure: Callable[[int], Measurement]) -> list[Load]:
        given: list[Load] = []

        async def run_load(_target: Target, load: Load, _seed: str) -> Measurement:
            given.append(load)
            return measure(load.clients)

        monkeypatch.setattr(users, "run_load", run_load)
        return given

    return install


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 20, 63, 64, 100])
async def test_the_search_finds_the_limit(loads: Any, limit: int) -> None:
    given = loads(lambda clients: measurement(clients, clients / limit))
    found = await find_users(TARGET, Search(GOAL))
    assert found.is_limit
    assert limit - max(1, limit // users.RESOLUTION) <= found.clients <= limit
    assert len({load.clients for load in given}) == len(given)
    assert [each.clients for each in found.measurements] == sorted(load.clients for load in given)


async def test_an_interrupted_search_keeps_what_it_has_measured(loads: Any) -> None:
    def interrupted_at(limit: int) -> Callable[[int], Measurement]:
        def measure(clients: int) -> Measurement:
            if clients == limit:
                raise asyncio.CancelledError
            return measurement(clients, 0.1)

        return measure

    loads(interrupted_at(8))
    found = await find_users(TARGET, Search(GOAL))
    assert [each.clients for each in found.measurements] == [1, 2, 4]
    assert (found.clients, found.is_limit, found.is_interrupted) == (4, False, True)
    loads(interrupted_at(1))
    with pytest.raises(asyncio.CancelledError):
        await find_users(TARGET, Search(GOAL))


async def test_a_server_that_holds_all_is_not_at_its_limit(loads: Any) -> None:
    given = loads(lambda clients: measurement(clients, 0.1))
    found = await find_users(TARGET, Search(GOAL, max_clients=12))
    assert [load.clients for load in given] == [1, 2, 4, 8, 12]
    assert (found.clients, found.is_limit) == (12, False)


async def test_a_server_that_is_too_slow_for_one(loads: Any) -> None:
    given = loads(lambda clients: measurement(clients, 9.0))
    found = await find_users(TARGET, Search(GOAL))
    assert (found.clients, found.is_limit, len(given)) == (0, True, 1)


async def test_given_levels_are_measured_in_their_order(loads: Any) -> None:
    given = loads(lambda clients: measurement(clients, clients / 10))
    shown: list[int] = []
    found = await find_users(TARGET, Search(GOAL, levels=(32, 4), requests=3, max_tokens=9), shown.append)
    assert [(load.clients, load.requests, load.max_tokens, load.warm_up) for load in given] == [
        (32, 32, 9, 2), (4, 4, 9, 0),
    ]  # fmt: skip
    assert shown == [32, 4]
    assert (found.clients, found.is_limit) == (4, True)


async def test_no_load_begins_after_the_time_limit(loads: Any) -> None:
    given = loads(lambda clients: measurement(clients, 0.1))
    times = iter(range(0, 1000, 100))
    await find_users(TARGET, Search(GOAL, time_limit_s=250), clock=lambda: float(next(times)))
    assert [load.clients for load in given] == [1, 2, 4]


def test_failures_and_silence_do_not_meet_the_goal() -> None:
    assert GOAL.is_met(measurement(1, 1.0))
    assert not GOAL.is_met(measurement(1, 1.1))
    assert not GOAL.is_met(measurement(1, 0.1, errors=1))
    assert not GOAL.is_met(measurement(1, None))


def test_a_lucky_load_above_the_limit_does_not_count() -> None:
    found = judge([measurement(1, 0.1), measurement(2, 2.0), measurement(4, 0.1)], GOAL)
    assert (found.clients, found.is_limit) == (1, True)
    assert next_level({1: True, 2: False, 4: True}, 64) is None


def test_people_think_between_questions() -> None:
    # 8 requests in 2 s: in 30 s of thinking, 120 more people have been answered.
    assert count_people(measurement(4, 0.1), 30) == 4 + 120
    assert count_people(measurement(4, 0.1), 0) == 4
