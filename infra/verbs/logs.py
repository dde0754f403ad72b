"""Print or follow the logs of a stage's app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import UsageError
from infra.resources.log_streams import MAX_LINES, follow_streams, read_streams
from infra.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Generator

    from infra.az.log_records import Kind, LogRecord
    from infra.session import Session


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds of stream that a value of `--kind` selects.

    Raises:
        UsageError: It is not one of the values.
    """
    kinds: dict[str, tuple[Kind, ...]] = {
        "all": ("console", "system"),
        "console": ("console",),
        "system": ("system",),
    }
    if text not in kinds:
        raise UsageError(
            f"--kind {text!r} is not possible{did_you_mean(text, kinds)}", hint=f"use {', '.join(kinds)}"
        )
    return kinds[text]


def read_logs(session: Session, *, tail: int, kinds: tuple[Kind, ...]) -> tuple[LogRecord, ...]:
    """Return the last lines of every stream, ordered by time.

    Args:
        session: The opened stage.
        tail: The number of lines of each stream, at most `MAX_LINES`.
        kinds: Which streams.

    Raises:
        UsageError: `tail` is out of range, or the stage is not provisioned.
        RemoteError: Azure does not return the logs.
    """
    _check_tail(tail)
    with session.console.step("read the logs"):
        return read_streams(session, tail=tail, kinds=kinds)


def follow_logs(session: Session, *, tail: int, kinds: tuple[Kind, ...]) -> Generator[LogRecord]:
    """Yield the last lines of every stream, then each new line as it arrives, until the generator is closed.

    Raises:
        UsageError: `tail` is out of range, or the stage is not provisioned.
        RemoteError: Azure does not return the logs.
    """
    _check_tail(tail)
    yield from follow_streams(session, tail=tail, kinds=kinds)


def _check_tail(tail: int) -> None:
    if not 0 <= tail <= MAX_LINES:
        raise UsageError(
            f"--tail {tail} is not possible", hint=f"a stream gives 0 to {MAX_LINES} lines of its past"
        )
