"""The supervisor's pure decisions: crashes in a row, room for a second engine, the words of an end."""

from __future__ import annotations

import os

import pytest

from inference.supervisor.child import last_words
from inference.supervisor.crashes import STABLE_S, CrashCounter
from inference.supervisor.memory import MemoryUse, fits_beside, measure


def test_the_third_crash_in_a_row_is_the_last() -> None:
    counter = CrashCounter()
    assert [counter.record(0.0) for _ in range(3)] == [False, False, True]


def test_a_process_that_served_for_a_while_begins_a_new_row() -> None:
    counter = CrashCounter()
    ready = (0.0, 5.0, STABLE_S, 0.0, 1.0)
    assert [counter.record(seconds) for seconds in ready] == [False, False, False, False, True]


GIB = 2**30


@pytest.mark.parametrize(
    ("use", "fits"),
    [
        (MemoryUse(2 * GIB, 3 * GIB), True),
        (MemoryUse(2 * GIB, 2 * GIB), False),
        (MemoryUse(None, 9 * GIB), False),
        (MemoryUse(2 * GIB, None), False),
        (MemoryUse(2 * GIB, 9 * GIB, 30 * GIB, 40 * GIB), True),
        (MemoryUse(2 * GIB, 9 * GIB, 60 * GIB, 20 * GIB), False),
    ],
)
def test_a_second_engine_fits_where_as_much_is_free_and_a_reserve(use: MemoryUse, fits: bool) -> None:  # noqa: FBT001
    assert fits_beside(use) is fits


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux shows it")  # noqa: PTH110
def test_the_memory_of_this_session_is_measured() -> None:
    use = measure(os.getpid())
    assert use.used is not None
    assert use.free is not None
    assert 2**20 < use.used < 2**40


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("", ""),
        ("a\nModuleNotFoundError: No module named 'x'\n", "ModuleNotFoundError: No module named 'x'"),
        (
            "t INFO inference.a: x\nt ERROR inference.a: FJARR_A: bad\nt ERROR inference.a: no\n",
            "FJARR_A: bad; no",
        ),
    ],
)
def test_the_last_words_are_the_errors_or_the_last_line(output: str, words: str) -> None:
    assert last_words(output) == words
