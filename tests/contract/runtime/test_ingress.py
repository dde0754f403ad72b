"""The ingress's guarantees: it streams in both directions, sends nothing twice, and buffers nothing."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
import pytest

from localcloud.runtime.ingress import Backend, Ingress, new_session
from localcloud.runtime.sockets import free_port
from localcloud.runtime.spec import Limits
from tests.doubles.loop_clock import skip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT_S = Limits().request_limit_s
APP = "app"
REVISION = "app--0000001"

WEBSOCKETS = r"""
import asyncio, os
from aiohttp import WSMsgType, web

async def echo(request):
    if request.query.get("refuse"):
        raise web.HTTPForbidden
    socket = web.WebSocketResponse(protocols=["second"], max_msg_size=0)
    await socket.prepare(request)
    await socket.send_json([request.headers.get("Cookie"), request.headers.get("X-Forwarded-Proto")])
    async for message in socket:
        if message.type is WSMsgType.TEXT and message.data == "close":
            await socket.close(code=4001, message=b"as you wish")
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    print("socket closed", socket.close_code, flush=True)
    return socket

async def ready(request):
    return web.Response()

app = web.Application()
app.router.add_get("/socket", echo)
app.router.add_get("/readyz", ready)
web.run_app(app, host="127.0.0.1", port=int(os.environ["CONTAINER_APP_PORT"]), print=None)
"""


async def raw(port: int, request: bytes) -> bytes:
    """Send bytes, and return everything that comes until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    return answer


async def test_passes_paths_and_headers_as_they_are_and_drops_what_is_hop_by_hop(bench: Any) -> None:
    await bench.up()
    answer = await raw(
        bench.port,
        b"GET /headers?q=a%2Fb+c&x=%7e HTTP/1.1\r\nHost: my.host\r\nX-Mine: 1\r\nX-Mine: 2\r\n"
        b"Connection: close, X-Secret-Hop\r\nX-Secret-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\n"
        b"X-Forwarded-For: 10.0.0.9\r\nX-Request-Id: mine\r\nX-Forwarded-Proto: https\r\n\r\n",
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    path, headers = json.loads(body)
    assert path == "/headers?q=a%2Fb+c&x=%7e"
    assert sorted([name.title(), value] for name, value in headers) == [
        ["Connection", "close"],
        ["Host", "my.host"],
        ["X-Forwarded-For", "10.0.0.9, 127.0.0.1"],
        ["X-Forwarded-Host", "my.host"],
        ["X-Forwarded-Proto", "http"],
        ["X-Mine", "1"],
        ["X-Mine", "2"],
        ["X-Request-Id", "mine"],
    ]
    assert re.findall(rb"(?i)set-cookie: (.*)\r\n", head) == [b"a=1", b"b=2"]
    assert b"X-Own: yes" in head
    assert b"Keep-Alive" not in head


async def test_names_a_request_that_has_no_id(bench: Any) -> None:
    await bench.up()
    names = []
    for _ in range(2):
        _, text = await bench.get("/headers")
        names += [value for name, value in json.loads(text)[1] if name.lower() == "x-request-id"]
    assert len(names) == 2
    assert names[0] != names[1]
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in names)


async def test_passes_redirects_head_and_missing_pages_on(bench: Any) -> None:
    await bench.up()
    async with bench.session.get(bench.url + "/redirect", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/elsewhere")
    async with bench.session.head(bench.url + "/name") as response:
        (replica,) = bench.host.replicas(REVISION)
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(replica.name)))
    assert (await bench.get("/nowhere"))[0] == 404


@pytest.mark.parametrize("size", [0, 1, 60_000, 3_000_000])
async def test_passes_bodies_of_any_size_both_ways(bench: Any, size: int) -> None:
    await bench.up()
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with bench.session.post(bench.url + "/echo", data=io.BytesIO(body)) as response:
        assert (response.status, await response.read()) == (200, body)


async def test_streams_a_request_body_as_it_comes(bench: Any) -> None:
    await bench.up()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        # The second piece is sent only after the container has logged the first.
        await bench.line("got 5")
        yield b"second!"

    async with bench.session.post(bench.url + "/echo", data=pieces()) as response:
        assert (response.status, await response.text()) == (200, "firstsecond!")


async def test_answers_100_continue_itself(bench: Any) -> None:
    await bench.up()
    async with bench.session.post(bench.url + "/echo", data=b"hello", expect100=True) as response:
        assert (response.status, await response.text()) == (200, "hello")


@pytest.mark.quiet
async def test_streams_events_one_by_one_and_at_once(bench: Any) -> None:
    await bench.up()
    delays, pieces = [], 0
    async with bench.session.get(bench.url + "/stream?pieces=40&gap=0.05") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        async for piece in response.content.iter_any():
            now = time.monotonic()
            events = piece.decode().split("\n\n")[:-1]
            pieces += len(events)
            delays += [now - float(event.split()[-1]) for event in events]
    assert pieces == 40
    # Both clocks are the machine's one monotonic clock. The median leaves the machine's own hiccups out.
    assert statistics.median(delays) < 0.05


@pytest.mark.quiet
@pytest.mark.parametrize("begin", ["yes", "no"])
async def test_closes_the_request_at_once_when_the_client_leaves(bench: Any, begin: str) -> None:
    await bench.up()
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(f"GET /hang?begin={begin} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await bench.line("hanging")
    if begin == "yes":
        await reader.readuntil(b"begun\n")
    left = time.monotonic()
    writer.close()
    line = await bench.line("client ")
    assert line.startswith("client left")
    assert float(line.split()[-1]) - left < 2


async def test_gives_a_request_a_limited_time(bench: Any) -> None:
    await bench.up()
    asking = asyncio.create_task(bench.get("/hang"))
    await bench.line("hanging")
    await skip(LIMIT_S)
    assert await asking == (504, "stream timeout\n")
    assert (await bench.line("client ")).startswith("client left")


async def test_cuts_an_answer_that_takes_too_long_where_the_client_sees_it(bench: Any) -> None:
    await bench.up()
    async with bench.session.get(bench.url + "/stream?pieces=100&gap=0.05") as response:
        assert response.status == 200
        await skip(LIMIT_S)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    # The readiness probe may have been cut off by the same leap.
    async with asyncio.timeout(60):
        while (await bench.get("/name"))[0] != 200:
            pass


async def test_counts_the_limit_from_the_end_of_the_request_body(bench: Any) -> None:
    await bench.up()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"first"
        await bench.line("got 5")
        await skip(LIMIT_S + 1)
        yield b"second!"

    async with bench.session.post(bench.url + "/echo", data=slowly()) as response:
        assert (response.status, await response.text()) == (200, "firstsecond!")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_sends_a_request_that_was_reset_elsewhere_only_if_its_method_is_safe(
    bench: Any, method: str
) -> None:
    await bench.up(bench.spec(replicas=2))
    names = [replica.name for replica in bench.host.replicas(REVISION)]
    async with bench.session.request(method, bench.url + "/reset") as response:
        text = await response.text()
    logs = [await resets(bench, name) for name in names]
    if method == "GET":
        assert (response.status, logs) == (503, [1, 1])
        assert text.startswith("container app 'app': no answer from its ready replicas (app--0000001-")
    else:
        assert (response.status, sum(logs)) == (502, 1)
        assert re.match(r"replica app--0000001-\S+ closed the connection: ", text)


async def resets(bench: Any, replica: str) -> int:
    log = bench.host.console_log(REVISION, replica, tail=100)
    return sum([record.text == "resetting" async for record in log])


async def test_sends_any_request_elsewhere_if_no_connection_was_made() -> None:
    async def echo(request: aiohttp.web.BaseRequest) -> aiohttp.web.Response:
        return aiohttp.web.Response(body=await request.read())

    server = aiohttp.web.ServerRunner(aiohttp.web.Server(echo))
    await server.setup()
    ports = [free_port()]
    for _ in range(2):
        ports.append(free_port(ports))
    await aiohttp.web.TCPSite(server, "127.0.0.1", ports[0]).start()
    backends = [Backend("works", ports[0]), Backend("gone", ports[1])]
    async with new_session(Limits()) as session:
        ingress = Ingress("app", lambda: backends, session, Limits())
        await ingress.listen(ports[2])
        url = f"http://127.0.0.1:{ports[2]}/"
        for data in (b"small", b"large" * 100_000):
            for _ in range(2):
                async with session.post(url, data=data) as response:
                    assert (response.status, await response.read()) == (200, data)
        backends.pop(0)
        async with session.post(url, data=b"x") as response:
            assert response.status == 503
            assert await response.text() == "container app 'app': no answer from its ready replicas (gone)\n"
        await ingress.close()
    await server.cleanup()


async def test_goes_round_the_ready_replicas(bench: Any) -> None:
    await bench.up(bench.spec(replicas=2))
    names = [(await bench.get("/name"))[1] for _ in range(10)]
    assert sorted(names.count(name) for name in set(names)) == [5, 5]


async def test_listens_on_loopback_alone(bench: Any) -> None:
    await bench.up()
    sockets = psutil.Process().net_connections(kind="inet")
    listening = {one.laddr for one in sockets if one.status == psutil.CONN_LISTEN}
    assert ("127.0.0.1", bench.port) in listening
    assert {ip for ip, _ in listening} == {"127.0.0.1"}


async def test_says_that_its_port_is_taken(bench: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=str(port)):
            await bench.host.start_app("other", port)
    assert await bench.host.start_app("other", port) == port
    assert await bench.host.start_app("other") == port


async def test_serves_the_revision_that_was_chosen(bench: Any) -> None:
    await bench.up()
    second = replace(bench.spec(), revision="app--0000002")
    await bench.host.run(second)
    await bench.host.wait_ready("app--0000002")
    assert (await bench.get("/name"))[1].startswith("app--0000001-")
    await bench.host.serve(APP, "app--0000002")
    assert (await bench.get("/name"))[1].startswith("app--0000002-")


async def test_refuses_what_a_reverse_proxy_does_not_do(bench: Any) -> None:
    answer = await raw(bench.port, b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405 ")
    garbage = await raw(bench.port, b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    assert garbage.startswith(b"HTTP/1.0 400 ")


@pytest.fixture
async def sockets(bench: Any) -> Any:
    bench.server.write_text(WEBSOCKETS)
    await bench.up()
    return bench


async def test_passes_websockets_through(sockets: Any) -> None:
    options = {"protocols": ["first", "second"], "headers": {"Cookie": "a=b"}, "max_msg_size": 0}
    async with sockets.session.ws_connect(sockets.url + "/socket", **options) as socket:
        assert socket.protocol == "second"
        assert await socket.receive_json() == ["a=b", "http"]
        await socket.send_str("grüße")
        assert await socket.receive_str() == "grüße"
        large = b"\x00\xff" * 5_000_000
        await socket.send_bytes(large)
        assert await socket.receive_bytes() == large
        await socket.send_str("close")
        message = await socket.receive()
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4001, "as you wish")


async def test_passes_a_clients_close_on(sockets: Any) -> None:
    async with sockets.session.ws_connect(sockets.url + "/socket") as socket:
        await socket.receive()
        await socket.close(code=4002)
    assert await sockets.line("socket closed") == "socket closed 4002"


async def test_closes_the_websocket_of_a_client_that_vanishes(sockets: Any) -> None:
    async with sockets.session.ws_connect(sockets.url + "/socket") as socket:
        await socket.receive()
        socket.get_extra_info("socket")
        socket._response.connection.transport.abort()
        assert (await sockets.line("socket closed")).startswith("socket closed ")


async def test_passes_the_refusal_of_a_websocket_on(sockets: Any) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await sockets.session.ws_connect(sockets.url + "/socket?refuse=1")
    assert caught.value.status == 403


async def test_a_websocket_has_no_time_limit(sockets: Any) -> None:
    async with sockets.session.ws_connect(sockets.url + "/socket") as socket:
        await socket.receive()
        await skip(LIMIT_S + 1)
        await socket.send_str("still here")
        assert await socket.receive_str() == "still here"
