"""The background of a rollout, without threads: they would make the order of calls random."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from infra.errors import FjarrError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def at_once(call: Callable[[], T], /) -> Future[T]:
    """Run a call immediately."""
    future: Future[T] = Future()
    try:
        future.set_result(call())
    except FjarrError as error:
        future.set_exception(error)
    return future
