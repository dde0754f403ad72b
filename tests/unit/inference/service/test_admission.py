from __future__ import annotations

import asyncio

import pytest

from inference.errors import OverloadedError
from inference.service.admission import Door, Ticket


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def inside(tickets: list[Ticket]) -> list[int]:
    return [index for index, ticket in enumerate(tickets) if ticket.is_admitted]


def test_who_fits_is_inside_at_once_and_the_next_waits() -> None:
    door = Door(2, 5)
    tickets = [door.enter() for _ in range(3)]
    assert inside(tickets) == [0, 1]
    assert (door.inside, door.waiting) == (2, 1)
    tickets[1].leave()
    assert inside(tickets) == [0, 1, 2]
    assert (door.inside, door.waiting) == (2, 0)


def test_the_many_requests_of_one_key_do_not_hold_up_the_one_of_another() -> None:
    door = Door(1, 500)
    busy = [door.enter("busy") for _ in range(400)]
    shy = door.enter("shy")
    busy[0].leave()
    # The turn was busy's, who came first; the next one is shy's.
    assert not shy.is_admitted
    busy[1].leave()
    assert shy.is_admitted
    shy.leave()
    assert inside(busy) == [0, 1, 2]


def test_waiting_keys_take_turns_and_within_a_key_who_came_first_goes_first() -> None:
    door = Door(1, 10)
    holder = door.enter("z")
    order: list[str] = []
    tickets = {name: door.enter(name[0]) for name in ("a1", "a2", "a3", "b1", "b2", "c1")}
    current = holder
    while door.waiting:
        current.leave()
        name, current = next((n, t) for n, t in tickets.items() if t.is_admitted and n not in order)
        order.append(name)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_key_has_no_more_than_its_share() -> None:
    door = Door(2, 10, places_per_key=3)
    tickets = [door.enter("ann") for _ in range(3)]
    with pytest.raises(OverloadedError) as caught:
        door.enter("ann")
    assert caught.value.message == (
        "The key 'ann' has 3 answers being written or waiting, and one key may have 3. Wait for one of them"
        " to end."
    )
    assert caught.value.code == "key_limit_exceeded"
    assert caught.value.headers == {"Retry-After": "2"}
    assert not door.enter("bob").is_admitted
    # One that only waits counts too, and so does its leaving.
    tickets[2].leave()
    door.enter("ann")


def test_a_full_queue_turns_the_newcomer_of_its_only_key_away() -> None:
    door = Door(1, 2)
    for _ in range(3):
        door.enter("ann")
    with pytest.raises(OverloadedError) as caught:
        door.enter("ann")
    assert caught.value.message == (
        "1 answers are being written and 2 requests wait, which is all this server takes. Try again shortly."
    )
    assert caught.value.code == "rate_limit_exceeded"


async def test_a_full_queue_makes_room_for_a_key_that_has_less_in_it() -> None:
    door = Door(1, 3)
    busy = [door.enter("busy") for _ in range(4)]
    shy = door.enter("shy")
    # Who came last of the busy key's is turned away, and hears of it.
    with pytest.raises(OverloadedError, match="Try again shortly"):
        await busy[3].wait()
    assert door.waiting == 3
    # Now busy has two in the queue and shy one: nobody has more than a newcomer would.
    with pytest.raises(OverloadedError):
        door.enter("shy")
    busy[3].leave()
    busy[0].leave()
    busy[1].leave()
    await asyncio.wait_for(shy.wait(), 1)
    assert shy.is_admitted
    assert (door.inside, door.waiting) == (1, 1)


def test_a_request_for_several_places_gets_all_or_waits() -> None:
    door = Door(4, 10)
    first = door.enter("ann", 3)
    wide = door.enter("bob", 2)
    assert (door.inside, door.waiting) == (3, 1)
    assert not wide.is_admitted
    # A small one does not slip past the wide one, which would wait for ever otherwise.
    small = door.enter("cid")
    assert not small.is_admitted
    first.leave()
    assert wide.is_admitted
    assert small.is_admitted
    assert door.inside == 3
    wide.leave()
    wide.leave()
    assert door.inside == 1


def test_a_wide_request_that_gives_up_lets_the_next_one_in() -> None:
    door = Door(4, 10)
    door.enter("ann", 3)
    wide, small = door.enter("bob", 2), door.enter("cid")
    wide.leave()
    assert small.is_admitted


def test_a_request_can_have_no_more_places_than_a_key_and_the_server_have() -> None:
    assert Door(4, 10).most_places == 4
    assert Door(4, 10, places_per_key=2).most_places == 2
    assert Door(4, 10, places_per_key=9).most_places == 4


@pytest.mark.parametrize(
    ("stay_s", "retry_after"),
    [(0.01, "1"), (10.0, "15"), (1000.0, "60")],
)
def test_when_to_come_again_follows_from_how_long_requests_stay(stay_s: float, retry_after: str) -> None:
    clock = Clock()
    door = Door(2, 2, clock=clock)
    gone = door.enter()
    clock.now += stay_s
    gone.leave()
    for _ in range(4):
        door.enter()
    with pytest.raises(OverloadedError) as caught:
        door.enter()
    # Two wait, so three have to leave, two at a time.
    assert caught.value.headers == {"Retry-After": retry_after}


async def test_the_door_says_when_it_is_empty_and_keeps_nothing() -> None:
    door = Door(1, 5, places_per_key=5)
    tickets = [door.enter(name) for name in ("a", "b", "a")]
    waiting = asyncio.create_task(door.wait_until_empty())
    for ticket in tickets:
        await asyncio.sleep(0)
        assert not waiting.done()
        ticket.leave()
    await asyncio.wait_for(waiting, 1)
    assert (door._held, door._waiting) == ({}, {})
