"""Put the application together: the edge around everything, health, version, metrics, the API, the chat.

Nothing here knows how a model is loaded or how the process ends; `server` does.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from inference import VERSION
from inference.errors import (
    ApiError,
    HeadersTooLargeError,
    NotFoundError,
    SlowBodyError,
    TooLargeError,
    UnauthorizedError,
)
from inference.observability.logs import PromptLog
from inference.observability.metrics import Metrics
from inference.service.lifecycle import REQUEST_CONTEXT, RequestContext
from inference.web.api import make_api
from inference.web.keyring import Keyring
from inference.web.pages import starting_page
from inference.web.sign_in import SignIn

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from inference.observability.tracing import Tracing
    from inference.service.lifecycle import Passage
    from inference.service.service import Service
    from inference.settings import Settings

LOGGER: Final = logging.getLogger("inference.access")
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
API_PATH: Final = "/v1"
METRICS_PATH: Final = "/metrics"
LOGGED_PATHS: Final = (API_PATH, "/version")
KNOWN_PATHS: Final = frozenset({"/", "/healthz", "/readyz", "/version", METRICS_PATH, "/login", "/logout"})

MAX_HEADERS: Final = 128
MAX_HEADER_BYTES: Final = 32 * 1024
MAX_TARGET_BYTES: Final = 8 * 1024

EXPOSED_HEADERS: Final = ("x-request-id", "Retry-After", "x-should-retry")
"""What a browser shows a page of an answer's headers, besides the usual ones."""

API_HEADERS: Final = ((b"x-content-type-options", b"nosniff"),)
PAGE_HEADERS: Final = (
    *API_HEADERS,
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"content-security-policy", b"frame-ancestors 'self'; base-uri 'self'; object-src 'none'"),
    (b"referrer-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
"""No policy for scripts: Gradio's page has its own inline, and loads none from elsewhere."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Say who this server is, for `/version`.

    Attributes:
        started_at: ISO 8601, UTC.
    """

    release: str
    revision: str
    replica: str
    started_at: str


class ChatPage:
    """Stand where the chat will be, and hand over to it once it is there. An ASGI application."""

    def __init__(self, service: Service) -> None:
        self.application: ASGIApp | None = None
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the chat, or with a page that asks to wait."""
        if self.application is not None:
            await self.application(scope, receive, send)
        elif scope["type"] == "http":
            await self._starting_page(Request(scope))(scope, receive, send)

    def _starting_page(self, request: Request) -> Response:
        if request.url.path != "/":
            return Response("There is nothing here.\n", 404, media_type="text/plain")
        page = starting_page(self._service.phase, self._service.percent)
        return HTMLResponse(page, 503, headers={"Retry-After": "2"})


@dataclass(frozen=True, slots=True)
class Guard:
    """Say whom the edge lets in.

    Attributes:
        keyring: The keys that open what is closed; None leaves it open.
        has_open_metrics: Whether `/metrics` asks for no key.
        max_body_bytes: The largest body.
        body_timeout_s: How long a body may take to arrive.
        cors_origins: The origins whose pages may ask `/v1`; none closes it to all of them.
    """

    keyring: Keyring | None
    has_open_metrics: bool
    max_body_bytes: int
    body_timeout_s: float
    cors_origins: tuple[str, ...] = ()

    def asks_for_key(self, path: str) -> bool:
        """Return whether a path is closed to strangers."""
        is_closed = path.startswith(API_PATH) or (path == METRICS_PATH and not self.has_open_metrics)
        return is_closed and self.keyring is not None


class Edge:
    """Give every request an id, keep strangers and giants out, and tell the log, the numbers and the traces.

    Args:
        application: What answers who is let in.
        guard: Whom to let in.
        metrics: What counts requests.
        tracing: What follows them; None where nobody wants to know.
    """

    def __init__(
        self, application: ASGIApp, guard: Guard, metrics: Metrics, tracing: Tracing | None = None
    ) -> None:
        self._application = application
        self._guard = guard
        self._metrics = metrics
        self._tracing = tracing
        self._api: ASGIApp = self._let_in
        if guard.cors_origins:
            self._api = CORSMiddleware(
                self._let_in,
                allow_origins=guard.cors_origins,
                allow_methods=("GET", "POST"),
                # The official client sends a dozen headers of its own; no cookie is among what is allowed.
                allow_headers=("*",),
                expose_headers=EXPOSED_HEADERS,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        context = RequestContext(_request_id(headers.get("x-request-id", "")))
        scope["state"] = {**scope.get("state", {}), "request_id": context.request_id, "context": context}
        reply = _Reply(scope, send, context.request_id)
        span = self._begin_span(scope, headers, context)
        token = REQUEST_CONTEXT.set(context)
        try:
            enter = self._api if scope["path"].startswith(API_PATH) else self._let_in
            await enter(scope, receive, reply.send)
        finally:
            try:
                self._conclude(context, reply, span)
            finally:
                REQUEST_CONTEXT.reset(token)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope["state"]["context"]
        try:
            _check_head(scope)
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            if self._guard.asks_for_key(scope["path"]):
                context.key_name = self._authenticate(headers)
            scope["state"]["key_name"] = context.key_name
            await self._application(scope, self._limit(headers, receive, context), send)
        except ApiError as error:
            context.refusal = error.code
            await JSONResponse(error.to_json(), error.status, error.headers)(scope, receive, send)

    def _authenticate(self, headers: dict[str, str]) -> str:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        keyring = self._guard.keyring
        name = keyring.find(key.strip()) if keyring is not None and scheme.lower() == "bearer" else None
        if name is None:
            raise UnauthorizedError(
                "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return name

    def _limit(self, headers: dict[str, str], receive: Receive, context: RequestContext) -> Receive:
        """Return a `receive` that refuses a body that is too large, announced or not, or too slow."""
        most, patience_s = self._guard.max_body_bytes, self._guard.body_timeout_s
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > most:
            raise _too_large(most)
        received, is_whole, deadline = 0, False, None

        async def limited() -> Message:
            nonlocal received, is_whole, deadline
            if is_whole:
                return await receive()
            deadline = deadline or asyncio.get_running_loop().time() + patience_s
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                context.refusal = SlowBodyError.code
                raise _too_slow(patience_s) from None
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if received > most:
                context.refusal = TooLargeError.code
                raise _too_large(most)
            return message

        return limited

    def _begin_span(self, scope: Scope, headers: dict[str, str], context: RequestContext) -> Span | None:
        if self._tracing is None or not scope["path"].startswith(API_PATH):
            return None
        span = self._tracing.begin(scope["method"], headers)
        context.trace_id = f"{span.get_span_context().trace_id:032x}"
        return span

    def _conclude(self, context: RequestContext, reply: _Reply, span: Span | None) -> None:
        route = _route_of(reply.scope)
        method = reply.scope["method"]
        if context.refusal is not None:
            self._metrics.count_refusal(context.refusal)
        self._metrics.count_http(method, route, reply.status, reply.duration_s)
        if self._tracing is not None and span is not None:
            self._tracing.end(span, context, method, route, reply.status)
        path = reply.scope["path"]
        if path.startswith(LOGGED_PATHS):
            _log_access(context, reply)


class _Reply:
    """Watch one answer go out: add the headers that all have, note the status."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.scope = scope
        self.status = 0
        self._send = send
        self._request_id = request_id
        self._started_at = time.monotonic()
        self._is_page = not scope["path"].startswith(API_PATH)

    @property
    def duration_s(self) -> float:
        """Return how long it has taken so far."""
        return time.monotonic() - self._started_at

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._request_id.encode())]
            message["headers"] = [*headers, *(PAGE_HEADERS if self._is_page else API_HEADERS)]
        await self._send(message)


def make_application(
    service: Service,
    settings: Settings,
    identity: Identity,
    chat_page: ChatPage,
    tracing: Tracing | None = None,
) -> ASGIApp:
    """Return the whole application."""

    async def healthz(_request: Request) -> Response:
        if service.state == "failed":
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if service.state == "ready":
            return JSONResponse({"status": "ready"})
        document: dict[str, Any] = {"status": service.state}
        if service.state == "starting":
            document |= {"phase": service.phase, "percent": service.percent}
        return JSONResponse(document, 503, {"Retry-After": "5"})

    async def version(_request: Request) -> Response:
        return JSONResponse(version_document(service, identity))

    async def metrics(request: Request) -> Response:
        text, content_type = numbers.render(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    numbers = Metrics(VERSION, identity.release, identity.revision)
    service.observers.append(numbers)
    if settings.log_prompts:
        service.observers.append(PromptLog())
    keyring = Keyring(settings.api_keys)
    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/version", version),
        *([Route(METRICS_PATH, metrics)] if settings.metrics != "off" else []),
        Mount("/v1", make_api(service, settings.heartbeat_s)),
        Mount("/", SignIn(chat_page, keyring) if settings.chat_sign_in else chat_page),
    ]
    guard = Guard(
        keyring=keyring if settings.auth else None,
        has_open_metrics=settings.metrics != "on",
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        cors_origins=settings.cors_origins,
    )
    application = Starlette(routes=routes, exception_handlers={404: _answer_nowhere})
    return Edge(application, guard, numbers, tracing)


def version_document(service: Service, identity: Identity) -> dict[str, Any]:
    """Return what `/version` says: by it a deployment proves which release answers."""
    bases = [model.name for model in service.models if model.parent is None]
    return {
        "release": identity.release,
        "version": VERSION,
        "revision": identity.revision,
        "replica": identity.replica,
        "started_at": identity.started_at,
        "base_model": bases[0] if bases else None,
        "adapters": [model.name for model in service.models if model.parent is not None],
        "ready": service.state == "ready",
    }


async def _answer_nowhere(request: Request, _error: Exception) -> Response:
    """Answer a path that no route takes, mounted ones included: one with a line break in it."""
    if not request.url.path.startswith(API_PATH):
        return Response("There is nothing here.\n", 404, media_type="text/plain")
    error = NotFoundError("There is no such path.", code="unknown_url")
    return JSONResponse(error.to_json(), error.status)


def _request_id(wanted: str) -> str:
    """Return the client's own id where it is harmless to log and to send back, else a new one."""
    return wanted if REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex


def _route_of(scope: Scope) -> str:
    """Return the pattern of a request's path, one of a fixed few; clients make up the rest."""
    path: str = scope["path"]
    if path in KNOWN_PATHS:
        return path
    route: Any = scope.get("route")
    # A mount has a path too, and is what matched where nothing below it did.
    is_known = path.startswith(API_PATH + "/") and hasattr(route, "methods")
    return f"{API_PATH}{route.path}" if is_known else "other"


def _log_access(context: RequestContext, reply: _Reply) -> None:
    fields: dict[str, Any] = {
        "method": reply.scope["method"],
        "path": reply.scope["path"],
        "status": reply.status,
        "duration_ms": round(reply.duration_s * 1000, 1),
        "key": context.key_name,
    }
    text = "%s %s %d %.0f ms key=%s request=%s"
    values = [*fields.values(), context.request_id]
    if context.passages:
        answer = _answer_fields(context.passages)
        fields |= answer
        text += "".join(f" {name}=%s" for name in answer)
        values += answer.values()
    LOGGER.info(text, *values, extra={"fields": fields})


def _answer_fields(passages: list[Passage]) -> dict[str, Any]:
    first = passages[0]
    first_token_s = first.time_to_first_token_s
    return {
        "model": first.request.model,
        "prompt_tokens": sum(passage.prompt_tokens for passage in passages),
        "completion_tokens": sum(passage.completion_tokens for passage in passages),
        "finish_reason": ",".join(dict.fromkeys(name for each in passages for name in each.outcomes)),
        "time_to_first_token_s": None if first_token_s is None else round(first_token_s, 4),
    }


def _check_head(scope: Scope) -> None:
    """Refuse a first line or headers beyond any use.

    Raises:
        HeadersTooLargeError: If they are.
    """
    target = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if target > MAX_TARGET_BYTES:
        raise HeadersTooLargeError(f"The address is longer than {MAX_TARGET_BYTES} bytes.")
    if len(scope["headers"]) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise HeadersTooLargeError(
            f"There are more than {MAX_HEADERS} headers, or more than {MAX_HEADER_BYTES} bytes of them."
        )


def _too_slow(patience_s: float) -> SlowBodyError:
    return SlowBodyError(f"The body did not arrive within {patience_s:g} s.", headers={"Connection": "close"})


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than {most} bytes, which is the most this server takes.")
