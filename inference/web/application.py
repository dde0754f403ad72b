"""Build the ASGI application: the routes, their handlers and the middleware around them.

Loading the model and ending the process are the concern of `server`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, request_response

from inference import VERSION
from inference.control import ReplicaState
from inference.errors import NotFoundError
from inference.observability.logs import PromptLog
from inference.observability.metrics import Metrics
from inference.service.adapters import Adapters
from inference.web.access import API_PATH, METRICS_PATH, AccessPolicy
from inference.web.api import make_api
from inference.web.extensions.adapters import AdapterAdministration
from inference.web.keyring import Keyring
from inference.web.messages_api.errors import error_body
from inference.web.middleware import RequestMiddleware
from inference.web.pages import starting_page
from inference.web.sign_in.middleware import SignIn
from inference.web.sign_in.sessions import EndedSessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from inference.observability.tracing import Tracing
    from inference.service.service import Service
    from inference.settings import Settings

READ_METHODS: Final = ("GET", "HEAD")

ENDED_SESSIONS_FOLDER: Final = "ended-sessions"
"""The folder on the share with a file for each session that was signed out."""


def make_application(  # noqa: PLR0913 - the parts of an application
    service: Service,
    settings: Settings,
    identity: Identity,
    chat_page: ChatPage,
    tracing: Tracing | None = None,
    *,
    keyring: Keyring | None = None,
    adapters: Adapters | None = None,
) -> ASGIApp:
    """Return the whole application.

    Args:
        service: The service.
        settings: The settings.
        identity: The names of this server.
        chat_page: The chat page.
        tracing: Records traces; None if nothing does.
        keyring: The API keys, which may change; None if they are those of the settings, and stay.
        adapters: What changes the service's adapters; None if nothing else does.
    """
    metrics = Metrics(VERSION, identity.release, identity.revision)
    service.observers.append(metrics)
    if settings.log_prompts:
        service.observers.append(PromptLog())
    keyring = keyring or Keyring(settings.api_keys)
    administration = AdapterAdministration(
        adapters or Adapters(service), settings.mount, has_key=bool(settings.admin_key)
    )
    api = make_api(service, settings.heartbeat_s, administration)
    status = StatusHandlers(service, identity, metrics, chat_page)
    routes = make_routes(settings, status, api, chat_page, keyring)
    policy = AccessPolicy(
        keyring=keyring if settings.auth else None,
        has_open_metrics=settings.metrics != "on",
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        cors_origins=settings.cors_origins,
        admin_keyring=Keyring(settings.admin_key) if settings.admin_key else None,
    )
    application = Starlette(routes=routes, exception_handlers={404: _answer_not_found})
    return RequestMiddleware(application, policy, metrics, tracing)


def make_routes(
    settings: Settings, status: StatusHandlers, api: ASGIApp, chat_page: ASGIApp, keyring: Keyring
) -> list[Route | Mount]:
    """Return the application's routes."""
    ended_sessions = EndedSessions(settings.mount / ENDED_SESSIONS_FOLDER)
    return [
        Route("/healthz", ReadOnly(status.healthz)),
        Route("/readyz", ReadOnly(status.readyz)),
        Route("/version", ReadOnly(status.version)),
        *([Route(METRICS_PATH, ReadOnly(status.metrics))] if settings.metrics != "off" else []),
        Mount(API_PATH, api),
        Mount("/", SignIn(chat_page, keyring, ended_sessions) if settings.chat_sign_in else chat_page),
    ]


class ReadOnly:
    """A handler of GET and HEAD, which answers 405 to other methods. An ASGI application.

    A route that is limited to methods passes the others on to the chat page below it, which answers 404.
    """

    def __init__(self, handler: Callable[[Request], Awaitable[Response]]) -> None:
        self.__doc__ = handler.__doc__  # the reference describes each path by it
        self._application = request_response(handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["method"] in READ_METHODS:
            await self._application(scope, receive, send)
            return
        text = f"{scope['path']} does not take {scope['method']}.\n"
        response = PlainTextResponse(text, 405, {"Allow": ", ".join(READ_METHODS)})
        await response(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Identity:
    """The names by which `/version` identifies this server.

    Attributes:
        started_at: ISO 8601, UTC.
        state: Returns what the replica's supervisor reports.
    """

    release: str
    revision: str
    replica: str
    started_at: str
    state: Callable[[], ReplicaState] = ReplicaState


class StatusHandlers:
    """The handlers of the routes for probes, deployments and monitoring."""

    def __init__(self, service: Service, identity: Identity, metrics: Metrics, chat_page: ChatPage) -> None:
        self._service = service
        self._identity = identity
        self._metrics = metrics
        self._chat_page = chat_page

    async def healthz(self, _request: Request) -> Response:
        """Answer 200 unless the engine has failed: for liveness probes."""
        if self._service.state == "failed":
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """Answer 200 while requests are accepted, with the progress of the start before that."""
        service = self._service
        # A server that holds requests has to get them.
        if service.state == "ready" or (service.state == "starting" and service.holds_requests.is_set()):
            return JSONResponse({"status": "ready"})
        document: dict[str, Any] = {"status": service.state}
        if service.state == "starting":
            document |= {"phase": service.phase, "percent": service.percent}
        return JSONResponse(document, 503, {"Retry-After": "5"})

    async def version(self, _request: Request) -> Response:
        """Answer with the release and the models: a deployment checks here which release is live."""
        service = self._service
        # Before it serves, a server knows its progress better than the supervisor.
        state = self._identity.state()
        if service.state == "starting":
            state = replace(state, phase=service.phase, percent=service.percent)
        bases = [model.name for model in service.models if model.parent is None]
        served = {model.name for model in service.models}
        failed = [
            {"name": name, "reason": reason, "needs_restart": name in service.awaiting_restart}
            for name, reason in service.failed_adapters.items()
        ]
        return JSONResponse(
            {
                "release": self._identity.release,
                "version": VERSION,
                "revision": self._identity.revision,
                "replica": self._identity.replica,
                "started_at": self._identity.started_at,
                "base_model": bases[0] if bases else None,
                "adapters": [
                    listed.name
                    for listed in service.listed_models
                    if listed.model.parent is not None and not listed.is_second_name
                ],
                "adapter_versions": [
                    {"name": each.name, "version": each.number, "digest": each.version}
                    for each in service.names.versions
                    if service.names.find(each.name, served) is not None
                ],
                # A release whose chat page cannot be built must not pass for one that serves.
                "ready": service.state == "ready" and self._chat_page.application is not None,
                **({"failed_adapters": failed} if failed else {}),
                "adapter_generation": service.adapter_generation,
                **state.to_json(),
            }
        )

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics, in the text format that the request accepts."""
        text, content_type = self._metrics.render(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)


class ChatPage:
    """The chat page: a page with the progress of the start until the chat is ready. An ASGI application.

    Attributes:
        application: The chat; None until it is ready.
    """

    def __init__(self, service: Service) -> None:
        self.application: ASGIApp | None = None
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the chat, or with the progress of the start."""
        if self.application is not None:
            await self.application(scope, receive, send)
        elif scope["type"] == "http":
            await self._starting_page(Request(scope))(scope, receive, send)

    def _starting_page(self, request: Request) -> Response:
        if request.url.path != "/":
            return Response("There is nothing here.\n", 404, media_type="text/plain")
        page = starting_page(self._service.phase, self._service.percent)
        return HTMLResponse(page, 503, headers={"Retry-After": "2"})


async def _answer_not_found(request: Request, _error: Exception) -> Response:
    """Answer a path that no route matches, mounts included: one with a line break in it."""
    if not request.url.path.startswith(API_PATH):
        return Response("There is nothing here.\n", 404, media_type="text/plain")
    error = NotFoundError("There is no such path.", code="unknown_url")
    return JSONResponse(error_body(error, request.scope), error.status)
