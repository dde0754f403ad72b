"""Overload, timeouts, failures and clients that disconnect."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from inference.errors import EngineError
from inference.service.requests import Limits
from tests.doubles.api_server import BASE, ENDED, HELLO, KEY, SETTINGS, ApiServer
from tests.doubles.loop_clock import skip

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_a_bug_is_answered_without_its_trace(api_server: ApiServer) -> None:
    api_server.service.begin = None  # type: ignore[assignment,method-assign]  # so that calling it is a bug
    response = await api_server.chat()
    error = response.json()["error"]
    assert response.status_code == 500
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert response.headers["x-request-id"] in error["message"]
    assert "NoneType" not in response.text


async def test_requests_beyond_the_queue_are_rejected(api_server: ApiServer) -> None:
    gate = asyncio.Event()
    for _ in range(3):
        api_server.engine.play(gate, ENDED)
    tasks = [asyncio.create_task(api_server.chat()) for _ in range(3)]
    await until(lambda: api_server.service.queue.waiting == 1)
    response = await api_server.chat()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    gate.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200, 200, 200]
    assert (api_server.service.queue.slots_in_use, api_server.service.queue.waiting) == (0, 0)


async def test_requests_before_and_after_serving_are_rejected_with_the_state() -> None:
    api_server = ApiServer(Limits(), SETTINGS, is_ready=False)
    api_server.service.report("loading the base model", 30)
    ready = await api_server.http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {"status": "starting", "phase": "loading the base model", "percent": 30}
    response = await api_server.chat()
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["error"]["code"] == "starting"
    assert (await api_server.http.get("/v1/models")).status_code == 503
    page = await api_server.http.get("/", headers={"Authorization": ""})
    assert page.status_code == 401

    api_server.start()
    assert (await api_server.http.get("/readyz")).json() == {"status": "ready"}
    api_server.service.begin_draining()
    assert (await api_server.http.get("/readyz")).json() == {"status": "draining"}
    assert (await api_server.http.get("/healthz")).status_code == 200
    response = await api_server.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "draining")
    await api_server.close()


async def test_a_dead_engine_is_detected_and_ends_its_requests(api_server: ApiServer) -> None:
    api_server.engine.play(b"half an ", asyncio.Event())
    task = asyncio.create_task(api_server.chat())
    await until(lambda: api_server.engine.generated_tokens == 8)
    api_server.engine.die()
    response = await task
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_failed")
    assert (await api_server.http.get("/healthz")).status_code == 503
    assert (await api_server.http.get("/readyz")).status_code == 503
    assert (await api_server.chat()).json()["error"]["code"] == "engine_dead"
    assert api_server.service.queue.slots_in_use == 0


async def test_a_stream_that_fails_ends_with_an_error_event(api_server: ApiServer) -> None:
    api_server.engine.play(b"half an ", EngineError("out of memory"))
    stream = await api_server.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        stream=True,
    )
    with pytest.raises(openai.APIError, match="The engine failed before the answer was complete"):
        async for _ in stream:
            pass
    api_server.engine.play(b"half an ", EngineError("out of memory"))
    text = (await api_server.chat(stream=True)).text
    assert "[DONE]" not in text
    assert "out of memory" not in text


async def test_a_request_times_out(api_server: ApiServer) -> None:
    api_server.engine.play(b"slow", asyncio.Event())
    asking = asyncio.create_task(api_server.chat())
    await until(lambda: api_server.engine.generated_tokens == 4)
    await skip(Limits().request_timeout_s)
    response = await asking
    assert (response.status_code, response.json()["error"]["code"]) == (503, "request_timeout")
    assert "after 4 tokens" in response.json()["error"]["message"]
    # Without it the official client would retry twice.
    assert response.headers["x-should-retry"] == "false"
    assert api_server.engine.cancelled
    assert api_server.service.queue.slots_in_use == 0


async def test_an_idle_stream_sends_heartbeats(api_server: ApiServer) -> None:
    gate = asyncio.Event()
    api_server.engine.play(gate, ENDED)
    client = Client(api_server, stream=True)
    await client.wait_for(b": still there")
    gate.set()
    await client.wait_for(b"[DONE]")
    await client.task


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_frees_its_slot(api_server: ApiServer, *, stream: bool) -> None:
    api_server.engine.play(b"talking to", asyncio.Event())
    client = Client(api_server, stream=stream)
    await until(lambda: api_server.engine.generated_tokens == 10)
    client.leave()
    await client.task
    assert api_server.engine.cancelled == [api_server.engine.requests[0].request_id]
    assert api_server.service.queue.slots_in_use == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_queued_client_that_disconnects_leaves_the_queue(
    api_server: ApiServer, *, stream: bool
) -> None:
    insiders = [Client(api_server, stream=False) for _ in range(2)]
    await until(lambda: api_server.service.queue.slots_in_use == 2)
    client = Client(api_server, stream=stream)
    await until(lambda: api_server.service.queue.waiting == 1)
    client.leave()
    await client.task
    assert (api_server.service.queue.slots_in_use, api_server.service.queue.waiting) == (2, 0)
    assert len(api_server.engine.requests) == 2
    for insider in insiders:
        insider.leave()
        await insider.task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it lets the other tasks run; no time passes
            await asyncio.sleep(0)


class Client:
    """A client on the ASGI level, which sees what has arrived so far and can disconnect."""

    def __init__(self, api_server: ApiServer, *, stream: bool) -> None:
        self.received = b""
        self._left = asyncio.Event()
        self._news = asyncio.Event()
        body = json.dumps({"model": BASE, "messages": HELLO, "stream": stream}).encode()
        self._messages = [{"type": "http.request", "body": body, "more_body": False}]
        headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"",
            "root_path": "", "scheme": "http", "query_string": b"", "http_version": "1.1",
            "server": ("server", 80), "client": None, "headers": headers,
        }  # fmt: skip
        self.task = asyncio.create_task(self._run(api_server, scope))

    def leave(self) -> None:
        self._left.set()

    async def _run(self, api_server: ApiServer, scope: dict[str, Any]) -> None:
        await api_server.app(scope, self._receive, self._send)

    async def wait_for(self, text: bytes) -> None:
        while text not in self.received:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 60)

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.received += message.get("body", b"")
        self._news.set()
