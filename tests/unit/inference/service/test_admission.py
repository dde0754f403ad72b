from __future__ import annotations

import asyncio
import math

import pytest

from inference.errors import OverloadedError
from inference.service.admission import REVIEW_S, Admission, AdmissionQueue
from inference.service.forecast import Forecast, Size

WIDE, WIDER = Size(slots=2), Size(slots=3)


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
        "Answers being written: 1, requests waiting: 2, which is all this server takes. Try again shortly."
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
    await asyncio.wait_for(shy.wait(), 60)
    assert shy.is_admitted
    assert (queue.slots_in_use, queue.waiting) == (1, 1)


def test_a_request_for_several_slots_gets_all_or_waits() -> None:
    queue = AdmissionQueue(4, 10)
    first = queue.acquire("ann", WIDER)
    wide = queue.acquire("bob", WIDE)
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
    queue.acquire("ann", WIDER)
    wide, small = queue.acquire("bob", WIDE), queue.acquire("cid")
    wide.release()
    assert small.is_admitted


def test_a_request_can_have_no_more_slots_than_a_key_and_the_server_have() -> None:
    assert AdmissionQueue(4, 10).max_slots_per_request == 4
    assert AdmissionQueue(4, 10, max_slots_per_key=2).max_slots_per_request == 2
    assert AdmissionQueue(4, 10, max_slots_per_key=9).max_slots_per_request == 4


@pytest.mark.parametrize(("step_s", "retry_after"), [(0.0001, "1"), (0.05, "25"), (10.0, "60"), (None, "2")])
def test_a_full_queue_tells_when_the_first_of_it_is_expected_to_start(
    step_s: float | None, retry_after: str
) -> None:
    queue = AdmissionQueue(2, 2, clock=Clock())
    step = None if step_s is None else lambda _: step_s
    queue.configure(2, math.inf, math.inf, Forecast(step, 500))
    running = [queue.acquire(size=Size(max_new_tokens=1000)) for _ in range(4)]
    running[0].add_tokens(10)
    running[1].add_tokens(15)
    with pytest.raises(OverloadedError) as caught:
        queue.acquire()
    # 500 tokens are expected of an answer, and one has 15 of them.
    assert caught.value.headers == {"Retry-After": retry_after}


def test_a_key_at_its_limit_is_told_when_its_first_answer_is_expected_to_end() -> None:
    clock = Clock()
    queue = AdmissionQueue(4, 10, max_slots_per_key=1, clock=clock)
    queue.configure(4, math.inf, math.inf, Forecast(lambda _: 0.1, 100))
    queue.acquire("bob", Size(max_new_tokens=10))
    queue.acquire("ann", Size(max_new_tokens=1000)).add_tokens(60)
    clock.now += 6
    with pytest.raises(OverloadedError) as caught:
        queue.acquire("ann")
    assert caught.value.headers == {"Retry-After": "5"}


def make_queue(clock: Clock, *, slots: int = 2, max_tokens: float = math.inf) -> AdmissionQueue:
    """A queue with a time limit of 100 s, of answers with 500 tokens at 0.1 s each, so 50 s."""
    queue = AdmissionQueue(slots, 100, timeout_s=100.0, clock=clock)
    queue.configure(slots, max_tokens, math.inf, Forecast(lambda _: 0.1, 500))
    return queue


def test_a_request_that_would_not_end_in_time_is_rejected_when_it_arrives() -> None:
    queue = make_queue(Clock())
    long = Size(max_new_tokens=1000)
    for _ in range(4):
        queue.acquire("ann", long)
    # Two run for 50 s, two wait for them and take another 50 s, and a third pair would begin after 100 s.
    with pytest.raises(OverloadedError) as caught:
        queue.acquire("ann", long)
    assert caught.value.message == (
        "Answers being written: 2, requests waiting: 2, so this one would not end within the 100 s that a"
        " request may take. Try again in 50 s, or ask for fewer tokens."
    )
    assert caught.value.headers == {"Retry-After": "50"}
    assert caught.value.code == "rate_limit_exceeded"
    assert (queue.slots_in_use, queue.waiting) == (2, 2)
    # Another key's turn comes earlier, though not before the first pair has ended.
    queue.acquire("bob", long)
    # A short answer ends in time only if what is before it does.
    with pytest.raises(OverloadedError) as caught:
        queue.acquire("ann", Size(max_new_tokens=10))
    assert caught.value.headers == {"Retry-After": "1"}


def test_short_answers_may_wait_in_any_number_that_ends_in_time() -> None:
    queue = make_queue(Clock())
    admissions = [queue.acquire(size=Size(max_new_tokens=20)) for _ in range(100)]
    assert len(admitted(admissions)) == 2
    with pytest.raises(OverloadedError, match="would not end within the 100 s"):
        queue.acquire(size=Size(max_new_tokens=20))


def test_a_request_with_a_limit_beyond_the_time_may_wait_for_half_of_it() -> None:
    queue = make_queue(Clock())
    running = [queue.acquire(size=Size(max_new_tokens=100_000)) for _ in range(2)]
    for each in running:
        each.add_tokens(490)
    queue.acquire(size=Size(max_new_tokens=100_000))
    assert queue.waiting == 1


async def test_a_waiting_request_is_rejected_as_soon_as_it_cannot_end_in_time() -> None:
    clock = Clock()
    queue = make_queue(clock)
    running = [queue.acquire(size=Size(max_new_tokens=1000)) for _ in range(2)]
    waiting = [queue.acquire(size=Size(max_new_tokens=1000)) for _ in range(2)]
    # After 40 s they have as many tokens as they should, and by the forecast all is well.
    clock.now += 40
    for each in running:
        each.add_tokens(400)
    queue.review()
    assert queue.waiting == 2
    # After 60 s they have 600, so they are expected to use their limit, and the next ones to be as long.
    clock.now += 20
    for each in running:
        each.add_tokens(200)
    queue.review()
    assert queue.waiting == 0
    for each in waiting:
        with pytest.raises(OverloadedError, match="would not end within the 100 s"):
            await each.wait()
    # The slots of those that run are theirs until they end.
    assert queue.slots_in_use == 2


def test_a_review_keeps_what_fits_after_what_does_not_is_gone() -> None:
    clock = Clock()
    queue = make_queue(clock, slots=1)
    queue.configure(1, math.inf, math.inf, Forecast(lambda _: 0.1, 400))
    holder = queue.acquire("ann", Size(max_new_tokens=1000))
    long = queue.acquire("ann", Size(max_new_tokens=1000))
    short = queue.acquire("bob", Size(max_new_tokens=10))
    clock.now += 70
    holder.add_tokens(700)
    queue.review()
    assert queue.waiting == 1
    holder.release()
    assert (long.is_admitted, short.is_admitted) == (False, True)


def test_a_review_is_made_once_in_a_while() -> None:
    clock = Clock()
    queue = make_queue(clock, slots=1)
    holder = queue.acquire(size=Size(max_new_tokens=1000))
    queue.acquire(size=Size(max_new_tokens=1000))
    queue.review()
    holder.add_tokens(999)
    clock.now += 99
    queue._reviewed_at = clock.now - REVIEW_S / 2
    queue.review()
    assert queue.waiting == 1
    clock.now += REVIEW_S
    queue.review()
    assert queue.waiting == 0


async def test_those_who_wait_make_the_reviews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.service.admission.REVIEW_S", 0.001)
    clock = Clock()
    queue = make_queue(clock, slots=1)
    holder = queue.acquire(size=Size(max_new_tokens=1000))
    waiting = queue.acquire(size=Size(max_new_tokens=1000))
    holder.add_tokens(999)
    clock.now += 99
    with pytest.raises(OverloadedError, match="would not end within the 100 s"):
        await asyncio.wait_for(waiting.wait(), 60)


def test_the_speed_and_the_length_of_answers_are_learned_from_those_that_end() -> None:
    clock = Clock()
    queue = AdmissionQueue(1, 100, timeout_s=100.0, clock=clock)
    queue.configure(1, math.inf, math.inf, Forecast(None, 60))
    # Nothing is known of the speed: nothing is rejected.
    admissions = [queue.acquire(size=Size(max_new_tokens=1000)) for _ in range(30)]
    for admission in admissions[:20]:
        clock.now += 10
        admission.add_tokens(50)
        admission.release()
    # An answer takes about 11 s, so the eighth ends within 100 s.
    late = [admission for admission in admissions[20:] if not admission.is_admitted]
    assert len(late) == 9
    for admission in late[-3:]:
        admission.release()
    queue.acquire(size=Size(max_new_tokens=1000))
    with pytest.raises(OverloadedError, match="would not end within the 100 s"):
        queue.acquire(size=Size(max_new_tokens=1000))


def test_room_is_kept_for_the_tokens_of_those_who_run() -> None:
    queue = make_queue(Clock(), slots=8, max_tokens=2000)
    first = queue.acquire(size=Size(max_new_tokens=800, prompt_tokens=100))
    second = queue.acquire(size=Size(max_new_tokens=800, prompt_tokens=100))
    third = queue.acquire(size=Size(max_new_tokens=800, prompt_tokens=100))
    assert admitted([first, second, third]) == [0, 1]
    first.release()
    assert third.is_admitted
    # 200 tokens are left.
    assert queue.acquire(size=Size(slots=2, max_new_tokens=100)).is_admitted
    assert not queue.acquire(size=Size(max_new_tokens=1)).is_admitted


def test_a_request_that_is_alone_is_admitted_whatever_its_length() -> None:
    queue = make_queue(Clock(), slots=8, max_tokens=2000)
    alone = queue.acquire(size=Size(max_new_tokens=5000, prompt_tokens=9000))
    assert alone.is_admitted
    assert not queue.acquire(size=Size(max_new_tokens=1)).is_admitted
    alone.release()
    assert queue.slots_in_use == 1


def test_an_engine_that_proves_to_be_faster_than_measured_gets_more_to_do() -> None:
    clock = Clock()
    queue = AdmissionQueue(64, 100, timeout_s=100.0, clock=clock)
    # At the start, something else took the processor: 20 tokens/s, so 1000 in half of the time.
    queue.configure(64, 1000, 16_000, Forecast(lambda _: 0.05, 500))
    admissions = [queue.acquire(size=Size(max_new_tokens=1000)) for _ in range(2)]
    assert admitted(admissions) == [0]
    clock.now += 1
    admissions[0].add_tokens(100)
    queue.review()
    assert admitted(admissions) == [0, 1]
    # 200 tokens/s are 10,000 in half of the time, as long as the cache has room for them.
    for each in admissions:
        each.add_tokens(100)
    more = [queue.acquire(size=Size(max_new_tokens=1000)) for _ in range(20)]
    assert 5 < len(admitted(more)) < 16


def test_short_answers_make_room_for_more() -> None:
    queue = AdmissionQueue(64, 100, clock=Clock())
    queue.configure(64, math.inf, 4000, Forecast(lambda _: 0.1, 500))
    running = 0
    for _ in range(200):
        admissions = [queue.acquire(size=Size(max_new_tokens=1000)) for _ in range(64)]
        running = len(admitted(admissions))
        assert running >= 4
        for admission in admissions:
            admission.add_tokens(20)
            admission.release()
    assert running == 64


async def test_the_queue_reports_when_it_is_idle_and_keeps_nothing() -> None:
    queue = AdmissionQueue(1, 5, max_slots_per_key=5)
    admissions = [queue.acquire(name) for name in ("a", "b", "a")]
    waiting = asyncio.create_task(queue.wait_until_idle())
    for admission in admissions:
        await asyncio.sleep(0)
        assert not waiting.done()
        admission.release()
    await asyncio.wait_for(waiting, 60)
    assert (queue._slots_by_key, queue._waiting) == ({}, {})
