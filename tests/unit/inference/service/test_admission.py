from __future__ import annotations

import asyncio

import pytest

from inference.errors import OverloadedError
from inference.service.admission import Admission, AdmissionQueue


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admitted(admissions: list[Admission]) -> list[int]:
    return [index for index, admission in enumerate(admissions) if admission.is_admitted]


def test_requests_that_fit_are_admitted_at_once_and_the_next_waits() -> None:
    queue = AdmissionQueue(2, 5)
    admissions = [queue.acquire() for _ in range(3)]
    assert admitted(admissions) == [0, 1]
    assert (queue.slots_in_use, queue.waiting) == (2, 1)
    admissions[1].release()
    assert admitted(admissions) == [0, 1, 2]
    assert (queue.slots_in_use, queue.waiting) == (2, 0)


def test_many_requests_of_one_key_do_not_delay_another_key_s() -> None:
    queue = AdmissionQueue(1, 500)
    busy = [queue.acquire("busy") for _ in range(400)]
    shy = queue.acquire("shy")
    busy[0].release()
    # The first slot goes to busy, whose request came first; the next to shy.
    assert not shy.is_admitted
    busy[1].release()
    assert shy.is_admitted
    shy.release()
    assert admitted(busy) == [0, 1, 2]


def test_keys_are_scheduled_round_robin_and_requests_of_a_key_in_order_of_arrival() -> None:
    queue = AdmissionQueue(1, 10)
    holder = queue.acquire("z")
    order: list[str] = []
    admissions = {name: queue.acquire(name[0]) for name in ("a1", "a2", "a3", "b1", "b2", "c1")}
    current = holder
    while queue.waiting:
        current.release()
        name, current = next((n, t) for n, t in admissions.items() if t.is_admitted and n not in order)
        order.append(name)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_key_gets_no_more_slots_than_its_limit() -> None:
    queue = AdmissionQueue(2, 10, max_slots_per_key=3)
    admissions = [queue.acquire("ann") for _ in range(3)]
    with pytest.raises(OverloadedError) as caught:
        queue.acquire("ann")
    assert caught.value.message == (
        "The key 'ann' has 3 answers being written or waiting, and one key may have 3. Wait for one of them"
        " to end."
    )
    assert caught.value.code == "key_limit_exceeded"
    assert caught.value.headers == {"Retry-After": "2"}
    assert not queue.acquire("bob").is_admitted
    # A request that waits counts too, until it is released.
    admissions[2].release()
    queue.acquire("ann")


def test_a_full_queue_rejects_a_new_request_of_its_only_key() -> None:
    queue = AdmissionQueue(1, 2)
    for _ in range(3):
        queue.acquire("ann")
    with pytest.raises(OverloadedError) as caught:
        queue.acquire("ann")
    assert caught.value.message == (
        "1 answers are being written and 2 requests wait, which is all this server takes. Try again shortly."
    )
    assert caught.value.code == "rate_limit_exceeded"


async def test_a_full_queue_evicts_a_request_of_the_key_with_the_most_waiting() -> None:
    queue = AdmissionQueue(1, 3)
    busy = [queue.acquire("busy") for _ in range(4)]
    shy = queue.acquire("shy")
    # The newest request of the busy key is evicted, and its wait raises the error.
    with pytest.raises(OverloadedError, match="Try again shortly"):
        await busy[3].wait()
    assert queue.waiting == 3
    # Now busy has two waiting and shy one: no key has more than a new request's key would have.
    with pytest.raises(OverloadedError):
        queue.acquire("shy")
    busy[3].release()
    busy[0].release()
    busy[1].release()
    await asyncio.wait_for(shy.wait(), 1)
    assert shy.is_admitted
    assert (queue.slots_in_use, queue.waiting) == (1, 1)


def test_a_request_for_several_slots_gets_all_or_waits() -> None:
    queue = AdmissionQueue(4, 10)
    first = queue.acquire("ann", 3)
    wide = queue.acquire("bob", 2)
    assert (queue.slots_in_use, queue.waiting) == (3, 1)
    assert not wide.is_admitted
    # A small request does not overtake the wide one, which would starve otherwise.
    small = queue.acquire("cid")
    assert not small.is_admitted
    first.release()
    assert wide.is_admitted
    assert small.is_admitted
    assert queue.slots_in_use == 3
    wide.release()
    wide.release()
    assert queue.slots_in_use == 1


def test_a_wide_request_that_is_released_while_waiting_admits_the_next() -> None:
    queue = AdmissionQueue(4, 10)
    queue.acquire("ann", 3)
    wide, small = queue.acquire("bob", 2), queue.acquire("cid")
    wide.release()
    assert small.is_admitted


def test_a_request_can_have_no_more_slots_than_a_key_and_the_server_have() -> None:
    assert AdmissionQueue(4, 10).max_slots_per_request == 4
    assert AdmissionQueue(4, 10, max_slots_per_key=2).max_slots_per_request == 2
    assert AdmissionQueue(4, 10, max_slots_per_key=9).max_slots_per_request == 4


@pytest.mark.parametrize(
    ("duration_s", "retry_after"),
    [(0.01, "1"), (10.0, "15"), (1000.0, "60")],
)
def test_retry_after_follows_from_how_long_requests_take(duration_s: float, retry_after: str) -> None:
    clock = Clock()
    queue = AdmissionQueue(2, 2, clock=clock)
    finished = queue.acquire()
    clock.now += duration_s
    finished.release()
    for _ in range(4):
        queue.acquire()
    with pytest.raises(OverloadedError) as caught:
        queue.acquire()
    # Two wait, so three have to finish, two at a time.
    assert caught.value.headers == {"Retry-After": retry_after}


async def test_the_queue_reports_when_it_is_idle_and_keeps_nothing() -> None:
    queue = AdmissionQueue(1, 5, max_slots_per_key=5)
    admissions = [queue.acquire(name) for name in ("a", "b", "a")]
    waiting = asyncio.create_task(queue.wait_until_idle())
    for admission in admissions:
        await asyncio.sleep(0)
        assert not waiting.done()
        admission.release()
    await asyncio.wait_for(waiting, 1)
    assert (queue._slots_by_key, queue._waiting) == ({}, {})
