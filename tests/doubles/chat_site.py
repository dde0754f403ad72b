"""The chat page on a port, on a thread of its own, with scripted models behind it."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from inference.api_keys import ApiKey, digest_of
from inference.engines.protocol import ServedModel
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.web.application import ChatPage, Identity, make_application
from inference.web.chat.page import make_chat, make_site
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from pathlib import Path

    from inference.web.chat.gateway import Chat

BASE: Final = "org/base"
TUNED: Final = "tickets"
END: Final = 256
KEY: Final = "secret-key"
RELEASE: Final = "20260101T000000Z-0123abcd"


def make_service(
    names: tuple[str, ...] = (BASE, TUNED),
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
) -> tuple[Service, ScriptedEngine]:
    """Return a service with scripted models, the base first."""
    engine = ScriptedEngine(dict.fromkeys(names, 2000), frozenset({END}))
    service = Service(limits)
    base, *adapters = (
        ServedModel(name, None if name == names[0] else names[0], ByteCodec(), frozenset({END}), 0)
        for name in names
    )
    service.begin_serving(engine, (base, *adapters))
    return service, engine


class ChatSite:
    """The whole application on a port.

    Args:
        mount: The share.
        names: The models.
        limits: The limits on requests.
        changes: Settings that differ.

    Attributes:
        url: The page's address.
    """

    def __init__(
        self,
        mount: Path,
        names: tuple[str, ...] = (BASE, TUNED),
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        port: int = 0,
        **changes: Any,
    ) -> None:
        self.service, self.engine = make_service(names, limits)
        settings = Settings(
            mount=mount, release=RELEASE, replica="replica-1", api_keys=(ApiKey("ann", digest_of(KEY)),)
        )
        settings = replace(settings, **changes)
        # In a thread, as the server does: the test's own thread may have a running loop.
        with ThreadPoolExecutor(1) as pool:
            chat = pool.submit(make_chat, self.service, make_site(settings)).result()
        page = ChatPage(self.service)
        page.application = chat
        application = make_application(self.service, settings, Identity(RELEASE, "", "", ""), page)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(application, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(chat)))
        self._thread.start()
        assert self._is_up.wait(60)

    def play(self, *steps: Any) -> None:
        """Queue the script of the next request."""
        self._loop.call_soon_threadsafe(self.engine.play, *steps)

    def set(self, event: asyncio.Event) -> None:
        """Set an event that a script waits for."""
        self._loop.call_soon_threadsafe(event.set)

    def forget(self) -> None:
        """Forget the requests and scripts of a test, so that another one can use the site."""
        self._loop.call_soon_threadsafe(self.engine.forget_scripts)
        self.wait_until_empty()
        self.engine.requests.clear()
        self.engine.cancelled.clear()

    def wait_until_empty(self) -> None:
        """Return when no request runs or waits."""
        waiting = asyncio.run_coroutine_threadsafe(self.service.queue.wait_until_idle(), self._loop)
        waiting.result(60)

    def wait_for_request(self, number: int) -> None:
        """Return when the engine has received that many requests."""

        async def received() -> None:
            async with asyncio.timeout(60):
                while len(self.engine.requests) < number:  # noqa: ASYNC110 - the engine is a double
                    await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(received(), self._loop).result(61)

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    async def _serve(self, chat: Chat) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_up.set()
        async with chat.lifespan():
            await self._server.serve([self._listener])
        await self.engine.close()
