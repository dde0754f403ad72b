"""A small server on the bound socket, for the time in which no other accepts. Standard library only."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

MAX_READ_BYTES: Final = 1 << 20
"""How much of an early request's body is read, so that its client reads the answer before a reset."""


class StartingPage:
    """A server for the time in which packages are installed or the server is started. A context manager.

    `/healthz` returns 200, so that the startup probe does not end a container that is installing. `/version`
    returns 200 and the state of the replica, for the deployment that waits. Every other path returns 503.

    Args:
        listener: The bound socket, which stays open.
        version: Returns the document of `/version`.
    """

    def __init__(self, listener: socket.socket, version: Callable[[], dict[str, Any]]) -> None:
        host, port = listener.getsockname()[:2]
        # The socket is bound and listens already: of the server only the accept loop is used.
        self._server = _PageServer((host, port), _StartingHandler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._server.version = version
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """Begin to accept."""
        # A server that starts accepts on the same socket. Where it took the connection that woke this thread,
        # a blocking call would wait for the next one, and `close` for that.
        self._server.socket.settimeout(0)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting. The socket stays open for the server."""
        self._server.shutdown()
        self._thread.join()


class _PageServer(ThreadingHTTPServer):
    daemon_threads = True
    version: Callable[[], dict[str, Any]]


class _StartingHandler(BaseHTTPRequestHandler):
    timeout = 5
    server: _PageServer

    def do_GET(self) -> None:
        """Answer a probe."""
        document = self.server.version()
        if self.path == "/healthz":
            self._answer(200, {"status": "ok"})
        elif self.path == "/version":
            self._answer(200, document)
        else:
            progress = {"phase": document["phase"], "percent": document["percent"]}
            self._answer(503, {"status": "starting", **progress})

    def do_POST(self) -> None:
        """Answer a request that came too early."""
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MAX_READ_BYTES))
        self._answer(503, {"error": {"message": "The server is starting.", "type": "server_error"}})

    def log_message(self, *_: object) -> None:
        """Log nothing: probes are frequent."""

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status != 200:  # noqa: PLR2004 - OK
            self.send_header("Retry-After", "5")
        self.end_headers()
        self.wfile.write(body)
