"""The server on a real socket: oversized heads, slow clients, and clients that disconnect."""

from __future__ import annotations

import asyncio
import json
import statistics
import time

import pytest

from inference.service.requests import Limits
from inference.web.http_protocol import Protocol
from tests.doubles.loop_clock import skip
from tests.doubles.serving import BASE, ENDED, HELLO, KEY, Served, until

PATIENCE_S = 60.0


class Wire:
    """A connection on which a test sends any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> Wire:
        # A small receive buffer, so that unread data stay at the server.
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1024))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def status(self) -> int:
        line = await asyncio.wait_for(self.reader.readline(), PATIENCE_S)
        return int(line.split()[1])

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(-1), PATIENCE_S)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def request(body: bytes, *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    ).encode() + body


def body(**fields: object) -> bytes:
    return json.dumps({"model": BASE, "messages": HELLO} | fields).encode()


@pytest.mark.quiet
async def test_a_client_that_disconnects_frees_its_slot_within_100_ms() -> None:
    served = Served(Limits(max_concurrent=1))
    async with served.on_a_port() as port:
        took_s = []
        for stream in (True, False) * 3:
            served.engine.play(b"talking to", asyncio.Event())
            wire = await Wire.open(port)
            wire.send(request(body(stream=stream)))
            await until(lambda: served.engine.running == 1 and served.service.queue.slots_in_use == 1)
            left_at = time.perf_counter()
            wire.writer.transport.abort()
            await until(lambda: served.service.queue.slots_in_use == 0)
            took_s.append(time.perf_counter() - left_at)
            assert served.engine.running == 0
    # The median leaves the machine's own hiccups out.
    assert statistics.median(took_s) < 0.1, took_s


async def test_a_queued_client_that_disconnects_is_not_admitted() -> None:
    served = Served(Limits(max_concurrent=1))
    async with served.on_a_port() as port:
        inside, waiting = await Wire.open(port), await Wire.open(port)
        inside.send(request(body()))
        await until(lambda: served.service.queue.slots_in_use == 1)
        waiting.send(request(body()))
        await until(lambda: served.service.queue.waiting == 1)
        await waiting.close()
        await until(lambda: served.service.queue.waiting == 0)
        assert len(served.engine.requests) == 1
        await inside.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 1_000_000,
        b"GET /v1/" + b"x" * 1_000_000,
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(100_000)),
    ],
)
async def test_an_endless_head_is_rejected_while_it_arrives(head: bytes) -> None:
    served = Served()
    async with served.on_a_port() as port:
        wire = await Wire.open(port)
        wire.send(head)
        assert await wire.status() == 431
        answer = (await wire.rest()).partition(b"\r\n\r\n")[2]
        assert json.loads(answer)["error"]["type"] == "invalid_request_error"
        await wire.close()
        assert (await served.get("/healthz")).status_code == 200


async def test_malformed_http_gets_an_error() -> None:
    served = Served()
    async with served.on_a_port() as port:
        for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n"):
            wire = await Wire.open(port)
            wire.send(nonsense)
            assert await wire.status() == 400
            assert b'"code": "invalid_http"' in await wire.rest()
            await wire.close()


async def test_an_incomplete_head_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "head_timeout_s", 0.1)
    served = Served()
    async with served.on_a_port() as port:
        wire = await Wire.open(port)
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await wire.status() == 200
        await wire.reader.readuntil(b'{"status":"ok"}')
        # The first request is complete, the next one's head is not.
        wire.send(b"GET /v1/models HT")
        assert await wire.status() == 408
        assert b"The request's headers did not arrive in time." in await wire.rest()
        await wire.close()
        silent = await Wire.open(port)
        assert await silent.rest() == b""
        await silent.close()


async def test_a_long_answer_is_not_taken_for_a_slow_head() -> None:
    served = Served()
    async with served.on_a_port() as port:
        gate = asyncio.Event()
        served.engine.play(gate, ENDED)
        wire = await Wire.open(port)
        wire.send(request(body()))
        await until(lambda: served.engine.running == 1)
        await skip(2 * Protocol.head_timeout_s)
        gate.set()
        assert await wire.status() == 200
        await wire.close()


async def test_a_body_that_does_not_arrive_is_answered_and_its_connection_closed() -> None:
    served = Served(body_timeout_s=0.1)
    async with served.on_a_port() as port:
        wire = await Wire.open(port)
        wire.send(request(b'{"model"', length=1000))
        assert await wire.status() == 408
        assert b"The body did not arrive within 0.1 s." in await wire.rest()
        await wire.close()


async def test_a_client_that_does_not_read_loses_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "read_timeout_s", 0.1)
    served = Served(Limits(max_concurrent=1))
    # Enough to fill the buffers of the kernel and the server.
    served.engine.contexts = {BASE: 10**9}
    served.engine.always = tuple(b"x" * 50_000 for _ in range(1000))
    async with served.on_a_port() as port:
        wire = await Wire.open(port)
        wire.send(request(body(stream=True, max_tokens=10**8)))
        assert await wire.status() == 200
        await until_later(lambda: served.service.queue.slots_in_use == 0)
        assert served.engine.cancelled
        wire.writer.transport.abort()


async def until_later(condition: object) -> None:
    """Wait for a condition that takes real time, without keeping a core busy."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
