"""A server that reads slowly, or not at all: the engine goes on, other servers too, and memory is bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from inference.engines.protocol import Increment, TokenLogprobs
from inference.engines.remote import host as host_module
from inference.errors import EngineError
from tests.doubles.engine_host import PATIENCE_S, HostedEngine, hosted_engine, make_request, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COUNT = 400
LARGE = Increment((1,), None, (TokenLogprobs(-1.0, tuple((token, -2.0) for token in range(2000))),))
"""Larger than a socket's buffers after some dozens."""


@pytest.fixture
async def hosted() -> AsyncIterator[HostedEngine]:
    async with hosted_engine() as hosted:
        yield hosted


def play_answers(hosted: HostedEngine, done: asyncio.Event) -> None:
    """One large answer for the first request, whose end sets an event."""
    last = Increment((0,), "stop", LARGE.logprobs)
    hosted.engine.play(*[LARGE] * COUNT, last)
    hosted.engine.play((2,), done, (3, 0))


async def test_a_slow_server_gets_everything_later_and_delays_nobody(
    hosted: HostedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "BUFFER_BYTES", 2**16)
    hosted.serve()
    slow, quick = await hosted.connect(), await hosted.connect()
    done = asyncio.Event()
    play_answers(hosted, done)
    slow._connection._transport.pause_reading()
    late = slow.submit(make_request(count=COUNT + 1))
    await until(lambda: hosted.engine.generated_tokens > COUNT)
    # The engine is at the end of it, and what the transport holds is bounded.
    (connection,) = (each for each in hosted.host.connections if each.count_requests())
    assert connection._transport.get_write_buffer_size() < 2 * 2**20
    soon = quick.submit(make_request())
    assert (await anext(soon)).token_ids == (2,)
    done.set()
    assert (await anext(soon)).token_ids == (3, 0)
    slow._connection._transport.resume_reading()
    async with asyncio.timeout(PATIENCE_S):
        increments = [increment async for increment in late]
    assert sum(len(increment.token_ids) for increment in increments) == COUNT + 1
    assert sum(len(increment.logprobs) for increment in increments) == COUNT + 1
    assert increments[-1].finish_reason == "stop"


async def test_a_server_that_reads_nothing_is_disconnected_and_its_requests_dropped(
    hosted: HostedEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_module, "BUFFER_BYTES", 2**16)
    hosted.host.stall_limit_s = 0.05
    hosted.serve()
    stuck = await hosted.connect()
    hosted.engine.play(*[LARGE] * COUNT)
    stuck._connection._transport.pause_reading()
    stream = stuck.submit(make_request(count=2 * COUNT))
    await until(lambda: hosted.engine.cancelled == ["r"])
    assert (
        "a server is disconnected: it has read nothing for 0.05 s, and 1 requests wait for it" in caplog.text
    )
    assert hosted.host.count_requests() == 0
    stuck._connection._transport.resume_reading()

    async def read_all() -> None:
        async for _ in stream:
            pass

    with pytest.raises(EngineError, match="the engine process has ended"):
        await read_all()
