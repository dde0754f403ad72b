"""Speak HTTP on a socket, with timeouts for slow clients.

Uvicorn's protocol has timeouts for idle connections only. This one adds a timeout for a request head that
does not become complete, and one for a client that does not read its response, which would occupy the engine
for ever. Malformed HTTP is answered in the API's error shape.

h11 limits the size of a head while it arrives, and the middleware once it is complete.
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

HEAD_TIMEOUT_S: Final = 20.0
"""How long a head may take: a connection's first one from its start, others from their first byte."""

READ_TIMEOUT_S: Final = 60.0
"""How long a client may read nothing while the buffers are full."""

LINGER_S: Final = 1.0
"""How long a client may go on sending after an error response, before its connection is closed."""


class Protocol(H11Protocol):
    """One connection.

    Attributes:
        head_timeout_s: Seconds; tests shorten it.
        read_timeout_s: Seconds; tests shorten it.
    """

    head_timeout_s = HEAD_TIMEOUT_S
    read_timeout_s = READ_TIMEOUT_S

    def __init__(self, *args: Any, **keywords: Any) -> None:  # noqa: ANN401 - uvicorn's own signature
        super().__init__(*args, **keywords)
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._is_rejected = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the timeout for the first head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._end_head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timeouts."""
        self._stop_head_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process data, and start a timeout for a head that is incomplete."""
        if self._is_rejected:
            return
        super().data_received(data)
        is_in_head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if self._is_rejected:
            return
        if not is_in_head:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._end_head_timeout)

    def pause_writing(self) -> None:
        """Start the timeout for the client to read."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.read_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timeout, since the client reads."""
        self._stop_read_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed or oversized HTTP, and close. Uvicorn calls this when h11 has raised."""
        error = sys.exc_info()[1]
        hint = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._reject(HTTPStatus(hint), f"{msg} {error}." if error is not None else msg)

    def _end_head_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._reject(HTTPStatus.REQUEST_TIMEOUT, "The request's headers did not arrive in time.")
        else:
            self.transport.close()

    def _reject(self, status: HTTPStatus, message: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_http"}
        body = json.dumps({"error": error}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # Closing while data arrive would reset the connection before the client reads the response; so the
        # data are read and dropped.
        self._is_rejected = True
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
