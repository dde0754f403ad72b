"""Calls on threads that end with the process: their results, their errors, and what Ctrl-C does to them."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import pytest

from infra.concurrency import DaemonExecutor, check_wanted

PATIENCE_S = 30.0

# A block that is left by Ctrl-C while a call of it never ends, and another has not begun.
LEFT = """
import threading
from infra.concurrency import DaemonExecutor, check_wanted

begun = threading.Event()

def never_end():
    begun.set()
    threading.Event().wait()

with DaemonExecutor(1) as executor:
    executor.submit(never_end)
    waiting = executor.submit(print, "began")
    begun.wait()
    raise KeyboardInterrupt
"""


def test_calls_have_results_and_errors() -> None:
    with DaemonExecutor(2) as executor:
        right, wrong = executor.submit(divmod, 7, 2), executor.submit(divmod, 7, 0)
        assert list(executor.map(str, range(20))) == [str(number) for number in range(20)]
    assert right.result(PATIENCE_S) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        wrong.result(PATIENCE_S)


def test_no_more_calls_run_at_once_than_there_are_threads() -> None:
    ready = threading.Barrier(2)
    with DaemonExecutor(2, "az") as executor:
        names = executor.map(lambda _: (ready.wait(PATIENCE_S), threading.current_thread().name)[1], range(8))
        assert set(names) == {"az-0", "az-1"}


def test_a_block_that_ends_by_an_error_waits_for_its_calls() -> None:
    begun, ended = threading.Event(), []

    def work() -> None:
        begun.wait(PATIENCE_S)
        ended.append(True)

    with pytest.raises(LookupError), DaemonExecutor(1) as executor:  # noqa: PT012 - the block is what is tested
        executor.submit(work)
        begun.set()
        raise LookupError
    assert ended


def test_a_call_is_not_taken_after_the_end() -> None:
    with DaemonExecutor(1) as executor:
        pass
    with pytest.raises(RuntimeError, match="no more calls"):
        executor.submit(print)


def test_ctrl_c_cancels_what_has_not_begun_and_waits_for_nothing() -> None:
    begun, is_over = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return is_over.wait(PATIENCE_S)

    with pytest.raises(KeyboardInterrupt), DaemonExecutor(1) as executor:  # noqa: PT012 - as above
        running, waiting = executor.submit(work), executor.submit(print)
        begun.wait(PATIENCE_S)
        raise KeyboardInterrupt
    assert not running.done()
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE_S)
    is_over.set()
    assert running.result(PATIENCE_S)


def test_the_interpreter_waits_for_no_call() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_what_is_abandoned_starts_nothing_more_and_neither_does_what_it_waits_for() -> None:
    begun, is_over = threading.Event(), threading.Event()

    def check() -> str:
        begun.set()
        is_over.wait(PATIENCE_S)
        try:
            check_wanted()
        except CancelledError as error:
            return str(error)
        return "wanted"

    def check_beside() -> str:
        with DaemonExecutor(1) as inner:
            return inner.submit(check).result(PATIENCE_S)

    check_wanted()
    with pytest.raises(KeyboardInterrupt), DaemonExecutor(1) as executor:  # noqa: PT012 - as above
        answer = executor.submit(check_beside)
        begun.wait(PATIENCE_S)
        raise KeyboardInterrupt
    is_over.set()
    assert answer.result(PATIENCE_S) == "this process is ending"
    check_wanted()
    with DaemonExecutor(1) as executor:
        assert executor.submit(check_beside).result(PATIENCE_S) == "wanted"
