"""Ten thousand requests, however they end, leak no memory."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import tracemalloc
from typing import Any

import pytest

from inference.service.requests import Limits
from tests.doubles.serving import BASE, END, HELLO, KEY, Served, until

WARM_UP = 2_000
REQUESTS = 10_000
AT_ONCE = 20

MOST_GROWTH_BYTES = 250_000
"""Over 8,000 requests: 31 bytes a request, less than the smallest object that a request could leave behind
(an empty dictionary has 64), and more than what caches and the allocator's own lists grew by in trials."""


class Connection:
    """One request without an HTTP client, which may disconnect after the first text."""

    def __init__(self, body: bytes, key: str, *, leaves: bool) -> None:
        self.status = 0
        self._body: list[bytes] = [body]
        self._leaves = leaves
        self._gone = asyncio.Event()
        self._key = key

    async def run(self, served: Served) -> int:
        headers = [
            (b"authorization", f"Bearer {self._key}".encode()),
            (b"content-type", b"application/json"),
        ]
        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"",
            "root_path": "", "scheme": "http", "query_string": b"", "http_version": "1.1",
            "server": ("server", 80), "client": None, "headers": headers,
        }  # fmt: skip
        await served.app(scope, self._receive, self._send)
        return self.status

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        if self._leaves and b"Hi" in message.get("body", b""):
            self._gone.set()


def body(**fields: object) -> bytes:
    return json.dumps({"model": BASE, "messages": HELLO} | fields).encode()


def connection(number: int) -> Connection:
    """Return one of the five kinds of request, in turn."""
    kind = number % 5
    stream = kind in {1, 2}
    return Connection(
        body(stream=stream, **({"max_tokens": "many"} if kind == 3 else {})),
        "wrong" if kind == 4 else KEY,
        leaves=kind == 2,
    )


async def send(served: Served, first: int, last: int) -> list[int]:
    statuses: list[int] = []
    for start in range(first, last, AT_ONCE):
        batch = [connection(number).run(served) for number in range(start, start + AT_ONCE)]
        statuses += await asyncio.gather(*batch)
    return statuses


@pytest.mark.soak
async def test_ten_thousand_requests_leave_nothing_behind() -> None:
    logging.getLogger("inference").setLevel(logging.CRITICAL)
    # Of twenty at once four run, six wait and the rest are rejected.
    served = Served(Limits(max_concurrent=4, max_waiting=6))
    served.engine.always = (b"Hi", b" there", b" and", (END,))
    tracemalloc.start()
    try:
        await send(served, 0, WARM_UP)
        before = await measure(served)
        statuses = await send(served, WARM_UP, REQUESTS)
        grown = await measure(served) - before
    finally:
        tracemalloc.stop()
        logging.getLogger("inference").setLevel(logging.NOTSET)
        await served.close()
    assert {200, 400, 401, 429}.issubset(statuses)
    assert grown < MOST_GROWTH_BYTES, f"{grown} bytes, {grown / (REQUESTS - WARM_UP):.1f} a request"


async def measure(served: Served) -> int:
    """Return how many bytes are held once all that has ended is gone."""
    await until(lambda: served.service.queue.slots_in_use == 0 and served.engine.running == 0)
    # The double keeps requests for tests to inspect; that is not the server's memory.
    served.engine.requests.clear()
    served.engine.cancelled.clear()
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)
    return tracemalloc.get_traced_memory()[0]
