"""The comparison of one process with two: the arithmetic of turns, and the engine that computes nothing."""

from __future__ import annotations

from benchmarks.crossing import compare as compare_readers
from benchmarks.turns import Turn, compare


def test_ratios_are_of_the_same_turn_and_the_median_is_over_turns() -> None:
    # The machine is twice as fast in the second turn, and something disturbs the third.
    pairs = [
        (Turn(100.0, 10.0, 0.1), Turn(101.0, 10.5, 0.2)),
        (Turn(200.0, 10.0, 0.1), Turn(198.0, 10.1, 0.2)),
        (Turn(100.0, 10.0, 0.4), Turn(50.0, 10.0, 0.2)),
    ]
    comparison = compare(8, pairs)
    assert comparison.clients == 8
    assert comparison.speed == (0.745, 0.99, 1.0)
    assert comparison.cpu == (1.005, 1.01, 1.03)
    assert (comparison.one, comparison.two) == (Turn(100.0, 10.0, 0.1), Turn(101.0, 10.1, 0.2))


async def test_an_engine_that_computes_nothing_is_read_directly_and_through_a_socket() -> None:
    direct_us, remote_us = await compare_readers(rows=3, steps=20, rounds=2)
    assert direct_us > 0
    assert remote_us > 0
