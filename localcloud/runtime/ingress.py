"""The ingress: one plain-HTTP reverse proxy on 127.0.0.1 for each app.

Guarantees:

- Bodies are streamed both ways as they arrive; nothing waits for a buffer to fill.
- Requests are distributed round-robin over the ready replicas. A replica that is being stopped gets no new
  requests, and finishes those that it has. While no replica is ready the response is 503, with a reason;
  a request to an app that has scaled to zero starts one and waits for it.
- A request is retried on another replica only if none can have acted on it: no connection was made, or its
  method is safe, it has no body, and no part of a response was sent. Otherwise a replica that resets the
  connection causes a 502 (or an aborted response, if it had begun).
- When the client disconnects, the connection to the replica is closed at once.
- A request may take 240 s, counted from the end of its body; then the client gets 504 "stream timeout", or
  an aborted response. Open WebSockets have no limit.
- Hop-by-hop headers are removed. X-Forwarded-For, -Proto and -Host are added, and x-request-id unless the
  client sent one.

Source: Azure Container Apps documentation, "Ingress in Azure Container Apps" (240 s, X-Forwarded-*);
RFC 9110 section 7.6.1 (hop-by-hop), 9.2.1 (safe methods); Envoy's responses for the text of the 504.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from localcloud.runtime.ingress_policy import (
    AFFINITY_COOKIE,
    DENIED,
    affinity_of,
    cors_headers,
    is_admitted,
    preflight_headers,
    sticky_replica,
)
from localcloud.runtime.spec import IngressPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from localcloud.runtime.spec import Limits

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# Sent by the ingress, as by Envoy, so that a client that waits for it does not wait for the replica.
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Up to this size a body is read whole: one write instead of several.
_SMALL_BYTES: Final = 64 * 1024
_HEADER_BYTES: Final = 64 * 1024
_REQUEST_ID_CHARACTERS: Final = 128
_LOOPBACK: Final = "127.0.0.1"


@dataclass(slots=True, eq=False)
class Backend:
    """A replica as the ingress sees it: its port, its requests in flight, and when the last one ended."""

    name: str
    port: int
    in_flight: int = 0
    used_at_s: float = field(default_factory=time.monotonic)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> None:
        self.in_flight += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        self.used_at_s = time.monotonic()
        if not self.in_flight:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no request is in flight."""
        while self.in_flight:
            await self._idle.wait()


class _UnreachableError(Exception):
    """A replica accepted no connection: nothing was sent."""


class _ResetError(Exception):
    """A replica closed the connection before it responded."""


class Ingress:
    """The reverse proxy of one app.

    Args:
        app: The app's name, for the text of a 503.
        backends: Returns the ready replicas; called for each request.
        session: For the connections to replicas; shared by all apps (see `new_session`).
        limits: The request limit.
        wake: Starts a replica of an app that has scaled to zero, and returns when it is ready.
    """

    def __init__(
        self,
        app: str,
        backends: Callable[[], Sequence[Backend]],
        session: aiohttp.ClientSession,
        limits: Limits,
        wake: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._app = app
        self._backends = backends
        self._session = session
        self._limits = limits
        self._wake = wake
        self.policy = IngressPolicy()
        self._next_index = 0
        self._runner: web.ServerRunner | None = None

    async def listen(self, port: int) -> None:
        """Listen on a port of 127.0.0.1.

        Raises:
            OSError: the port is taken.
        """
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port, backlog=1024).start()
        except OSError:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == hdrs.METH_CONNECT:
            return _text_response(405, "this is a reverse proxy: CONNECT is not supported")
        if not is_admitted(self.policy, request.remote or _LOOPBACK):
            return _text_response(403, DENIED)
        preflight = preflight_headers(self.policy, request.method, request.headers)
        if preflight is not None:
            return web.Response(headers=preflight)
        if not await self._is_awake():
            return _text_response(504, "stream timeout")
        return await self._distribute(request)

    async def _distribute(self, request: web.BaseRequest) -> web.StreamResponse:
        tried: list[Backend] = []
        while (backend := self._next(request, tried)) is not None:
            tried.append(backend)
            with backend:
                try:
                    return await self._forward(request, backend)
                except _UnreachableError:
                    # Nothing was sent, so any method may go elsewhere.
                    continue
                except _ResetError as reset:
                    if not _may_repeat(request):
                        return _text_response(502, f"replica {backend.name} closed the connection: {reset}")
        return self._unavailable(tried)

    async def _is_awake(self) -> bool:
        """Wait until an app that has scaled to zero has a replica; False if that takes too long."""
        with suppress(TimeoutError):
            if self._wake is not None and not self._backends():
                await asyncio.wait_for(self._wake(), self._limits.request_limit_s)
            return True
        return False

    def _next(self, request: web.BaseRequest, tried: list[Backend]) -> Backend | None:
        ready = {backend.name: backend for backend in self._backends() if backend not in tried}
        if not ready:
            return None
        cookie = request.cookies.get(AFFINITY_COOKIE)
        name = sticky_replica(self.policy, tuple(ready), cookie)
        if name is None:
            self._next_index += 1
            name = tuple(ready)[self._next_index % len(ready)]
        return ready[name]

    def _add_headers(self, response: web.StreamResponse, request: web.BaseRequest, backend: Backend) -> None:
        """Add what the ingress's policy says to a response that has not begun."""
        response.headers.update(cors_headers(self.policy, request.headers))
        affinity = affinity_of(backend.name)
        if self.policy.is_sticky and request.cookies.get(AFFINITY_COOKIE) != affinity:
            response.set_cookie(AFFINITY_COOKIE, affinity, httponly=True)

    def _unavailable(self, tried: list[Backend]) -> web.Response:
        why = " has no ready replica yet: its system log says what it waits for"
        if tried:
            why = f": no answer from its ready replicas ({', '.join(backend.name for backend in tried)})"
        return _text_response(503, f"container app '{self._app}'{why}")

    async def _forward(self, request: web.BaseRequest, backend: Backend) -> web.StreamResponse:
        if _is_websocket(request):
            return await self._forward_websocket(request, backend)
        response: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(None) as limit:
                async with self._send_upstream(request, backend, limit) as upstream:
                    response = await _response_of(upstream)
                    self._add_headers(response, request, backend)
                    return await _stream_response(request, upstream, response)
        except TimeoutError:
            if response is None or not response.prepared:
                return _text_response(504, "stream timeout")
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, ConnectionError):
            if response is None:
                raise
        # The response has begun: only an aborted connection shows that it is incomplete.
        return _abort_response(request, response)

    @asynccontextmanager
    async def _send_upstream(
        self, request: web.BaseRequest, backend: Backend, limit: asyncio.Timeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        body = await _body_of(request, limit, self._limits.request_limit_s)
        try:
            upstream = await self._session.request(
                request.method,
                _url_of(request, backend, "http"),
                headers=_headers_of(request),
                data=body,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _UnreachableError from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _ResetError(str(error) or type(error).__name__) from error
        try:
            yield upstream
        except BaseException:
            # Closed rather than released: the replica must notice that the client is gone.
            upstream.close()
            raise
        upstream.release()

    async def _forward_websocket(self, request: web.BaseRequest, backend: Backend) -> web.StreamResponse:
        protocols = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        headers = _headers_of(request)
        for name in [name for name in headers if name.lower().startswith("sec-websocket-")]:
            headers.popall(name, None)
        try:
            upstream = await self._session.ws_connect(
                _url_of(request, backend, "ws"),
                headers=headers,
                protocols=[name for name in protocols if name],
                autoping=False,
                autoclose=False,
                max_msg_size=0,
            )
        except aiohttp.WSServerHandshakeError as error:
            return _text_response(
                error.status, f"replica {backend.name} refused the WebSocket: {error.message}"
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _UnreachableError from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _ResetError(str(error) or type(error).__name__) from error
        try:
            chosen = [upstream.protocol] if upstream.protocol else []
            client = web.WebSocketResponse(
                protocols=chosen, autoping=False, autoclose=False, compress=False, max_msg_size=0
            )
            await client.prepare(request)
            await _relay_both(client, upstream)
        finally:
            await upstream.close()
        return client


def new_session(limits: Limits) -> aiohttp.ClientSession:
    """Return a session for requests to replicas and for probes: no cookies, no retries, no limits."""
    session = aiohttp.ClientSession(
        # One connection for each request: the replica may close an idle one (Uvicorn after 5 s) just when the
        # next request is sent, and a replica that shuts down waits for its connections to be closed.
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_timeout_s),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        auto_decompress=False,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
        trust_env=False,
    )
    # By default aiohttp retries idempotent requests that were reset, even PUT and DELETE with their bodies.
    # There is no public switch; a test fails if this attribute disappears.
    session._retry_connection = False  # noqa: SLF001
    return session


def _is_websocket(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _may_repeat(request: web.BaseRequest) -> bool:
    return request.method in _SAFE and not request.body_exists


def _url_of(request: web.BaseRequest, backend: Backend, scheme: str) -> URL:
    # Exactly as it was sent: a replica may depend on how a path was quoted.
    target = request.raw_path if request.raw_path.startswith("/") else request.rel_url.raw_path_qs
    return URL(f"{scheme}://127.0.0.1:{backend.port}{target}", encoded=True)


def _headers_of(request: web.BaseRequest) -> CIMultiDict[str]:
    headers = _end_to_end(request.headers.items(), request.headers.get("Connection", ""))
    headers.popall("Expect", None)
    came_from = [*headers.popall("X-Forwarded-For", []), request.remote or _LOOPBACK]
    headers["X-Forwarded-For"] = ", ".join(came_from)
    headers["X-Forwarded-Proto"] = "http"
    if "Host" in headers:
        headers["X-Forwarded-Host"] = headers["Host"]
    if not 0 < len(headers.get("X-Request-Id", "")) <= _REQUEST_ID_CHARACTERS:
        headers["X-Request-Id"] = str(uuid.uuid4())
    return headers


def _end_to_end(items: Iterable[tuple[str, str]], connection: str) -> CIMultiDict[str]:
    dropped = _HOP_BY_HOP
    if connection and connection.lower() not in {"keep-alive", "close", "upgrade"}:
        dropped = dropped | {name.strip().lower() for name in connection.split(",")}
    return CIMultiDict((name, value) for name, value in items if name.lower() not in dropped)


async def _body_of(
    request: web.BaseRequest, limit: asyncio.Timeout, limit_s: float
) -> bytes | AsyncIterator[bytes] | None:
    """Return the body to send; when it has been sent, start the request's time limit."""

    def start() -> None:
        limit.reschedule(asyncio.get_running_loop().time() + limit_s)

    if not request.body_exists:
        start()
        return None
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)
    if (request.content_length or _SMALL_BYTES + 1) <= _SMALL_BYTES:
        body = await request.read()
        start()
        return body
    return _pieces(request, start)


async def _pieces(request: web.BaseRequest, done: Callable[[], None]) -> AsyncIterator[bytes]:
    try:
        async for piece in request.content.iter_any():
            yield piece
    finally:
        done()


async def _response_of(upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = _end_to_end(upstream.headers.items(), upstream.headers.get("Connection", ""))
    if upstream.content.is_eof() and (body := await upstream.read()):
        # The body is complete already: one write instead of three.
        return web.Response(status=upstream.status, reason=upstream.reason, headers=headers, body=body)
    return web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)


async def _stream_response(
    request: web.BaseRequest, upstream: aiohttp.ClientResponse, response: web.StreamResponse
) -> web.StreamResponse:
    await response.prepare(request)
    async for piece in upstream.content.iter_any():
        await response.write(piece)
    await response.write_eof()
    return response


def _abort_response(request: web.BaseRequest, response: web.StreamResponse | None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response(status=502)


def _text_response(status: int, sentence: str) -> web.Response:
    headers = {"Retry-After": "1"} if status == 503 else None  # noqa: PLR2004 - HTTP's own number
    return web.Response(status=status, text=sentence + "\n", headers=headers)


async def _relay_both(client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse) -> None:
    """Relay frames both ways until one side closes; then close the other with the same code."""
    relays = {
        asyncio.create_task(_relay(client, upstream)),
        asyncio.create_task(_relay(upstream, client)),
    }
    try:
        await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _relay(source: _Socket, target: _Socket) -> None:
    while True:
        message = await source.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is aiohttp.WSMsgType.PING:
            await target.ping(message.data)
        elif message.type is aiohttp.WSMsgType.PONG:
            await target.pong(message.data)
        elif message.type is aiohttp.WSMsgType.CLOSE:
            await target.close(
                code=message.data or aiohttp.WSCloseCode.OK, message=(message.extra or "").encode()
            )
            return
        else:
            # CLOSED, CLOSING, ERROR: the other side is gone without a close frame.
            await target.close(code=aiohttp.WSCloseCode.GOING_AWAY)
            return
