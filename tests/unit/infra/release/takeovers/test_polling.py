"""Polling: the loop, and the requests that are sent beside it."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import UTC, datetime

import pytest

from infra.clock import ManualClock
from infra.errors import RemoteError
from infra.release.takeovers.polling import PeriodicRequest, PollLoop


class Background:
    """Keeps each call, so that a test decides when and how it ends."""

    def __init__(self) -> None:
        self.started: list[Future[str]] = []

    def __call__(self, _call: object, /) -> Future[str]:
        self.started.append(Future())
        return self.started[-1]


@pytest.fixture
def background() -> Background:
    return Background()


@pytest.fixture
def request_(background: Background) -> PeriodicRequest[str]:
    return PeriodicRequest(background, lambda: "", interval_s=8.0, next_s=4.0)  # type: ignore[arg-type]  # answers with texts alone


def test_the_first_request_waits_for_its_time(background: Background, request_: PeriodicRequest[str]) -> None:
    assert request_.poll(3.9) is None
    assert not background.started
    assert request_.poll(4.0) is None
    assert len(background.started) == 1


def test_polling_goes_on_until_there_is_an_answer_which_is_returned_once(
    background: Background, request_: PeriodicRequest[str]
) -> None:
    polled = [request_.poll(now_s) for now_s in (4.0, 30.0)]
    background.started[0].set_result("two replicas")
    assert [*polled, request_.poll(31.0), request_.poll(32.0)] == [None, None, "two replicas", None]
    assert len(background.started) == 1


def test_the_interval_begins_with_the_answer_also_after_a_failure(
    background: Background, request_: PeriodicRequest[str]
) -> None:
    request_.poll(4.0)
    background.started[0].set_exception(RemoteError("no"))
    assert request_.poll(10.0) is None
    request_.poll(17.9)
    assert len(background.started) == 1
    request_.poll(18.0)
    background.started[1].set_result("one replica")
    assert request_.poll(19.0) == "one replica"


def test_a_poll_that_knows_nothing_is_repeated_and_the_lock_is_renewed_in_between() -> None:
    clock = ManualClock(datetime(2026, 1, 2, tzinfo=UTC))
    renewed: list[float] = []
    loop = PollLoop[str](0.5, clock, lambda: renewed.append(clock.elapsed_s()))
    found = loop.run(lambda now_s: f"after {now_s:g} s" if now_s >= 1 else None)
    assert found == "after 1 s"
    assert renewed == [0.0, 0.5]


def test_a_lock_that_was_taken_away_ends_the_wait() -> None:
    def lose() -> None:
        raise RemoteError("the deploy lock was taken from this process")

    with pytest.raises(RemoteError, match="taken from"):
        PollLoop[str](0.5, ManualClock(datetime(2026, 1, 2, tzinfo=UTC)), lose).run(lambda _now_s: None)
