"""The clock of the event loop, which a test sets forward instead of waiting."""

from __future__ import annotations

import asyncio
from typing import Final

_ITERATIONS: Final = 50


async def skip(seconds: float) -> None:
    """Let run what can run now, and set the running loop's clock forward, so that time limits are reached.

    A limit that is tested like this can be so long that even a busy machine does not exceed it by itself.
    """
    for _ in range(_ITERATIONS):
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    earlier = loop.time
    loop.time = lambda: earlier() + seconds  # type: ignore[method-assign]
