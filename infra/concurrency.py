"""Make calls at the same time, on threads that never keep this process from ending.

`ThreadPoolExecutor` waits for the calls of its threads when its `with` block is left, and again when the
interpreter ends. A call may be an az command or a request that takes minutes, so that Ctrl-C would have no
effect until then. Everything of the pipeline that needs a thread for a call uses this executor instead.
"""

from __future__ import annotations

import functools
import queue
import threading
from concurrent.futures import CancelledError, Executor, Future
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")
_Call: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"
"""A call that has not begun, and the future of its result."""


class _Thread(threading.local):
    """What a thread knows of its executor: whether that, or one around it, was abandoned."""

    signs: tuple[threading.Event, ...] = ()


_THREAD: Final = _Thread()


class DaemonExecutor(Executor):
    """An executor whose calls end with the process.

    A `with` block that ends normally, or by an error, waits for all calls. One that is left by Ctrl-C
    abandons them: those that have not begun are cancelled, nothing waits for those that run, and these should
    start nothing more; see `check_wanted`.

    Args:
        max_workers: The most calls at once.
        name: What the names of the threads begin with.
    """

    def __init__(self, max_workers: int, name: str = "call") -> None:
        self._max_workers = max_workers
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_over = False
        self._is_abandoned = threading.Event()
        self._signs = (self._is_abandoned, *_THREAD.signs)

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> Future[T]:
        """Begin a call as soon as a thread is free, and return its future.

        Raises:
            RuntimeError: The executor has been shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._is_over:
                raise RuntimeError("the executor takes no more calls")
            self._calls.put((future, functools.partial(fn, *args, **kwargs)))
            if len(self._threads) < self._max_workers:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._perform_all, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as Executor's
        """Take no more calls. Without `wait` and with `cancel_futures`, they are abandoned.

        Args:
            wait: Whether to wait until all calls have ended.
            cancel_futures: Whether to cancel the calls that have not begun.
        """
        with self._lock:
            self._is_over = True
        if cancel_futures:
            self._cancel(is_abandoned=not wait)
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the calls, unless the block is left by what ends the process."""
        is_ending = kind is not None and not issubclass(kind, Exception)
        self.shutdown(wait=not is_ending, cancel_futures=is_ending)

    def _cancel(self, *, is_abandoned: bool) -> None:
        if is_abandoned:
            self._is_abandoned.set()
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            if call is not None:
                call[0].cancel()

    def _perform_all(self) -> None:
        _THREAD.signs = self._signs
        while (call := self._calls.get()) is not None:
            _perform(*call)


def check_wanted() -> None:
    """Check that somebody waits for what this thread does, before it starts something that would go on.

    Raises:
        CancelledError: The executor of this thread was abandoned.
    """
    if any(sign.is_set() for sign in _THREAD.signs):
        raise CancelledError("this process is ending")


def _perform(future: Future[T], call: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised where the result is read
        future.set_exception(error)
    else:
        future.set_result(result)
