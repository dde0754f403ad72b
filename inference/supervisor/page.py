"""A small server on the bound socket, for the time in which no other accepts. Standard library only."""

from __future__ import annotations

import json
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self

from inference.web.pages import starting_page

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

MAX_READ_BYTES: Final = 1 << 20
"""How much of an early request's body is read, so that its client reads the answer before a reset."""

MAX_LINE_BYTES: Final = 1 << 10
HEXADECIMAL: Final = b"0123456789abcdefABCDEF"

RETRY_S: Final = 5
"""After how many seconds a client of the API should try again, as the server says while its model loads."""

PAGE_RETRY_S: Final = 2
"""The same for the page in a browser, which reloads itself."""

JSON: Final = "application/json"
HTML: Final = "text/html; charset=utf-8"

STATUS_PATHS: Final = frozenset({"/healthz", "/readyz", "/version"})


class StartingPage:
    """A server for the time in which packages are installed or the server is started. A context manager.

    `/healthz` returns 200, so that the startup probe does not end a container that is installing. `/version`
    returns 200 and the state of the replica, for the deployment that waits. Every other path returns 503 with
    `Retry-After`: `/` a page with the progress, the others the error that the server answers while it starts.

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

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the base class
        """Log nothing of a client that went away before it had read its answer."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _StartingHandler(BaseHTTPRequestHandler):
    """Answers one request, as the server that is started would while its model loads.

    Source: RFC 9110, 9.3.2 (HEAD is GET without a body), 10.1.1 (a final status in place of 100 Continue),
    10.2.3 (Retry-After), 15.5.6 (405 needs Allow).
    """

    timeout = 5
    server: _PageServer

    def do_GET(self) -> None:
        """Answer a probe, a deployment, a browser or a client of the API."""
        path, document = self.path.partition("?")[0], self.server.version()
        progress = {"phase": document["phase"], "percent": document["percent"]}
        if path == "/healthz":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        elif path == "/version":
            self._answer(HTTPStatus.OK, document)
        elif path == "/readyz":
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "starting", **progress})
        elif path == "/":
            page = starting_page(document["phase"], document["percent"])
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, page.encode(), HTML, retry_after_s=PAGE_RETRY_S)
        else:
            self._refuse(document)

    def do_HEAD(self) -> None:
        """Answer as GET, without the body."""
        self.do_GET()

    def do_POST(self) -> None:
        """Answer a request that came too early, or one that has to be a GET."""
        self._skip_body()
        if self.path.partition("?")[0] in STATUS_PATHS:
            message = f"{self.command} is not allowed here."
            document = _error(message, "invalid_request_error", "method_not_allowed")
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, document, {"Allow": "GET, HEAD"})
        else:
            self._refuse(self.server.version())

    do_OPTIONS = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 - the names that http.server calls

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server itself refuses, such as a line that is no request, in the API's form."""
        status = HTTPStatus(code)
        # A line that is no request counts as one of HTTP/0.9, whose answers have no status.
        self.request_version = "HTTP/1.0"
        text = message or explain or status.phrase
        self._answer(status, _error(text, "invalid_request_error", "invalid_http"))

    def version_string(self) -> str:
        """Return the value of the header Server, which would name Python's version otherwise."""
        return "fjarr"

    def log_message(self, *_: object) -> None:
        """Log nothing: probes are frequent."""

    def _refuse(self, document: dict[str, Any]) -> None:
        """Answer that requests are not accepted yet, in the words of the server itself."""
        reason = f"{document['phase']}, {document['percent']} %"
        message = f"The server takes no requests now ({reason}). Try again shortly."
        self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _error(message, "server_error", "starting"))

    def _skip_body(self) -> None:
        """Read a request's body, so that its client reads the answer before a reset.

        A client that waits for 100 Continue has not sent it.
        """
        if "100-continue" in self.headers.get("Expect", "").lower():
            return
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            self._skip_chunks()
        elif (length := self.headers.get("Content-Length", "")).isdecimal():
            # A longer number is larger than what is read, and Python parses none of thousands of digits.
            self.rfile.read(min(int(length[:10]), MAX_READ_BYTES))

    def _skip_chunks(self) -> None:
        """Read a chunked body, without its trailers. Source: RFC 9112, 7.1."""
        left = MAX_READ_BYTES
        while left > 0:
            size = self.rfile.readline(MAX_LINE_BYTES).partition(b";")[0].strip()
            if not size or size.strip(HEXADECIMAL) or not (length := int(size, 16)):
                return
            left -= len(self.rfile.read(min(length, left))) + len(self.rfile.readline(MAX_LINE_BYTES))

    def _answer(
        self, status: HTTPStatus, document: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        retry_after_s = RETRY_S if status is HTTPStatus.SERVICE_UNAVAILABLE else 0
        self._send(status, json.dumps(document).encode(), JSON, headers, retry_after_s=retry_after_s)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str] | None = None,
        *,
        retry_after_s: int,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if retry_after_s:
            self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _error(message: str, kind: str, code: str) -> dict[str, Any]:
    """Return an error in the API's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
