"""End a verb at once on Ctrl-C, or on a signal that ends a process, and leave no child process behind.

The signals become exceptions in the main thread, so that the deploy lock is released and temporary files are
removed on the way out. Notes on the exception (`BaseException.add_note`) tell the user what goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

from infra.operating_system import end_group

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C: 128 and the signal's number, as shells have it."""

TERMINATED: Final = 143
"""The exit code after SIGTERM."""

_NUMBERS: Final = tuple(
    number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)
_GRACE_S: Final = 0.5
"""How long processes may take to end after SIGTERM, all together."""

_POLL_S: Final = 0.01


class TerminatedError(KeyboardInterrupt):
    """A signal other than that of Ctrl-C, which ends a verb in the same way.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Children:
    """The processes that this process has started and that still run. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[subprocess.Popen[Any], str] = {}

    def start(self, start: Callable[[], subprocess.Popen[str]], note: str) -> subprocess.Popen[str]:
        """Start a process, and remember it until `forget`.

        Args:
            start: Starts it, as the leader of a group. It may find that it must not.
            note: What goes on elsewhere when it is ended; empty if nothing does.
        """
        with self._lock:
            process = start()
            self._running[process] = note
            return process

    def forget(self, process: subprocess.Popen[Any]) -> None:
        """Forget a process that has ended."""
        with self._lock:
            self._running.pop(process, None)

    def end(self) -> tuple[str, ...]:
        """End all processes, by force if need be, and return their notes."""
        with self._lock:
            running = dict(self._running)
        for process in running:
            end_group(process, is_forced=False)
        deadline_s = time.monotonic() + _GRACE_S
        while any(process.poll() is None for process in running) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        for process in running:
            if process.poll() is None:
                end_group(process, is_forced=True)
        return tuple(note for note in running.values() if note)


CHILDREN: Final = Children()


@contextmanager
def interruptible() -> Iterator[None]:
    """Run a verb as the body: on a signal, the processes of its other threads are ended.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C, or as `TerminatedError` another signal came. Its notes say
            what goes on.
    """
    try:
        with _handled():
            yield
    except KeyboardInterrupt as interrupt:
        for note in CHILDREN.end():
            add_note(interrupt, note)
        raise


def end_quietly() -> None:
    """End this process at once, without a traceback, on signals that come while no verb runs."""
    _set(dict.fromkeys(_NUMBERS, _exit))


def add_note(interrupt: KeyboardInterrupt, note: str) -> None:
    """Add what goes on after an interrupt, unless it is noted already."""
    if note not in notes_of(interrupt):
        interrupt.add_note(note)


def notes_of(interrupt: KeyboardInterrupt) -> tuple[str, ...]:
    """Return what goes on after an interrupt."""
    return tuple(getattr(interrupt, "__notes__", ()))


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Tell the user what goes on if the body is interrupted."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        add_note(interrupt, note)
        raise


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code of a process that a signal has ended."""
    return 128 + interrupt.number if isinstance(interrupt, TerminatedError) else INTERRUPTED


@contextmanager
def _handled() -> Iterator[None]:
    """Raise exceptions for signals while the body runs; ignored ones, as by `nohup`, stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    # The handler of Ctrl-C is Python's own, which asyncio replaces by one that cancels its tasks.
    before = _set(dict.fromkeys(_NUMBERS, _raise) | {signal.SIGINT: signal.default_int_handler})
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _set(handlers: Mapping[int, Callable[[int, Any], Any]]) -> dict[int, Any]:
    """Set the handlers of signals that are not ignored, and return those that they had."""
    before: dict[int, Any] = {}
    for number, handler in handlers.items():
        earlier = signal.getsignal(number)
        if earlier is not signal.SIG_IGN:
            signal.signal(number, handler)
            before[number] = earlier or signal.SIG_DFL
    return before


def _raise(number: int, _: object) -> NoReturn:
    raise TerminatedError(number)


def _exit(number: int, _: object) -> NoReturn:
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(sys.stderr.fileno(), b"interrupted\n")
    raise SystemExit(128 + number)
