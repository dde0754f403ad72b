"""The API with one scripted model and the official client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import httpx2 as httpx
import openai
import uvicorn
from pydantic import BaseModel

from inference.engines.protocol import Increment, ServedModel, TokenLogprobs
from inference.service.service import Service
from inference.settings import Settings
from inference.web.application import ChatPage, Identity, make_application
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from starlette.types import ASGIApp

    from inference.service.requests import Limits


BASE, END, CONTEXT = "org/base", 256, 500
HELLO: Any = [{"role": "user", "content": "Hello"}]
SETTINGS = Settings(auth=False, chat_sign_in=False, heartbeat_s=5)


class OpenaiServer:
    """A server without a model, and clients of it."""

    def __init__(self, limits: Limits) -> None:
        self.engine = ScriptedEngine({BASE: CONTEXT}, frozenset({END}))
        self.service = Service(limits)
        self.service.begin_serving(self.engine, [ServedModel(BASE, None, ByteCodec(), frozenset({END}), 0)])
        self.app = make_application(self.service, SETTINGS, Identity("", "", "", ""), ChatPage(self.service))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://server"
        )
        self.openai = openai.AsyncOpenAI(
            api_key="none", base_url="http://server/v1", http_client=self.http, max_retries=0
        )

    def say(self, *texts: str) -> None:
        """Let the next requests be answered with these."""
        for text in texts:
            self.engine.play(*[(byte,) for byte in text.encode()], (END,))

    async def chat(self, **fields: Any) -> Any:
        fields = {"model": BASE, "messages": HELLO} | fields
        return await self.openai.chat.completions.create(**fields)

    async def complete(self, **fields: Any) -> Any:
        return await self.openai.completions.create(**({"model": BASE, "prompt": "Once"} | fields))

    def assert_all_is_free(self) -> None:
        assert (self.service.queue.slots_in_use, self.service.queue.waiting) == (0, 0)
        assert self.engine.running == 0

    async def close(self) -> None:
        await self.engine.close()
        await self.http.aclose()


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """Serve on a real socket, for clients in threads, and for seeing a stream before its end."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        await serving


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


def likely(tokens: Sequence[int], *, end: bool = True) -> Increment:
    """Tokens, each likelier than the one before, and at each the letter x as an alternative."""
    logprobs = [
        TokenLogprobs(-1 / (1 + index), ((token, -1 / (1 + index)), (ord("x"), -4.0)))
        for index, token in enumerate(tokens)
    ]
    if end:
        return Increment((*tokens, END), "stop", (*logprobs, TokenLogprobs(-0.1, ((END, -0.1),))))
    return Increment(tuple(tokens), None, tuple(logprobs))


class Ticket(BaseModel):
    category: Literal["billing", "network"]
    priority: int
