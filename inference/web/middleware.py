"""Wrap the application: assign request ids, authenticate, limit sizes, record logs, metrics and traces.

The rules for who may enter are in `access`; this module applies them to each request.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from inference.errors import ApiError
from inference.service.lifecycle import REQUEST_CONTEXT, RequestContext
from inference.web.access import API_PATH, METRICS_PATH, ROOT_PATHS, check_head, check_path
from inference.web.messages_api.errors import error_body, is_messages_path

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from inference.observability.metrics import Metrics
    from inference.observability.tracing import Tracing
    from inference.service.lifecycle import RequestLifecycle
    from inference.web.access import AccessPolicy

LOGGER: Final = logging.getLogger("inference.access")
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOGGED_PATHS: Final = (API_PATH, "/version")
KNOWN_PATHS: Final = frozenset({"/", "/healthz", "/readyz", "/version", METRICS_PATH, "/login", "/logout"})

EXPOSED_HEADERS: Final = ("x-request-id", "request-id", "Retry-After", "x-should-retry")
"""The response headers that a browser shows to a page of another origin, besides the usual ones."""

CONTENT_DIRECTIVES: Final = (
    "default-src 'self'",
    # Gradio has scripts in its page, and compiles the templates of its components.
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-src 'none'",
    "frame-ancestors 'self'",
    "base-uri 'self'",
    "object-src 'none'",
)
"""A page loads from this server only, and sends to it only, whatever a model writes."""

API_HEADERS: Final = ((b"x-content-type-options", b"nosniff"),)
PAGE_HEADERS: Final = (
    *API_HEADERS,
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"content-security-policy", "; ".join(CONTENT_DIRECTIVES).encode()),
    (b"referrer-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)


class RequestMiddleware:
    """The ASGI middleware around all routes.

    Args:
        application: Answers the requests that may enter.
        policy: Which requests may enter.
        metrics: Counts requests.
        tracing: Traces requests; None if traces are off.
    """

    def __init__(
        self, application: ASGIApp, policy: AccessPolicy, metrics: Metrics, tracing: Tracing | None = None
    ) -> None:
        self._application = application
        self._policy = policy
        self._metrics = metrics
        self._tracing = tracing
        self._api: ASGIApp = self._admit
        if policy.cors_origins:
            self._api = CORSMiddleware(
                self._admit,
                allow_origins=policy.cors_origins,
                allow_methods=("GET", "POST"),
                # The official client sends a dozen headers of its own; the wildcard does not allow cookies.
                allow_headers=("*",),
                expose_headers=EXPOSED_HEADERS,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and record it however it ends."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if scope["path"] in ROOT_PATHS:
            scope = {**scope, "path": API_PATH + scope["path"]}
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        context = RequestContext(_request_id(headers.get("x-request-id", "")))
        scope["state"] = {**scope.get("state", {}), "request_id": context.request_id, "context": context}
        response = ResponseRecorder(scope, send, context.request_id)
        span = self._begin_span(scope, headers, context)
        token = REQUEST_CONTEXT.set(context)
        try:
            application = self._api if scope["path"].startswith(API_PATH) else self._admit
            await application(scope, receive, response.send)
        finally:
            try:
                self._record(context, response, span)
            finally:
                REQUEST_CONTEXT.reset(token)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if the policy allows it, else send the error."""
        context: RequestContext = scope["state"]["context"]
        try:
            check_head(scope)
            check_path(scope["path"])
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            if self._policy.requires_key(scope["path"]):
                context.key_name = self._policy.authenticate(headers, scope["path"])
            scope["state"]["key_name"] = context.key_name
            await self._application(scope, self._policy.limit_body(headers, receive, context), send)
        except ApiError as error:
            context.rejection_code = error.code
            response = JSONResponse(error_body(error, scope), error.status, error.headers)
            await response(scope, receive, send)

    def _begin_span(self, scope: Scope, headers: dict[str, str], context: RequestContext) -> Span | None:
        if self._tracing is None or not scope["path"].startswith(API_PATH):
            return None
        span = self._tracing.begin(scope["method"], headers)
        context.trace_id = f"{span.get_span_context().trace_id:032x}"
        return span

    def _record(self, context: RequestContext, response: ResponseRecorder, span: Span | None) -> None:
        """Write a finished request to the metrics, its trace and the access log."""
        route = _route_of(response.scope)
        method = response.scope["method"]
        if context.rejection_code is not None:
            self._metrics.count_rejection(context.rejection_code)
        self._metrics.count_http(method, route, response.status, response.duration_s)
        if self._tracing is not None and span is not None:
            self._tracing.end(span, context, method, route, response.status)
        if response.scope["path"].startswith(LOGGED_PATHS):
            _log_access(context, response)


class ResponseRecorder:
    """One response on its way out: adds the common headers and records the status.

    Attributes:
        status: 0 until the response has begun.
    """

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.scope = scope
        self.status = 0
        self._send = send
        self._request_id = request_id
        self._started_at = time.monotonic()
        self._is_page = not scope["path"].startswith(API_PATH)

    @property
    def duration_s(self) -> float:
        """Return the seconds since the request arrived."""
        return time.monotonic() - self._started_at

    async def send(self, message: Message) -> None:
        """Send a message of the response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *self._id_headers()]
            message["headers"] = [*headers, *(PAGE_HEADERS if self._is_page else API_HEADERS)]
        await self._send(message)

    def _id_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers with the request's id, for which Anthropic's clients have another name."""
        names = [b"x-request-id", *([b"request-id"] if is_messages_path(self.scope["path"]) else [])]
        return [(name, self._request_id.encode()) for name in names]


def _request_id(requested: str) -> str:
    """Return the client's own id if it is safe to log and to send back, else a new one."""
    return requested if REQUEST_ID.fullmatch(requested) else uuid.uuid4().hex


def _route_of(scope: Scope) -> str:
    """Return the pattern of a request's path, to label metrics: one of a fixed few, or `other`."""
    path: str = scope["path"]
    if path in KNOWN_PATHS:
        return path
    route: Any = scope.get("route")
    # A mount has a path too, and is the match where no route below it matched.
    is_known = path.startswith(API_PATH + "/") and hasattr(route, "methods")
    return f"{API_PATH}{route.path}" if is_known else "other"


def _log_access(context: RequestContext, response: ResponseRecorder) -> None:
    fields: dict[str, Any] = {
        "method": response.scope["method"],
        "path": _on_one_line(response.scope["path"]),
        "status": response.status,
        "duration_ms": round(response.duration_s * 1000, 1),
        "key": context.key_name,
    }
    text = "%s %s %d %.0f ms key=%s request=%s"
    values = [*fields.values(), context.request_id]
    if context.lifecycles:
        answer = _answer_fields(context.lifecycles)
        fields |= answer
        text += "".join(f" {name}=%s" for name in answer)
        values += answer.values()
    LOGGER.info(text, *values, extra={"fields": fields})


def _answer_fields(lifecycles: list[RequestLifecycle]) -> dict[str, Any]:
    first = lifecycles[0]
    first_token_s = first.time_to_first_token_s
    return {
        "model": first.request.model,
        "prompt_tokens": sum(lifecycle.prompt_tokens for lifecycle in lifecycles),
        "completion_tokens": sum(lifecycle.completion_tokens for lifecycle in lifecycles),
        "finish_reason": ",".join(dict.fromkeys(name for each in lifecycles for name in each.outcomes)),
        "time_to_first_token_s": None if first_token_s is None else round(first_token_s, 4),
    }


def _on_one_line(path: str) -> str:
    """Return a path for the log, in which a decoded line break must not begin a line that looks like ours."""
    return path if path.isprintable() else quote(path)
