"""Wait for the first of several events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable


async def first(*waits: Awaitable[Any]) -> None:
    """Wait until the first of several is done. Futures among them are left as they are, others cancelled."""
    await within(None, *waits)


async def within(timeout_s: float | None, *waits: Awaitable[Any]) -> bool:
    """Wait as `first` does, at most for a time, and return whether one was done within it."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for each, task in zip(waits, tasks, strict=True):
            if task is not each:
                task.cancel()
