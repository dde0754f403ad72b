"""Speak HTTP on a socket, with patience for slow clients but not without end.

Uvicorn's protocol has time limits for idle connections only. This one adds limits for a client that begins a
request's head and does not end it, and for one that does not read what it asked for: it would keep its place
in the engine for ever. Errors below HTTP are answered in the API's shape.

Limits on the size of a head are h11's while it arrives, and the edge's once it is there.
"""

from __future__ import annotations

import json
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

HEAD_PATIENCE_S: Final = 20.0
"""How long a request's head may take, from its first byte; on a new connection, until the first byte too."""

READ_PATIENCE_S: Final = 60.0
"""How long a client may read nothing while there is more for it than the buffers hold."""

LINGER_S: Final = 1.0
"""How long a client that was refused may go on sending before its connection is cut."""


class Protocol(H11Protocol):
    """Be one connection.

    Attributes:
        head_patience_s: Seconds; tests shorten it.
        read_patience_s: Seconds; tests shorten it.
    """

    head_patience_s = HEAD_PATIENCE_S
    read_patience_s = READ_PATIENCE_S

    def __init__(self, *args: Any, **keywords: Any) -> None:  # noqa: ANN401 - uvicorn's own signature
        super().__init__(*args, **keywords)
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for a head, for a while."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_patience_s, self._give_up_on_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_head_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on what came, and watch that a head which has begun ends."""
        if self._is_refused:
            return
        super().data_received(data)
        is_in_head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if self._is_refused:
            return
        if not is_in_head:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_patience_s, self._give_up_on_head)

    def pause_writing(self) -> None:
        """Wait for the client to read, for a while."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.read_patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the client reads."""
        self._stop_read_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, and close. Uvicorn calls it where h11 has raised."""
        error = sys.exc_info()[1]
        hint = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(HTTPStatus(hint), f"{msg} {error}." if error is not None else msg)

    def _give_up_on_head(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request's headers did not arrive in time.")
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_http"}
        body = json.dumps({"error": error}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # Closing while more arrives would take the answer away from the client, so that is read and dropped.
        self._is_refused = True
        self.transport.write_eof()
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
