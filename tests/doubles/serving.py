"""Serve the application without a model, in process or on a port of loopback. For tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import httpx2 as httpx
import uvicorn

from inference.api_keys import ApiKey, digest_of
from inference.engines.protocol import ServedModel
from inference.server import configure
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.web.application import ChatPage, Identity, make_application
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from inference.observability.tracing import Tracing

BASE, TUNED, END = "org/base", "tickets", 256
KEY, OTHER_KEY = "secret-key", "other-key"
ENDED = (*b"Hi there", END)
HELLO: Final[Any] = [{"role": "user", "content": "Hello"}]
SETTINGS: Final = Settings(
    api_keys=(ApiKey("ann", digest_of(KEY)), ApiKey("bob", digest_of(OTHER_KEY))),
    heartbeat_s=0.05,
    max_body_bytes=20_000,
)
LIMITS: Final = Limits(max_concurrent=2, max_waiting=4)


class Served:
    """An application with a scripted engine behind it."""

    def __init__(self, limits: Limits = LIMITS, tracing: Tracing | None = None, **changes: Any) -> None:
        self.engine = ScriptedEngine({BASE: 200, TUNED: 200}, frozenset({END}))
        self.service = Service(limits)
        base = ServedModel(BASE, None, ByteCodec(), frozenset({END}), 0)
        tuned = ServedModel(TUNED, BASE, ByteCodec(), frozenset({END}), 0)
        self.service.begin_serving(self.engine, (base, tuned))
        identity = Identity("20260101T000000Z-0123abcd", "app--rev", "app--rev-0", "2026-01-01T00:00:00Z")
        self.app = make_application(
            self.service, replace(SETTINGS, **changes), identity, ChatPage(self.service), tracing
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://server"
        )

    async def chat(self, key: str = KEY, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        body = {"model": BASE, "messages": HELLO} | fields
        headers = {"Authorization": f"Bearer {key}"} | (headers or {})
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    async def get(self, path: str, key: str | None = KEY, **headers: str) -> Any:
        sent = {} if key is None else {"Authorization": f"Bearer {key}"}
        return await self.http.get(path, headers=sent | headers)

    @contextlib.asynccontextmanager
    async def on_a_port(self, **configuration: Any) -> AsyncIterator[int]:
        listener = socket.create_server(("127.0.0.1", 0))
        config = configure(self.app)
        for name, value in configuration.items():
            setattr(config, name, value)
        server = uvicorn.Server(config)
        # The test's process keeps its own signals.
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await until(lambda: server.started)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            server.force_exit = True
            await serving
            await self.close()

    async def close(self) -> None:
        await self.engine.close()
        await self.http.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it lets the other tasks run; no time passes
            await asyncio.sleep(0)


class Background:
    """The application on a port, in a thread of its own, for clients that block."""

    def __init__(self, **changes: Any) -> None:
        self._changes = changes
        self._is_over = threading.Event()
        self._is_up = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(60)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()

    async def _serve(self) -> None:
        served = Served(**self._changes)
        served.engine.always = (b"Hi", b" there", (END,))
        # The double claims abilities without having them, so those with visible effects are left out.
        served.engine.abilities = frozenset({"seed", "penalties", "logit_bias"})
        async with served.on_a_port() as self.port:
            self._is_up.set()
            await asyncio.to_thread(self._is_over.wait)
