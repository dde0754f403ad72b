"""Send server-sent events, and notice when the client disconnects.

Source: HTML Living Standard, "Server-sent events"; OpenAI API reference, "Streaming".
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.types import Receive, Scope, Send

DONE: Final = b"data: [DONE]\n\n"
HEARTBEAT: Final = b": still there\n\n"


def encode_event(document: Mapping[str, object], name: str | None = None) -> bytes:
    """Return an event whose data are a JSON object; without a name it is a message."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + encode_json(document) + b"\n\n"


def encode_json(document: Mapping[str, object]) -> bytes:
    """Return an object as compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class EventStream(Response):
    """A response of server-sent events, with heartbeats when there are no events to send.

    A disconnect is noticed by listening for it, not by a failing write: a stream that waits in the queue
    writes nothing.

    Args:
        events: The events.
        heartbeat_s: How long nothing is sent before a heartbeat is.
        on_end: Called when the response has ended in any way, even before the first event was requested.
        heartbeat: What a heartbeat sends.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        heartbeat_s: float,
        on_end: Callable[[], None],
        heartbeat: bytes = HEARTBEAT,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._on_end = on_end
        self._heartbeat = heartbeat
        self._sent_at = asyncio.get_running_loop().time()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events, or stop when the client disconnects."""
        del scope
        try:
            await self._run(receive, send)
        finally:
            self._on_end()

    async def _run(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send_events(send))
        others = (asyncio.create_task(wait_for_disconnect(receive)), asyncio.create_task(self._beat(send)))
        try:
            await asyncio.wait((sending, others[0]), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, *others):
                task.cancel()
            await asyncio.gather(sending, *others, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send_events(self, send: Send) -> None:
        async for event in self._events:
            await self._send(send, event, is_more=True)
        await self._send(send, b"", is_more=False)

    async def _beat(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            quiet_s = loop.time() - self._sent_at
            if quiet_s >= self._heartbeat_s:
                await self._send(send, self._heartbeat, is_more=True)
                quiet_s = 0.0
            await asyncio.sleep(self._heartbeat_s - quiet_s)

    async def _send(self, send: Send, body: bytes, *, is_more: bool) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": body, "more_body": is_more})


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
