"""The API with scripted models, and a client on the ASGI level that can disconnect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import openai

from inference.api_keys import ApiKey, digest_of
from inference.engines.protocol import ServedModel
from inference.service.service import Service
from inference.settings import Settings
from inference.web.application import ChatPage, Identity, make_application
from inference.web.keyring import Keyring
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from inference.service.requests import Limits

BASE, TUNED, END, KEY = "org/base", "tickets", 256, "secret-key"
HELLO: Any = [{"role": "user", "content": "Hello"}]
ENDED = (*b"Hi there", END)


class ApiServer:
    """A server without a model, and clients for it."""

    def __init__(self, limits: Limits, settings: Settings, *, is_ready: bool = True) -> None:
        self.engine = ScriptedEngine({BASE: 200, TUNED: 200}, frozenset({END}))
        self.service = Service(limits)
        if is_ready:
            self.start()
        identity = Identity("20260101T000000Z-0123abcd", "app--rev", "app--rev-0", "2026-01-01T00:00:00Z")
        self.keyring = Keyring(settings.api_keys)
        self.app = make_application(
            self.service, settings, identity, ChatPage(self.service), keyring=self.keyring
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://server",
            headers={"Authorization": f"Bearer {KEY}"},
        )
        self.openai = openai.AsyncOpenAI(
            api_key=KEY, base_url="http://server/v1", http_client=self.http, max_retries=0
        )

    def start(self) -> None:
        base = ServedModel(BASE, None, ByteCodec(), frozenset({END}), 1_700_000_000)
        tuned = ServedModel(TUNED, BASE, ByteCodec(), frozenset({END}), 1_700_000_000)
        self.service.begin_serving(self.engine, (base, tuned))

    async def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": BASE, "messages": HELLO} | fields
        return await self.http.post("/v1/chat/completions", json=body)

    async def close(self) -> None:
        await self.engine.close()
        await self.http.aclose()


SETTINGS = Settings(api_keys=(ApiKey("ann", digest_of(KEY)),), heartbeat_s=0.05, max_body_bytes=20_000)
