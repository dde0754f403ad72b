"""An engine behind a Unix socket: what crosses it, and what happens when one of its ends is gone."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from inference.engines.protocol import Increment, Sampling, Stopping, TokenLogprobs
from inference.engines.remote import engine as remote_engine
from inference.engines.remote import handshake
from inference.engines.remote.engine import connect
from inference.engines.remote.host import EngineHost
from inference.errors import EngineError, LoadError, ProtocolVersionError, RequestRefusedError, ScoresError
from tests.doubles.engine_host import (
    END,
    PATIENCE_S,
    HostedEngine,
    description_of,
    hosted_engine,
    make_request,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from inference.engines.remote.messages import Step


@pytest.fixture
async def hosted() -> AsyncIterator[HostedEngine]:
    async with hosted_engine() as hosted:
        yield hosted


async def test_a_description_and_a_whole_request_and_its_answer_cross(hosted: HostedEngine) -> None:
    hosted.serve(failed_adapters={"bad": "it does not fit"})
    server = await hosted.connect()
    assert server.description == description_of(hosted.engine, failed_adapters={"bad": "it does not fit"})
    assert (server.abilities, server.cache_tokens) == (hosted.engine.abilities, 4096)
    assert [server.context_tokens(name) for name in ("m", "n")] == [100, 200]
    sent = replace(
        make_request("n", 9, top_logprobs=2, grammar='start: "\u00e4"', prompt_logprobs=0),
        sampling=Sampling(5e-324, 0.5, 3, 1e-9, -2.0, 2.0, 1.5, ((7, -100.0), (8, 5e-324)), seed=-(2**63)),
        stopping=Stopping(2, ignore_eos=True, stop_token_ids=(7, 2**31)),
    )
    logprobs = (TokenLogprobs(-0.5, ((3, -0.5), (4, -math.inf))),)
    first = Increment((3,), None, logprobs, (TokenLogprobs(-1.25),))
    hosted.engine.play(first, Increment((7,), "stop", logprobs))
    increments = [increment async for increment in server.submit(sent)]
    assert hosted.engine.requests == [sent]
    assert [token for increment in increments for token in increment.token_ids] == [3, 7]
    assert [entry for increment in increments for entry in increment.logprobs] == [*logprobs, *logprobs]
    assert increments[0].prompt_logprobs == (TokenLogprobs(-1.25),)
    assert increments[-1].finish_reason == "stop"
    assert server.count_requests() == hosted.host.count_requests() == 0


async def test_what_a_step_brings_to_many_requests_is_one_message(
    hosted: HostedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted.serve()
    server = await hosted.connect()
    gate = asyncio.Event()
    for _ in range(20):
        hosted.engine.play(gate, (1,), (END,))
    streams = [server.submit(make_request()) for _ in range(20)]
    await until(lambda: hosted.engine.running == 20)
    received: list[Step] = []
    decoder = remote_engine.DECODER

    class Recorder:
        def decode(self, data: bytes) -> Step:
            received.append(decoder.decode(data))
            return received[-1]

    monkeypatch.setattr(remote_engine, "DECODER", Recorder())
    gate.set()
    for stream in streams:
        assert [token async for increment in stream for token in increment.token_ids] == [1, END]
    assert len(received) <= 3
    assert sum(len(increment.token_ids) for step in received for _, increment in step.rows) == 40


@pytest.mark.parametrize(
    "error", [EngineError("device lost"), RequestRefusedError("no such token"), ScoresError(7)]
)
async def test_errors_cross_with_their_kind_and_text_after_the_tokens_before(
    hosted: HostedEngine, error: EngineError
) -> None:
    hosted.serve()
    server = await hosted.connect()
    hosted.engine.play((1,), (2,), error)
    tokens: list[int] = []

    async def read() -> None:
        async for increment in server.submit(make_request()):
            tokens.extend(increment.token_ids)

    with pytest.raises(EngineError) as caught:
        await read()
    assert tokens == [1, 2]
    assert (type(caught.value), str(caught.value)) == (type(error), str(error))
    assert server.is_alive


async def test_what_the_engine_raises_at_once_ends_the_stream(hosted: HostedEngine) -> None:
    hosted.serve()
    server = await hosted.connect()
    with pytest.raises(KeyError, match="absent"):
        server.submit(make_request("absent"))
    # A model that the server knows, and the engine no longer has.
    hosted.engine.contexts = {"m": 100}
    with pytest.raises(RequestRefusedError, match="does not serve the model n"):
        await anext(server.submit(make_request("n")))


async def test_a_cancelled_request_is_dropped_by_the_engine(hosted: HostedEngine) -> None:
    hosted.serve()
    server = await hosted.connect()
    hosted.engine.play((1,))
    stream = server.submit(make_request())
    assert await anext(stream) == Increment((1,))
    stream.cancel()
    stream.cancel()
    assert server.count_requests() == 0
    await until(lambda: hosted.engine.cancelled == ["r"])
    assert [increment async for increment in stream] == []
    # In one message with the request itself.
    server.submit(make_request()).cancel()
    await until(lambda: hosted.engine.cancelled == ["r", "r"])
    await until(lambda: hosted.engine.running == 0)
    assert hosted.host.count_requests() == 0


async def test_each_server_has_requests_of_its_own_which_end_with_it(hosted: HostedEngine) -> None:
    hosted.serve()
    old, new = await hosted.connect(), await hosted.connect()
    gate = asyncio.Event()
    hosted.engine.play((1,))
    hosted.engine.play((2,), gate, (3, END))
    mine = old.submit(make_request())
    assert await anext(mine) == Increment((1,))
    others = new.submit(make_request())
    assert await anext(others) == Increment((2,))
    await old.close()
    with pytest.raises(EngineError, match="stopped"):
        await anext(mine)
    await until(lambda: hosted.engine.cancelled == ["r"])
    assert not old.is_alive
    with pytest.raises(EngineError, match="stopped"):
        old.submit(make_request())
    gate.set()
    assert await anext(others) == Increment((3, END), "stop")
    assert new.is_alive


async def test_the_end_of_the_engine_s_process_ends_streams_and_is_seen(hosted: HostedEngine) -> None:
    hosted.serve()
    server = await hosted.connect()
    hosted.engine.play((1,))
    stream = server.submit(make_request())
    await anext(stream)
    for connection in hosted.host.connections:
        connection._transport.abort()
    with pytest.raises(EngineError, match="the engine process has ended"):
        await anext(stream)
    assert not server.is_alive
    assert server.changed.is_set()
    with pytest.raises(EngineError, match="stopped"):
        server.submit(make_request())


async def test_the_engine_s_death_is_noticed_when_a_request_fails(hosted: HostedEngine) -> None:
    hosted.serve()
    server = await hosted.connect()
    death = asyncio.create_task(hosted.host.wait_for_death())
    hosted.engine.play((1,))
    stream = server.submit(make_request())
    await anext(stream)
    hosted.engine.die()
    with pytest.raises(EngineError):
        await anext(stream)
    await asyncio.wait_for(death, PATIENCE_S)


async def test_progress_reaches_servers_and_watchers_of_any_version(hosted: HostedEngine) -> None:
    statuses: list[handshake.EngineStatus] = []
    connecting = asyncio.create_task(connect(hosted.path, "server's", hosted.tokenizers, statuses.append))
    reader, writer = await asyncio.open_unix_connection(hosted.path)
    writer.write(handshake.hello_line(handshake.Hello(999, "supervisor's", "status")))
    hello = handshake.read_hello(await reader.readline())
    assert (hello.version, hello.release) == (handshake.VERSION, "engine's")
    first = handshake.read_status(await reader.readline())
    await until(lambda: len(statuses) == 1)
    hosted.host.report("loading", 30)
    hosted.serve()
    server = await connecting
    loading = handshake.EngineStatus("starting", "loading", 30)
    ready = handshake.EngineStatus("ready", models=("m", "n"))
    assert statuses == [first, loading, ready]
    assert [handshake.read_status(await reader.readline()) for _ in range(2)] == [loading, ready]
    await server.close()
    assert (await hosted.connect()).description == server.description
    hosted.host.set_status(handshake.EngineStatus("failed", reason="device lost"))
    assert handshake.read_status(await reader.readline()).reason == "device lost"
    writer.close()
    await writer.wait_closed()


async def test_a_change_of_what_is_served_reaches_all_servers(hosted: HostedEngine) -> None:
    hosted.serve()
    servers = await hosted.connect(), await hosted.connect()
    hosted.engine.contexts = {"m": 100, "n": 200, "new": 300}
    hosted.host.describe(description_of(hosted.engine))
    for server in servers:
        await asyncio.wait_for(server.changed.wait(), PATIENCE_S)
        assert server.context_tokens("new") == 300


async def test_a_change_just_after_the_start_is_not_lost(hosted: HostedEngine) -> None:
    statuses: list[handshake.EngineStatus] = []
    connecting = asyncio.create_task(connect(hosted.path, "", hosted.tokenizers, statuses.append))
    await until(lambda: bool(statuses))
    hosted.serve()
    hosted.engine.contexts = {"m": 100, "n": 200, "new": 300}
    hosted.host.describe(description_of(hosted.engine))
    server = await connecting
    hosted.servers.append(server)
    assert server.context_tokens("new") == 300


async def test_another_version_is_refused_at_both_ends_with_the_releases(
    hosted: HostedEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hosted.serve()
    monkeypatch.setattr(remote_engine, "VERSION", handshake.VERSION + 1)
    with pytest.raises(ProtocolVersionError, match=r"release server's\) speaks .* \(release engine's\)"):
        await hosted.connect()
    await until(lambda: not hosted.host.connections)
    assert "a connection is refused: the server (release server's) speaks version" in caplog.text


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000, b'{"protocol": "fjarr-engine"}\n']
)
async def test_a_client_that_speaks_something_else_is_disconnected(hosted: HostedEngine, sent: bytes) -> None:
    hosted.serve()
    server = await hosted.connect()
    reader, writer = await asyncio.open_unix_connection(hosted.path)
    writer.write(sent)
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) < 200
    writer.close()
    hosted.engine.play((END,))
    assert await anext(server.submit(make_request())) == Increment((END,), "stop")


@pytest.mark.parametrize("sent", [b"\x00\x00\x00\x03abc", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\x80"])
async def test_a_server_whose_frames_are_no_messages_is_disconnected(
    hosted: HostedEngine, sent: bytes
) -> None:
    hosted.serve()
    server = await hosted.connect()
    server._connection._transport.write(sent)
    await until(lambda: not server.is_alive)
    assert (await hosted.connect()).is_alive


async def test_an_engine_that_is_not_there_or_ends_early_is_an_os_error(hosted: HostedEngine) -> None:
    with pytest.raises(OSError, match="No such file"):
        await connect(hosted.path.with_name("absent"), "", hosted.tokenizers)
    connecting = asyncio.create_task(hosted.connect())
    await until(lambda: bool(hosted.host.connections))
    await hosted.host.close()
    with pytest.raises(ConnectionError):
        await connecting


async def test_a_later_process_takes_over_the_path_and_no_connection(hosted: HostedEngine) -> None:
    hosted.serve()
    old = await hosted.connect()
    successor = EngineHost(hosted.path, "later")
    await successor.open()
    successor.begin_serving(hosted.engine, description_of(hosted.engine, engine="later"))
    assert old.is_alive
    assert (await hosted.connect()).description.engine == "later"
    # The earlier one leaves the path alone, which is no longer its own.
    await hosted.host.close()
    assert (await hosted.connect()).description.engine == "later"
    await until(lambda: not old.is_alive)
    await successor.close()
    assert not hosted.path.exists()


async def test_a_path_that_is_too_long_is_an_error_with_its_reason(hosted: HostedEngine) -> None:
    with pytest.raises(LoadError, match=r"cannot listen on .*: AF_UNIX path too long"):
        await EngineHost(hosted.path.with_name("x" * 200), "").open()
