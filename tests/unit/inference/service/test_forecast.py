from __future__ import annotations

import math

import pytest

from inference.service.forecast import Forecast, Timeline, expected_tokens


@pytest.mark.parametrize(
    ("limit", "length", "tokens", "expected"),
    [
        (1000, 300, 0, 300),
        (100, 300, 0, 100),
        (1000, 300, 299, 300),
        # It is longer than expected, so it may be twice as long as it is.
        (1000, 300, 300, 600),
        (1000, 300, 700, 1000),
        (1000, 0, 0, 0),
    ],
)
def test_an_answer_is_as_long_as_others_or_longer_if_it_has_been(
    limit: int, length: float, tokens: float, expected: float
) -> None:
    assert expected_tokens(limit, length, tokens) == expected


def test_the_speed_is_what_runs_shows_else_what_was_measured_else_what_was_learned() -> None:
    measured = Forecast(lambda rows: rows / 100)
    assert measured.token_s((), 5) == 0.05
    assert measured.token_s((), 0) == 0.01
    assert measured.token_s((0.2, 0.4), 5) == pytest.approx(0.3)
    learned = Forecast()
    assert learned.token_s((), 5) is None
    learned.count_ends(1, 10.0, 0)
    assert learned.token_s((), 5) is None
    learned.count_ends(1, 10.0, 100)
    learned.count_ends(1, 30.0, 100)
    assert learned.token_s((), 5) == pytest.approx(0.14)


def test_the_length_is_that_of_the_answers_that_have_ended() -> None:
    forecast = Forecast(length=500)
    assert forecast.length == 500
    for _ in range(2000):
        forecast.count_tokens(20)
        forecast.count_ends(1, 1.0, 20)
    assert forecast.length == pytest.approx(20, rel=0.001)
    for _ in range(200):
        forecast.count_tokens(300)
        forecast.count_ends(1, 1.0, 300)
    assert forecast.length == pytest.approx(300, rel=0.1)


def test_a_burst_of_which_the_short_answers_end_first_is_not_expected_to_be_short() -> None:
    forecast = Forecast(length=100)
    forecast.count_tokens(64 * 200)
    # Of 64 answers with 200 tokens each so far, four have ended early.
    forecast.count_ends(4, 1.0, 20)
    assert forecast.length > 400


def test_a_request_starts_when_its_slots_and_its_room_are_free() -> None:
    timeline = Timeline(1, 100)
    timeline.add(20.0, 1, 500)
    timeline.add(10.0, 2, 300)
    assert timeline.find_start(1, 100) == 0.0
    assert timeline.find_start(1, 101) == 10.0
    assert timeline.find_start(3, 0) == 10.0
    assert timeline.find_start(4, 0) == 20.0
    assert timeline.find_start(1, 900) == 20.0
    # More room than there ever is: it starts alone.
    assert timeline.find_start(1, 5000) == 20.0
    # A start takes its share, and those after it do not overtake it.
    timeline.start(10.0, 5.0, 2, 300)
    assert timeline.find_start(1, 0) == 10.0
    assert timeline.find_start(2, 0) == 15.0
    assert timeline.find_start(2, 500) == 20.0


def test_without_a_limit_of_tokens_only_slots_count() -> None:
    timeline = Timeline(0)
    timeline.add(3.0, 1)
    assert timeline.find_start(1, 1e9) == 3.0
    timeline.start(3.0, math.inf, 1, 1e9)
    assert timeline.find_start(1) == math.inf
